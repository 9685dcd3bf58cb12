//! Reads a folder at the start.

use super::definitions::FrameKey;
use super::disk::Disk;
use super::log::{self, LoggedRows};
use super::notes;
use super::removed_frames::RemovedFrames;
use super::segment::{self, FramePages, Segment};
use super::unread_history::UnreadHistory;
use super::{Archive, FORGOTTEN, ForgottenNote};
use crate::frame::{Frame, StoreResources};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// The result of a restore: what was found, and what could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreReport {
    pub frames: usize,
    /// Rows in logs. Some of them are in blocks too.
    pub logged_rows: u64,
    /// Corrupt places in files. Their contents are lost.
    pub damaged: u64,
    /// Names of files of a later version, which are left alone.
    pub newer: Vec<String>,
    /// Names of files that could not be read, and the error.
    pub unreadable: Vec<(String, String)>,
}

/// A file's contents, or why it could not be read.
enum LoadedFile {
    Segment(io::Result<(Arc<Segment>, segment::LoadedSegment)>),
    Log(io::Result<log::LoadedLog>),
}

/// Reads a folder. The archive continues from its state.
pub(crate) fn restore(
    disk: Arc<dyn Disk>,
    shared: &Arc<StoreResources>,
) -> io::Result<(Archive, Vec<Arc<Frame>>, notes::NoteValues, RestoreReport)> {
    let mut restored = RestoreReport::default();
    let mut names = disk.list()?;
    names.sort_unstable();
    // An unfinished merge of a process that was stopped.
    names.retain(|name| !name.starts_with("tmp-") || disk.remove(name).is_err());
    let numbered = |parse: &dyn Fn(&str) -> Option<u64>| -> BTreeMap<u64, String> {
        names.iter().filter_map(|name| Some((parse(name)?, name.clone()))).collect()
    };
    let notes_files = numbered(&notes::parse_name);
    let logs = numbered(&log::parse_name);
    let segment_files = numbered(&|name| segment::parse_name(name).map(|(_, number, _)| number));
    let last = [&notes_files, &logs, &segment_files].into_iter().filter_map(|files| files.keys().next_back()).max();

    let mut values = notes::NoteValues::new();
    for name in notes_files.values() {
        match notes::read(&*disk, name, &mut values) {
            Ok((damaged, newer)) => restored.count(name, damaged, newer),
            Err(error) => restored.unreadable(name, &error),
        }
    }
    let forgotten: HashMap<String, ForgottenNote> = values
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(FORGOTTEN)?.to_owned(), ForgottenNote::read(value)?)))
        .collect();
    let removed = RemovedFrames::of(&values);
    let is_forgotten = |key: &FrameKey| {
        let noted = forgotten.get(key.instance.as_str());
        removed.has(key.born) || noted.is_some_and(|forgotten| key.born < forgotten.born_before)
    };

    // Logs take longest, so they are at the end: `in_parallel` takes items from there.
    let files: Vec<(bool, u64, &String)> = (segment_files.iter().map(|(number, name)| (false, *number, name)))
        .chain(logs.iter().map(|(number, name)| (true, *number, name)))
        .collect();
    let mut loaded = in_parallel(files, |(is_log, number, name)| {
        let loaded = match is_log {
            true => LoadedFile::Log(log::load(&*disk, name)),
            false => LoadedFile::Segment(Segment::load(&*disk, name)),
        };
        (number, name, loaded)
    });
    loaded.sort_unstable_by_key(|(number, ..)| *number);

    let mut replaced = HashSet::new();
    let mut segments = BTreeMap::new();
    let mut listed: Vec<(u64, Vec<(FrameKey, FramePages)>)> = Vec::new();
    let mut logged: Vec<(FrameKey, LoggedRows)> = Vec::new();
    for (number, name, loaded) in loaded {
        match loaded {
            LoadedFile::Segment(Ok((segment, loaded))) => {
                restored.count(name, loaded.damaged, loaded.newer);
                if !loaded.newer {
                    replaced.extend(loaded.replaces);
                    segments.insert(number, segment);
                    listed.push((number, loaded.frames));
                }
            }
            LoadedFile::Log(Ok(loaded)) => {
                restored.count(name, loaded.damaged, loaded.newer);
                logged.extend(loaded.frames);
            }
            LoadedFile::Segment(Err(error)) | LoadedFile::Log(Err(error)) => restored.unreadable(name, &error),
        }
    }
    let before = forgotten.values().map(|forgotten| forgotten.born_before);
    let mut next_born = before.max().unwrap_or(0).max(removed.end());
    let mut is_known = |key: &FrameKey| {
        next_born = next_born.max(key.born + 1);
        !is_forgotten(key)
    };
    let mut found: HashMap<FrameKey, UnreadHistory> = HashMap::new();
    for (number, frames) in listed {
        let is_replaced = replaced.contains(&number);
        for (key, listed) in frames.into_iter().filter(|(key, _)| is_known(key) && !is_replaced) {
            found.entry(key).or_default().listed.push(listed);
        }
    }
    for (key, logged) in logged.into_iter().filter(|(key, _)| is_known(key)) {
        restored.logged_rows += logged.rows;
        found.entry(key).or_default().logged.push(logged);
    }

    segments.retain(|number, _| !replaced.contains(number));
    for number in &replaced {
        if let Some(name) = segment_files.get(number) {
            // If it cannot be deleted, the next start ignores it again.
            let _ = disk.remove(name);
        }
    }
    // Files that could not be read are left alone.
    let kept =
        |name: &String| !restored.newer.contains(name) && !restored.unreadable.iter().any(|(left, _)| left == name);
    let mut archive = Archive::new(disk.clone(), shared.clone(), last.copied().unwrap_or(0));
    archive.segments = segments;
    let size = |name: &String| disk.open(name).and_then(|file| file.size()).unwrap_or(0);
    archive.superfluous = logs.into_values().filter(kept).map(|name| (name.clone(), size(&name))).collect();
    archive.notes = notes::Notes::replacing(notes_files.into_values().filter(kept).collect());
    archive.next_born = next_born;
    let frame = |(key, unread)| Arc::new(Frame::unread(key, shared.clone(), unread));
    let frames: Vec<_> = found.into_iter().map(frame).collect();
    restored.frames = frames.len();
    Ok((archive, frames, values, restored))
}

/// Applies `work` to each item, on as many threads as there are processors, unless there are few items. The results are
/// in any order.
fn in_parallel<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    const FEW: usize = 8;
    let threads = thread::available_parallelism().map_or(1, usize::from);
    if threads == 1 || items.len() < FEW {
        return items.into_iter().map(work).collect();
    }
    let (items, done) = (Mutex::new(items), Mutex::new(Vec::new()));
    let take = || items.lock().unwrap_or_else(PoisonError::into_inner).pop();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = Vec::new();
                while let Some(item) = take() {
                    own.push(work(item));
                }
                done.lock().unwrap_or_else(PoisonError::into_inner).append(&mut own);
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl RestoreReport {
    fn count(&mut self, name: &str, damaged: u64, newer: bool) {
        self.damaged += damaged;
        if newer {
            self.newer.push(name.to_owned());
        }
    }

    fn unreadable(&mut self, name: &str, error: &io::Error) {
        self.unreadable.push((name.to_owned(), error.to_string()));
    }
}
