//! History on disk: one folder of append-only files.
//!
//! * `log-…`: rows that are in no chunk yet ([`log`]).
//! * `new-…`, `seg-…`: chunks of sealed blocks, by the time that the blocks begin in ([`segment`]). New files are
//!   merged into settled ones in the background ([`merge`]).
//! * `notes-…`: other values that survive a restart ([`notes`]).
//!
//! Every file defines the schemas and frames that it uses ([`definitions`]); every record has a checksum ([`record`]).
//! One thread writes. [`Archive::flush`] takes unwritten rows from the frames, so there is no queue that could
//! overflow. Rows that cannot be written wait in the ring until the ring drops them.
//!
//! # Layout
//!
//! * `log`, `segment`, `notes`: the kinds of files. `record`, `definitions`: their parts. `log_rows`: the form of rows
//!   in the log.
//! * `merge`: merges new files. `eviction`: chooses the files to delete when they take too much disk space.
//! * `restore`: reads a folder at the start. `unread_history`: the history of a frame until it is first used.
//!   `removed_frames`: the frames whose rows in files no longer count.
//! * `verify`: finds corrupt data.
//! * `disk`: files in one folder. `simulated_disk`, `crash`: tests of crashes.

#[cfg(test)]
mod crash;
mod definitions;
mod disk;
mod eviction;
mod log;
mod log_rows;
mod merge;
mod notes;
mod record;
pub(crate) mod removed_frames;
mod restore;
mod segment;
#[cfg(test)]
pub(crate) mod simulated_disk;
mod unread_history;
mod verify;

pub(crate) use definitions::FrameKey;
#[cfg(any(test, fuzzing))]
pub(crate) use disk::{AppendOnlyFile, ReadableFile};
pub(crate) use disk::{Disk, FolderSnapshot, HistoryFolder};
pub(crate) use eviction::EvictedFile;
pub(crate) use notes::{NoteValues, ShowNotes, fits};
pub use record::RecordTooLarge;
#[cfg(any(test, fuzzing))]
pub(crate) use record::with_checksums;
#[cfg(test)]
pub(crate) use record::{of_another_version, without_checksums};
pub use restore::RestoreReport;
pub(crate) use restore::restore;
pub(crate) use segment::{PageEntry, Segment};
pub(crate) use unread_history::UnreadHistory;
pub(crate) use verify::{FileRole, verify};

use crate::cache::BlockId;
use crate::codec::ByteReader;
use crate::frame::{BlockPlace, Blocks, Frame, FrameView, StoreResources};
use log::LogWriter;
use merge::PartitionMerge;
use notes::Notes;
use segment::SegmentWriter;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// The key prefix of notes about removed instances, as earlier versions wrote them. Rows of these instances in files no
/// longer count.
pub(crate) const FORGOTTEN: &str = "forgotten/";

/// A file that is being written is closed when it is larger than 1 / `FILES` of the disk limit, but not below
/// `SMALLEST` bytes.
const FILES: u64 = 64;
const SMALLEST: u64 = 256 << 10;

#[derive(Debug)]
pub(crate) struct Archive {
    disk: Arc<dyn Disk>,
    /// The number of the last file. Files are numbered in the order they were begun.
    next_number: u64,
    pub(crate) next_born: u64,
    kept: HashMap<u64, ArchivedFrame>,
    next_id: u32,
    /// Segments by number, also those that are being written.
    segments: BTreeMap<u64, Arc<Segment>>,
    /// Writers by the time that blocks begin in, and by their owner.
    writers: HashMap<(i64, Arc<str>), SegmentWriter>,
    /// Has the pools that count each owner's bytes on disk and in the log.
    shared: Arc<StoreResources>,
    log: Option<LogWriter>,
    /// Obsolete files and their sizes in bytes. They are deleted once the current log has been written.
    superfluous: Vec<(String, u64)>,
    notes: Notes,
    merge: Option<PartitionMerge>,
    /// The time of the last search for files with few live blocks.
    looked_ms: Option<i64>,
    /// Partitions whose merging failed, and when to retry.
    not_before: HashMap<i64, i64>,
    /// Numbers of segments that someone else deleted.
    vanished: HashSet<u64>,
    /// When a file was last found missing or cut short.
    vanished_at: Option<Instant>,
}

/// Some blocks of a frame, as pairs of old and new place.
type MovedBlocks = (Arc<Frame>, Vec<(BlockPlace, BlockPlace)>);

/// The archive's state of a frame.
#[derive(Debug)]
struct ArchivedFrame {
    /// The frame's id in files that this process writes.
    id: u32,
    /// Rows before this one are in the current log, or in a chunk.
    logged: u64,
    /// The number of the log that `logged` refers to.
    log: u64,
}

/// A frame at the time of a flush.
struct PendingFrame {
    frame: Arc<Frame>,
    id: u32,
    view: Arc<FrameView>,
    /// Rows before this one are in the log.
    logged: u64,
}

/// A note about a removed instance, as earlier versions wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ForgottenNote {
    /// The note is about frames with a lower number.
    pub(crate) born_before: u64,
    /// The last file that can hold such frames.
    pub(crate) last_file: u64,
}

/// The amounts that a flush wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlushStats {
    pub rows: u64,
    pub blocks: u64,
    pub bytes: u64,
}

impl Archive {
    fn new(disk: Arc<dyn Disk>, shared: Arc<StoreResources>, last_number: u64) -> Self {
        Self {
            disk,
            shared,
            next_number: last_number,
            next_born: 0,
            kept: HashMap::new(),
            next_id: 0,
            segments: BTreeMap::new(),
            writers: HashMap::new(),
            log: None,
            superfluous: Vec::new(),
            notes: Notes::default(),
            merge: None,
            looked_ms: None,
            not_before: HashMap::new(),
            vanished: HashSet::new(),
            vanished_at: None,
        }
    }

    /// Returns the highest number of a file so far.
    pub(crate) fn last_number(&self) -> u64 {
        self.next_number
    }

    /// Returns the size of all files in bytes.
    pub(crate) fn size(&self) -> u64 {
        let segments: u64 = self.segments.values().map(|segment| segment.size()).sum();
        let superfluous: u64 = self.superfluous.iter().map(|(_, size)| size).sum();
        let merged = self.merge.as_ref().map_or(0, PartitionMerge::size);
        segments + superfluous + merged + self.log.as_ref().map_or(0, |log| log.size) + self.notes.size()
    }

    pub(crate) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Writes everything that is in no file yet. `show_all` shows all notes. Later flushes retry what could not be
    /// written.
    pub(crate) fn flush(
        &mut self,
        frames: &[Arc<Frame>],
        changes: &[(String, Option<Vec<u8>>)],
        show_all: ShowNotes<'_>,
    ) -> io::Result<FlushStats> {
        let flushed = self.try_flush(frames, changes, show_all);
        if flushed.is_err() {
            // It is unknown how much of the data is on the disk, so nothing is added to these files any more.
            self.notes.abandon();
            for (_, writer) in self.writers.drain() {
                let segment = writer.segment;
                if segment.size() == 0 && disk::removed(&*self.disk, &segment.name()) {
                    self.segments.remove(&segment.number);
                }
            }
            if let Some(log) = self.log.take() {
                // An unconfirmed log is deleted at once: it may be what fills the disk.
                if log.is_confirmed || !disk::removed(&*self.disk, &log.name) {
                    self.superfluous.push((log.name, log.size));
                }
            }
        }
        flushed
    }

    fn try_flush(
        &mut self,
        frames: &[Arc<Frame>],
        changes: &[(String, Option<Vec<u8>>)],
        show_all: ShowNotes<'_>,
    ) -> io::Result<FlushStats> {
        self.notice_vanished()?;
        self.notes.write(&*self.disk, &mut self.next_number, changes, show_all)?;
        let number = match &self.log {
            Some(log) => log.number,
            None => {
                self.next_number += 1;
                self.log = Some(LogWriter::create(&*self.disk, self.next_number)?);
                self.shared.log.clear();
                self.next_number
            }
        };
        let pending: Vec<PendingFrame> = frames.iter().map(|frame| self.pending(frame, number)).collect();
        let mut flushed = FlushStats::default();
        self.write_blocks(&pending, &mut flushed)?;
        // Blocks come first, so that rows in the log are never without the rows before them.
        let Some(log) = &mut self.log else { return Ok(flushed) };
        for PendingFrame { frame, id, view, logged } in &pending {
            let owner = &frame.key().owner;
            for open in view.opens.iter().filter(|open| open.end_row() > *logged) {
                if !self.shared.log.has_room(owner, 1) {
                    // These rows are written once their block is full.
                    self.shared.log.refuse(owner, 1);
                    break;
                }
                let before = log.added();
                let from = usize::try_from(logged.saturating_sub(open.start_row)).unwrap_or(usize::MAX);
                let rows = open.read_from(from);
                log.add(*id, frame.key(), &rows, from == 0)?;
                self.shared.log.take_anyway(owner, log.added() - before);
                flushed.rows += rows.len() as u64;
                if let Some(kept) = self.kept.get_mut(&frame.id) {
                    kept.logged = open.start_row + (from + rows.len()) as u64;
                }
            }
        }
        flushed.bytes += log.write()?;
        if !log.is_confirmed {
            self.disk.sync()?;
        }
        log.is_confirmed = true;
        // A log that cannot be deleted is read before the current one at a restart; its deletion is retried.
        self.superfluous.retain(|(old, _)| !disk::removed(&*self.disk, old));
        if self.kept.len() > frames.len() {
            let known: HashSet<u64> = frames.iter().map(|frame| frame.id).collect();
            self.kept.retain(|id, _| known.contains(id));
        }
        Ok(flushed)
    }

    /// Finds files that someone else deleted, and files in use that are shorter than what was written to them. Their
    /// contents are written again as far as they are in memory.
    fn notice_vanished(&mut self) -> io::Result<()> {
        self.disk.check()?;
        let there: HashSet<String> = self.disk.list()?.into_iter().collect();
        let mut vanished = 0;
        let is_whole = |name: &str, size| -> io::Result<bool> { Ok(self.disk.open(name)?.size()? >= size) };
        if let Some(log) = &self.log {
            let is_there = there.contains(&log.name);
            if !is_there || !is_whole(&log.name, log.size)? {
                vanished += 1;
                let size = log.size;
                self.superfluous.extend(self.log.take().filter(|_| is_there).map(|log| (log.name, size)));
            }
        }
        let mut cut_short = Vec::new();
        for (key, SegmentWriter { segment, .. }) in &self.writers {
            let name = segment.name();
            if there.contains(&name) && !is_whole(&name, segment.size())? {
                cut_short.push(key.clone());
            }
        }
        vanished += cut_short.len();
        cut_short.iter().for_each(|key| _ = self.writers.remove(key));
        if self.notes.forget_vanished(&there) {
            vanished += 1;
        }
        self.writers.retain(|_, writer| there.contains(&writer.segment.name()));
        for segment in self.segments.values() {
            if !there.contains(&segment.name()) && self.vanished.insert(segment.number) {
                vanished += 1;
            }
        }
        self.vanished.retain(|number| self.segments.contains_key(number));
        if vanished > 0 {
            self.vanished_at = Some(Instant::now());
        }
        Ok(())
    }

    /// Returns how many files with blocks someone else deleted, and when a file was last found missing or cut short.
    /// The contents of deleted files can be read until the process ends.
    pub(crate) fn vanished(&self) -> (usize, Option<Instant>) {
        (self.vanished.len(), self.vanished_at)
    }

    fn pending(&mut self, frame: &Arc<Frame>, log: u64) -> PendingFrame {
        let view = frame.view();
        let kept = ArchivedFrame::of(&mut self.kept, &mut self.next_id, frame);
        if kept.log != log {
            (kept.log, kept.logged) = (log, 0);
        }
        PendingFrame { frame: frame.clone(), id: kept.id, view, logged: kept.logged }
    }

    /// Writes the blocks that are in no file. It works in rounds, one block of each frame at a time, so that no block
    /// is in a file without those before it. A finished round counts, even if the next one fails.
    fn write_blocks(&mut self, pending: &[PendingFrame], flushed: &mut FlushStats) -> io::Result<()> {
        let unstored =
            |view: &FrameView| view.blocks.iter().rev().take_while(|blocks| blocks.unstored().is_some()).count();
        let mut left: Vec<(&PendingFrame, usize)> = pending.iter().map(|one| (one, unstored(&one.view))).collect();
        loop {
            left.retain(|(_, blocks)| *blocks > 0);
            if left.is_empty() {
                return Ok(());
            }
            let mut stored: Vec<(Arc<Frame>, BlockId, BlockPlace)> = Vec::new();
            let mut created = false;
            for (PendingFrame { frame, id, view, .. }, blocks) in &mut left {
                let next = view.blocks.len().checked_sub(*blocks).and_then(|nth| view.blocks.get(nth));
                *blocks -= 1;
                let Some((block, chunk)) = next.and_then(Blocks::unstored) else { continue };
                let owner = &frame.key().owner;
                let writer = self.writer(segment::partition_ms(block.first_ms), owner, &mut created)?;
                let at = writer.add(*id, frame.key(), chunk)?;
                let place = writer.place(at, usize::from(block.place.page));
                stored.push((frame.clone(), block.id, place));
                flushed.blocks += 1;
            }
            for writer in self.writers.values_mut().filter(|writer| writer.pending() > 0) {
                flushed.bytes += writer.write()?;
                writer.sync()?;
            }
            if created {
                self.disk.sync()?;
            }
            for (frame, id, place) in stored {
                frame.stored(id, &place);
            }
        }
    }

    fn writer(&mut self, partition_ms: i64, owner: &Arc<str>, created: &mut bool) -> io::Result<&mut SegmentWriter> {
        let key = (partition_ms, owner.clone());
        // The limit keeps the amount that is evicted at a time small, compared with the disk limit.
        let largest = (self.shared.disk.total() / FILES).max(SMALLEST);
        if self.writers.get(&key).is_some_and(|writer| writer.pending() == 0 && writer.segment.size() > largest) {
            self.writers.remove(&key);
        }
        match self.writers.entry(key) {
            Entry::Occupied(writer) => Ok(writer.into_mut()),
            Entry::Vacant(place) => {
                self.next_number += 1;
                let name = segment::name(partition_ms, self.next_number, false);
                let about = (partition_ms, self.next_number, false);
                let writer = SegmentWriter::create(&*self.disk, &name, about, Some(owner), &[])?;
                self.segments.insert(self.next_number, writer.segment.clone());
                *created = true;
                Ok(place.insert(writer))
            }
        }
    }

    /// Begins a new log if most rows of the current one are in chunks now.
    pub(crate) fn renew_log(&mut self, open_rows: u64) {
        const SLACK: u64 = 1000;
        if let Some(full) = self.log.take_if(|log| log.rows > 2 * open_rows + SLACK) {
            self.superfluous.push((full.name, full.size));
        }
    }

    /// Deletes segments without live blocks.
    pub(crate) fn sweep(&mut self, frames: &[Arc<Frame>]) {
        let live = live_pages(frames);
        let written: Vec<u64> = self.writers.values().map(|writer| writer.segment.number).collect();
        let disk = &self.disk;
        self.segments.retain(|number, segment| {
            let used = live.contains_key(number) || written.contains(number);
            used || !disk::removed(&**disk, &segment.name())
        });
    }

    /// Returns the lowest number of a file with rows.
    pub(crate) fn oldest_file(&self) -> u64 {
        let logs = self.log.as_ref().map(|log| log.number).filter(|_| self.superfluous.is_empty());
        self.segments.keys().next().copied().into_iter().chain([logs.unwrap_or(0)]).min().unwrap_or(0)
    }

    /// Makes deletions durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }

    pub(crate) fn is_merging(&self) -> bool {
        self.merge.is_some()
    }
}

/// Returns the number of live blocks in each file.
fn live_pages(frames: &[Arc<Frame>]) -> HashMap<u64, u64> {
    let mut live = HashMap::new();
    for frame in frames {
        let view = frame.view();
        for blocks in view.blocks.iter() {
            if let Some(number) = blocks.file() {
                *live.entry(number).or_default() += blocks.len() as u64;
            }
        }
    }
    live
}

impl ArchivedFrame {
    fn of<'a>(kept: &'a mut HashMap<u64, Self>, next_id: &mut u32, frame: &Arc<Frame>) -> &'a mut Self {
        kept.entry(frame.id).or_insert_with(|| {
            *next_id += 1;
            Self { id: *next_id, logged: 0, log: 0 }
        })
    }
}

impl ForgottenNote {
    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        let mut reader = ByteReader(value);
        Some(Self { born_before: reader.u64().ok()?, last_file: reader.u64().ok()? })
    }
}
