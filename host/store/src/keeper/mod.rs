//! The background work that a push does not wait for: sealing, writing, removing, merging. It runs step by step in one
//! thread.

#[cfg(test)]
mod tests;
mod trusted_clock;

use crate::archive::{
    self, Archive, Disk, EvictedFile, FORGOTTEN, FlushStats, ForgottenNote, HistoryFolder, RestoreReport,
};
use crate::frame::{Blocks, Frame, StoreResources};
use crate::store::{NoteChanges, Store, StoreLimits};
use std::collections::{BTreeMap, HashSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use trusted_clock::TrustedClock;

/// The backoff after a failed write, in milliseconds: the first wait, and the longest.
const BACKOFF_MS: (i64, i64) = (1_000, 30_000);

/// Evictions of history that is younger than this are counted as refusals, in milliseconds.
const YOUNG_MS: i64 = 3_600_000;

/// The interval between searches for history to remove, in milliseconds.
const PRUNE_MS: i64 = 30_000;

/// The key of the note about the clock.
const CLOCK_NOTE: &str = "clock/trust";
/// The interval between writes of that note, in milliseconds.
const NOTED_MS: i64 = 10 * 60_000;

/// The least limit on blocks that one step seals, and merges. It is small, so that the next step is not late.
const SEALED: usize = 256;
const MERGED: usize = 256;

/// Maintains a store, and its archive if it has one.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    limits: StoreLimits,
    archive: Option<Archive>,
    /// The folder of an archive that could not be opened yet.
    unopened: Option<PathBuf>,
    retry: Option<Retry>,
    /// Changes of notes for the next flush.
    changes: NoteChanges,
    pruned_ms: Option<i64>,
    merge_paused_ms: Option<i64>,
    /// The state of the clock; `None` before the first check.
    clock: Option<TrustedClock>,
    /// The time of the last note about the clock.
    noted_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    at_ms: i64,
    wait_ms: i64,
}

/// The state of the archive.
#[derive(Debug, Clone, Default)]
pub struct ArchiveStatus {
    /// Whether there is an archive.
    pub on: bool,
    /// Why writes fail now. History stays in memory alone until they succeed again.
    pub failing: Option<WriteFailure>,
    /// The start of the write in progress.
    pub writing_since: Option<Instant>,
    /// Rows that wait to be written. While writes fail, rows that are only in a log count too, because the log will be
    /// rewritten.
    pub unstored_rows: u64,
    /// Rows that the ring dropped before they were in a file.
    pub lost_rows: u64,
    /// Flushes that succeeded.
    pub flushes: u64,
    /// Rows that flushes wrote to logs.
    pub rows: u64,
    /// Blocks that flushes wrote.
    pub blocks: u64,
    /// Bytes that flushes wrote.
    pub bytes: u64,
    /// Failed writes by reason: see [`WriteFailure::reason`].
    pub failed: BTreeMap<&'static str, u64>,
    /// The size of all files in bytes.
    pub size: u64,
    /// Files with blocks.
    pub segments: usize,
    /// Files with blocks that someone else deleted. Their contents can be read until the process ends.
    pub vanished: usize,
    /// When a file was last found missing or cut short.
    pub vanished_at: Option<Instant>,
    /// Whether the files exceed their limit although nothing more can be evicted: the log and the newest blocks stay.
    pub beyond_limit: bool,
}

/// Why writes fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteFailure {
    /// `full`, `read_only`, `denied`, `gone`, `in_use`, `file_limit` or `io`.
    pub reason: &'static str,
    pub error: String,
    pub since_ms: i64,
}

/// The amount of work that a step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeeperStep {
    pub sealed: usize,
    pub flushed: FlushStats,
}

/// The error of an archive that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another host is using this folder; stop it, or choose another folder")]
    InUse,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Store {
    /// Opens a store that keeps history in a folder, and restores the history there. Creates the folder if it does not
    /// exist.
    pub fn open(folder: &Path, limits: &StoreLimits) -> Result<(Self, Keeper, RestoreReport), OpenError> {
        let folder = HistoryFolder::locked(folder).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => OpenError::InUse,
            _ => OpenError::Io(error),
        })?;
        Ok(Self::on(Arc::new(folder), limits)?)
    }

    /// Makes a store for a folder that cannot be opened now, because of `error`. History stays in memory until the
    /// folder can be opened; the keeper retries. Then the folder's history is added, and [`Store::take_opened`] returns
    /// its other contents.
    pub fn open_later(folder: &Path, limits: &StoreLimits, error: &io::Error, now_ms: i64) -> (Self, Keeper) {
        // The numbers of the frames in the folder are unknown. Those are counted from 0; these begin at the time in
        // microseconds, so that they differ.
        let next_born = u64::try_from(now_ms).unwrap_or(0).saturating_mul(1000);
        let store = Self::restored(Arc::new(StoreResources::new(limits, true)), Vec::new(), next_born, BTreeMap::new());
        let keeper = Keeper { unopened: Some(folder.to_owned()), ..Keeper::new(store.clone(), limits) };
        keeper.failed(error, &[], now_ms);
        (store, keeper)
    }

    pub(crate) fn on(disk: Arc<dyn Disk>, limits: &StoreLimits) -> io::Result<(Self, Keeper, RestoreReport)> {
        let shared = Arc::new(StoreResources::new(limits, true));
        let (archive, frames, values, restored) = archive::restore(disk, &shared)?;
        let store = Self::restored(shared, frames, archive.next_born, values);
        let keeper = Keeper { archive: Some(archive), ..Keeper::new(store.clone(), limits) };
        Ok((store, keeper, restored))
    }
}

impl Keeper {
    /// Makes a keeper for a store in memory.
    pub fn in_memory(store: Store, limits: &StoreLimits) -> Self {
        Self::new(store, limits)
    }

    fn new(store: Store, limits: &StoreLimits) -> Self {
        let limits = limits.clone();
        Self {
            store,
            limits,
            archive: None,
            unopened: None,
            retry: None,
            changes: NoteChanges::new(),
            pruned_ms: None,
            merge_paused_ms: None,
            clock: None,
            noted_ms: None,
        }
    }

    /// Does the work that is due. Call it once per flush interval.
    pub fn step(&mut self, now_ms: i64) -> KeeperStep {
        // Take changes before the frames, so that removed frames are not among the frames.
        self.open_at_last(now_ms);
        self.take_changes();
        let frames = self.store.all_frames();
        let most = SEALED.max(frames.len() / 30);
        let sealed = Store::seal_in(&frames, now_ms, most);
        let flushed = self.flush(&frames, now_ms);
        if flushed.is_some() {
            // Rows that wait to be sealed would be written to a new log once more.
            if sealed < most {
                self.renew_log(&frames);
            }
            self.merge(&frames, now_ms);
        }
        self.make_room(&frames);
        self.make_room_on_disk(&frames, now_ms);
        if self.pruned_ms.is_none_or(|pruned| now_ms < pruned || now_ms.saturating_sub(pruned) >= PRUNE_MS) {
            self.prune(&frames, now_ms);
            self.pruned_ms = Some(now_ms);
            self.store.update_usage();
        }
        KeeperStep { sealed, flushed: flushed.unwrap_or_default() }
    }

    /// Writes the rest of the history. Returns whether that succeeded; if not, the rest is lost.
    pub fn close(mut self, now_ms: i64) -> bool {
        self.retry = None;
        self.open_at_last(now_ms);
        self.take_changes();
        let frames = self.store.all_frames();
        (self.archive.is_none() && self.unopened.is_none()) || self.flush(&frames, now_ms).is_some()
    }

    /// Retries to open the archive if that failed before.
    fn open_at_last(&mut self, now_ms: i64) {
        let Some(folder) = &self.unopened else { return };
        if self.waits(now_ms) {
            return;
        }
        let opened = HistoryFolder::locked(folder);
        match opened.and_then(|disk| archive::restore(Arc::new(disk), self.store.shared())) {
            Ok((archive, frames, values, restored)) => {
                (self.unopened, self.retry) = (None, None);
                // Read the note about the clock from the folder: without it a clock that has jumped would cost history.
                self.clock = None;
                self.store.adopt(frames, archive.next_born, values, restored);
                self.archive = Some(archive);
            }
            Err(error) => {
                // Drop the changes: all notes are written once there is a folder.
                drop(self.store.take_changes(0));
                self.failed_again(&error, &self.store.all_frames(), now_ms);
            }
        }
    }

    /// Returns whether the next retry is not due yet. A wait of more than the longest backoff means that the clock was
    /// set back; then the retry is due.
    fn waits(&self, now_ms: i64) -> bool {
        self.retry.is_some_and(|retry| now_ms < retry.at_ms && retry.at_ms - now_ms <= BACKOFF_MS.1)
    }

    fn take_changes(&mut self) {
        let Some(archive) = &self.archive else { return };
        let last_file = archive.last_number();
        let changes = self.store.take_changes(last_file);
        self.changes.extend(changes);
    }

    /// Writes to the archive. Returns `None` if a retry is not due yet or if the write failed.
    fn flush(&mut self, frames: &[Arc<Frame>], now_ms: i64) -> Option<FlushStats> {
        let is_waiting = self.waits(now_ms);
        let archive = self.archive.as_mut()?;
        if is_waiting {
            self.store.update_status(|status| status.unstored_rows = unstored_rows(frames));
            return None;
        }
        let changes = std::mem::take(&mut self.changes);
        self.store.update_status(|status| status.writing_since = Some(Instant::now()));
        let flushed = archive.flush(frames, &changes, &|show| self.store.show_notes(show));
        let (size, segments, vanished) = (archive.size(), archive.segments(), archive.vanished());
        self.store.update_status(|status| {
            status.writing_since = None;
            (status.vanished, status.vanished_at) = vanished;
        });
        match flushed {
            Ok(flushed) => {
                self.retry = None;
                self.store.update_status(|status| {
                    status.failing = None;
                    status.unstored_rows = 0;
                    status.flushes += 1;
                    status.rows += flushed.rows;
                    status.blocks += flushed.blocks;
                    status.bytes += flushed.bytes;
                    (status.size, status.segments) = (size, segments);
                });
                Some(flushed)
            }
            Err(error) => {
                self.failed_again(&error, frames, now_ms);
                None
            }
        }
    }

    fn failed_again(&mut self, error: &io::Error, frames: &[Arc<Frame>], now_ms: i64) {
        let wait_ms = self.retry.map_or(BACKOFF_MS.0, |retry| (retry.wait_ms * 2).min(BACKOFF_MS.1));
        self.retry = Some(Retry { at_ms: now_ms.saturating_add(wait_ms), wait_ms });
        self.failed(error, frames, now_ms);
    }

    fn failed(&self, error: &io::Error, frames: &[Arc<Frame>], now_ms: i64) {
        let reason = reason(error);
        self.store.update_status(|status| {
            *status.failed.entry(reason).or_default() += 1;
            let since_ms = status.failing.as_ref().map_or(now_ms, |failing| failing.since_ms);
            status.failing = Some(WriteFailure { reason, error: error.to_string(), since_ms });
            status.unstored_rows = unstored_rows(frames);
        });
    }

    /// Returns the trusted time.
    fn trusted_ms(&mut self, now_ms: i64) -> i64 {
        let known = self.clock.or_else(|| TrustedClock::read(&self.store.notes(CLOCK_NOTE).first()?.1));
        let clock = self.clock.insert(known.unwrap_or_else(|| TrustedClock::new(now_ms)));
        let trusted_ms = clock.check(now_ms);
        if !(0..NOTED_MS).contains(&now_ms.saturating_sub(self.noted_ms.unwrap_or(i64::MIN))) {
            // A few bytes always fit.
            let _ = self.store.note(CLOCK_NOTE, Some(clock.write()));
            self.noted_ms = Some(now_ms);
        }
        self.store.set_trusted_ms(trusted_ms);
        trusted_ms
    }

    /// Begins a new log if most rows of the old one are in blocks by now.
    fn renew_log(&mut self, frames: &[Arc<Frame>]) {
        if let Some(archive) = &mut self.archive {
            archive.renew_log(frames.iter().map(|frame| frame.open_rows()).sum());
        }
    }

    /// Merges partitions whose time is over.
    fn merge(&mut self, frames: &[Arc<Frame>], now_ms: i64) {
        let Some(archive) = &mut self.archive else { return };
        // After an error, or if there was nothing to merge, wait before the next try.
        let waits = |last: i64| (0..PRUNE_MS).contains(&(now_ms - last));
        if !archive.is_merging() && self.merge_paused_ms.is_some_and(waits) {
            return;
        }
        match archive.merge(frames, now_ms, MERGED.max(frames.len() / 30)) {
            Ok(true) => self.merge_paused_ms = None,
            Ok(false) => self.merge_paused_ms = Some(now_ms),
            Err(error) => {
                self.merge_paused_ms = Some(now_ms);
                // Nothing is lost: the blocks stay readable where they are, and are merged later.
                self.store.update_status(|status| {
                    *status.failed.entry(reason(&error)).or_default() += 1;
                });
            }
        }
    }

    /// Evicts the oldest blocks of owners that exceed their share of memory.
    fn make_room(&self, frames: &[Arc<Frame>]) {
        let sealed = self.store.sealed();
        for owner in sealed.accounts().into_keys() {
            let excess = sealed.excess(&owner);
            if excess == 0 {
                continue;
            }
            // Evict some more, so that the next eviction is not due at once.
            let mut left = excess.saturating_add(sealed.limit() / 16);
            let own = || frames.iter().filter(|frame| frame.key().owner == owner);
            let blocks = own().flat_map(|frame| {
                let view = frame.view();
                view.blocks
                    .iter()
                    .map(|blocks| (blocks.last_ms(), blocks.id(), blocks.bytes(frame.schema())))
                    .collect::<Vec<_>>()
            });
            let mut blocks: Vec<_> = blocks.collect();
            blocks.sort_unstable_by_key(|(last_ms, ..)| *last_ms);
            let over = blocks.into_iter().take_while(|(.., bytes)| {
                let goes = left > 0;
                left = left.saturating_sub(*bytes);
                goes
            });
            let over: HashSet<_> = over.map(|(_, id, _)| id).collect();
            own().for_each(|frame| _ = frame.prune(i64::MAX, |blocks, _| over.contains(&blocks.id())));
            sealed.refuse(&owner, over.len() as u64);
        }
    }

    /// Evicts files as soon as their size exceeds the limit. The log and each owner's newest file stay.
    fn make_room_on_disk(&mut self, frames: &[Arc<Frame>], now_ms: i64) {
        let trusted_ms = self.store.trusted_ms().unwrap_or(now_ms);
        let Some(archive) = &mut self.archive else { return };
        // A file must not be deleted before the note is written that its instance was removed.
        if archive.size() > self.limits.disk && self.retry.is_none() && self.changes.is_empty() {
            let evicted = archive.to_evict(frames, trusted_ms);
            for EvictedFile { owner, by_ms, .. } in &evicted {
                // An owner whose young history is evicted records too much: count it as a refusal.
                let is_young = trusted_ms.saturating_sub(*by_ms) < YOUNG_MS;
                owner.iter().filter(|_| is_young).for_each(|owner| self.store.disk().refuse(owner, 1));
            }
            let numbers: HashSet<u64> = evicted.iter().map(|file| file.number).collect();
            let is_over = |blocks: &Blocks, _| blocks.file().is_some_and(|number| numbers.contains(&number));
            frames.iter().for_each(|frame| _ = frame.prune(trusted_ms, is_over));
            archive.stop_writing_to(&numbers);
            archive.sweep(frames);
        }
        archive.update_disk_usage();
        let (size, beyond_limit) = (archive.size(), archive.size() > self.limits.disk);
        self.store.update_status(|status| (status.size, status.beyond_limit) = (size, beyond_limit));
    }

    /// Removes history that is too old, and files that are no longer needed.
    fn prune(&mut self, frames: &[Arc<Frame>], now_ms: i64) {
        let trusted_ms = self.trusted_ms(now_ms);
        // A clock that is behind must not cost history.
        let before_ms = trusted_ms.min(now_ms).saturating_sub(self.limits.age_ms);
        let is_over = |blocks: &Blocks, written_ms: i64| written_ms.max(blocks.last_ms()) < before_ms;
        for frame in frames {
            frame.prune(trusted_ms, is_over);
            frame.give_back_if_idle(now_ms);
        }
        self.store.sweep_series();
        let Some(archive) = &mut self.archive else { return };
        // A file must not be deleted before the note is written that its instance was removed.
        if self.retry.is_some() || !self.changes.is_empty() {
            return;
        }
        // This also deletes files that a failed write has left.
        archive.sweep(frames);
        // Notes about deleted files are no longer needed.
        let oldest = archive.oldest_file();
        let mut noted = self.store.notes(FORGOTTEN);
        noted.retain(|(_, value)| ForgottenNote::read(value).is_none_or(|forgotten| forgotten.last_file < oldest));
        let over: Vec<_> =
            noted.into_iter().map(|(key, _)| key).chain(self.store.obsolete_removal_notes(oldest)).collect();
        // Make the deletions durable first: a crash can bring back a deleted file.
        if !over.is_empty() && archive.sync().is_ok() {
            over.iter().for_each(|key| {
                let _ = self.store.note(key, None);
            });
        }
    }
}

fn reason(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "full",
        ErrorKind::ReadOnlyFilesystem => "read_only",
        ErrorKind::PermissionDenied => "denied",
        ErrorKind::NotFound => "gone",
        ErrorKind::WouldBlock => "in_use",
        ErrorKind::FileTooLarge => "file_limit",
        _ => "io",
    }
}

fn unstored_rows(frames: &[Arc<Frame>]) -> u64 {
    let rows = |frame: &Arc<Frame>| {
        let view = frame.view();
        let unstored = view.blocks.iter().rev().map_while(Blocks::unstored);
        unstored.map(|(block, _)| block.rows as u64).sum::<u64>() + frame.open_rows()
    };
    frames.iter().map(rows).sum()
}
