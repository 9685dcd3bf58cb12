//! What a folder has, at the start.

use super::disk::Disk;
use super::names::FrameKey;
use super::notes;
use super::segment::{self, Page, Segment};
use super::{Archive, FORGOTTEN, Forgotten, log};
use crate::frame::{Frame, Shared};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// What came back, and what did not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    pub frames: usize,
    pub blocks: usize,
    pub rows_replayed: u64,
    /// Places in files that made no sense; what they held is lost.
    pub damaged: u64,
    /// Files of a later version, left alone; and those that could not be read, with why.
    pub newer: Vec<String>,
    pub unreadable: Vec<(String, String)>,
}

/// What was found of one frame.
type Found = HashMap<Name, (FrameKey, Vec<Page>)>;

/// A frame's key in a form to look up by; schemas are compared by what they say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Name {
    instance: crate::InstanceId,
    sampler: Arc<str>,
    born: u64,
}

impl Name {
    fn of(key: &FrameKey) -> Self {
        Self { instance: key.instance.clone(), sampler: key.schema.sampler().clone(), born: key.born }
    }
}

/// Reads everything; the archive then goes on from there.
pub(crate) fn restore(
    disk: Arc<dyn Disk>,
    shared: &Arc<Shared>,
) -> io::Result<(Archive, Vec<Arc<Frame>>, notes::Values, Restored)> {
    let mut restored = Restored::default();
    let mut names = disk.list()?;
    names.sort_unstable();
    // Left behind by one who was writing it.
    names.retain(|name| !name.starts_with("tmp-") || disk.remove(name).is_err());
    let numbered = |parse: &dyn Fn(&str) -> Option<u64>| -> BTreeMap<u64, String> {
        names.iter().filter_map(|name| Some((parse(name)?, name.clone()))).collect()
    };
    let notes_files = numbered(&notes::parse_name);
    let logs = numbered(&log::parse_name);
    let segment_files = numbered(&|name| segment::parse_name(name).map(|(_, number, _)| number));
    let last = [&notes_files, &logs, &segment_files].into_iter().filter_map(|files| files.keys().next_back()).max();

    let mut values = notes::Values::new();
    for name in notes_files.values() {
        match notes::read(&*disk, name, &mut values) {
            Ok((damaged, newer)) => restored.count(name, damaged, newer),
            Err(error) => restored.unreadable(name, &error),
        }
    }
    let forgotten: HashMap<String, Forgotten> = values
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(FORGOTTEN)?.to_owned(), Forgotten::read(value)?)))
        .collect();
    let is_forgotten =
        |key: &FrameKey| forgotten.get(key.instance.as_str()).is_some_and(|forgotten| key.born < forgotten.born_before);

    let mut next_born = forgotten.values().map(|forgotten| forgotten.born_before).max().unwrap_or(0);
    let mut found = Found::new();
    let mut segments = BTreeMap::new();
    let mut replaced = HashSet::new();
    let loaded =
        in_parallel(segment_files.iter().collect(), |(number, name)| (number, name, Segment::load(&*disk, name)));
    for (number, name, loaded) in loaded {
        match loaded {
            Ok((_, loaded)) if loaded.newer => restored.newer.push(name.clone()),
            Ok((segment, loaded)) => {
                restored.damaged += loaded.damaged;
                replaced.extend(loaded.replaces);
                for (key, pages) in loaded.frames {
                    next_born = next_born.max(key.born + 1);
                    if !is_forgotten(&key) {
                        found.entry(Name::of(&key)).or_insert_with(|| (key, Vec::new())).1.extend(pages);
                    }
                }
                segments.insert(*number, segment);
            }
            Err(error) => restored.unreadable(name, &error),
        }
    }
    let segments_left = segments.iter().filter(|(number, _)| !replaced.contains(number));
    let mut archive = Archive::new(disk.clone(), last.copied().unwrap_or(0));
    archive.segments = segments_left.map(|(number, segment)| (*number, segment.clone())).collect();
    for number in &replaced {
        if let Some(name) = segment_files.get(number) {
            // It will be passed over again, if it stays.
            let _ = disk.remove(name);
        }
    }

    let built = in_parallel(found.into_iter().collect(), |(name, (key, mut pages))| {
        pages.retain(|page| page.place.file().is_none_or(|number| !replaced.contains(&number)));
        in_order(&mut pages);
        let blocks = pages.len();
        (name, Arc::new(Frame::restored(key, shared.clone(), pages)), blocks)
    });
    restored.blocks = built.iter().map(|(_, _, blocks)| blocks).sum();
    let frames: HashMap<Name, Arc<Frame>> = built.into_iter().map(|(name, frame, _)| (name, frame)).collect();
    let (frames, next_born) = (Mutex::new(frames), AtomicU64::new(next_born));
    for name in logs.values() {
        let replayed = log::read(&*disk, name, &|key| {
            next_born.fetch_max(key.born + 1, Ordering::Relaxed);
            if is_forgotten(key) {
                return None;
            }
            let new = || Arc::new(Frame::new(key.clone(), shared.clone()));
            let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
            Some(frames.entry(Name::of(key)).or_insert_with(new).clone())
        });
        match replayed {
            Ok(replayed) => {
                restored.rows_replayed += replayed.rows;
                restored.count(name, replayed.damaged, replayed.newer);
            }
            Err(error) => restored.unreadable(name, &error),
        }
    }
    // What could not be read is left alone.
    let kept =
        |name: &String| !restored.newer.contains(name) && !restored.unreadable.iter().any(|(left, _)| left == name);
    archive.superfluous = logs.into_values().filter(kept).collect();
    archive.notes = notes::Notes::replacing(notes_files.into_values().filter(kept).collect());
    archive.next_born = next_born.into_inner();
    let frames = frames.into_inner().unwrap_or_else(PoisonError::into_inner);
    restored.frames = frames.len();
    Ok((archive, frames.into_values().collect(), values, restored))
}

/// Does the same with each, on as many threads as there are processors, where that is worth it; in any order.
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

/// Sorts pages as they follow each other; of two of one generation that overlap the longer stays: it was sealed again.
fn in_order(pages: &mut Vec<Page>) {
    pages.sort_by_key(|page| (page.generation, page.first_ms, std::cmp::Reverse(page.rows)));
    let mut last: Option<(u32, i64)> = None;
    pages.retain(|page| {
        let again = last.is_some_and(|(generation, end)| generation == page.generation && page.first_ms <= end);
        if !again {
            last = Some((page.generation, page.last_ms));
        }
        !again
    });
}

impl Restored {
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
