//! Who does the work that a push does not wait for: sealing, writing, letting go, merging. One thread, step by step.

#[cfg(test)]
mod tests;
mod trust;

use crate::archive::{self, Archive, Disk, FORGOTTEN, Flushed, Folder, Forgotten, Restored, Spared};
use crate::frame::{Blocks, Frame, Shared};
use crate::store::{Changes, Limits, Store};
use std::collections::{BTreeMap, HashSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use trust::Trust;

/// The wait after a failed write: the first, and the longest.
const BACKOFF_MS: (i64, i64) = (1_000, 30_000);

/// History that has to go before it is so old is worth a word.
const YOUNG_MS: i64 = 3_600_000;

/// How often what is over is looked for.
const PRUNE_MS: i64 = 30_000;

/// The note of what is known of the clock, and how often it is written.
const TRUST: &str = "clock/trust";
const NOTED_MS: i64 = 10 * 60_000;

/// Blocks sealed, and merged, in one step, at least: so little that the next is not late.
const SEALED: usize = 256;
const MERGED: usize = 256;

/// Keeps a store in order, and its archive if it has one.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    limits: Limits,
    archive: Option<Archive>,
    /// The folder of an archive that cannot be opened yet.
    unopened: Option<PathBuf>,
    retry: Option<Retry>,
    /// To be written with the next flush.
    changes: Changes,
    pruned_ms: Option<i64>,
    settled_ms: Option<i64>,
    /// None before the first look at the clock.
    trust: Option<Trust>,
    /// When it was last written down.
    noted_ms: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
struct Retry {
    at_ms: i64,
    wait_ms: i64,
}

/// How the archive is.
#[derive(Debug, Clone, Default)]
pub struct ArchiveStatus {
    /// Whether there is one.
    pub on: bool,
    /// Why nothing is written now: history is in memory alone until it is again.
    pub failing: Option<Failing>,
    /// A write that has begun and has not ended.
    pub writing_since: Option<Instant>,
    /// Rows that wait to be written; while nothing is, those that are in a log alone count too, as it will be written anew.
    pub unstored_rows: u64,
    /// Rows that the ring let go of before they were in one.
    pub lost_rows: u64,
    pub flushes: u64,
    pub rows: u64,
    pub blocks: u64,
    pub bytes: u64,
    /// By reason: see [`Failing::reason`].
    pub failed: BTreeMap<&'static str, u64>,
    /// Bytes in files, and how many of those hold blocks.
    pub size: u64,
    pub segments: usize,
    /// Files with blocks that someone else has deleted: what they held can be read until the process ends.
    pub vanished: usize,
    /// When some file was last found to be gone that way.
    pub vanished_at: Option<Instant>,
    /// It is more than there may be, and nothing is left that could go: the log and the newest blocks stay.
    pub beyond_limit: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// `full`, `read_only`, `denied`, `gone`, `in_use`, `file_limit` or `io`.
    pub reason: &'static str,
    pub error: String,
    pub since_ms: i64,
}

/// What a step did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    pub sealed: usize,
    pub flushed: Flushed,
}

/// Why an archive cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another host is using it")]
    InUse,
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Store {
    /// Keeps history in a folder too, which is made if need be, and brings back what is in it.
    pub fn open(folder: &Path, limits: &Limits) -> Result<(Self, Keeper, Restored), OpenError> {
        let folder = Folder::locked(folder).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => OpenError::InUse,
            _ => OpenError::Io(error),
        })?;
        Ok(Self::on(Arc::new(folder), limits)?)
    }

    /// Keeps history in memory until a folder can be opened that cannot be opened now, because of `error`. From then on it
    /// is kept there too, beside what the folder has: [`Store::take_opened`] tells.
    pub fn open_later(folder: &Path, limits: &Limits, error: &io::Error, now_ms: i64) -> (Self, Keeper) {
        // The folder's frames have numbers that nobody knows: those are counted, and these go by the time, in microseconds.
        let next_born = u64::try_from(now_ms).unwrap_or(0).saturating_mul(1000);
        let store = Self::restored(Arc::new(Shared::new(limits, true)), Vec::new(), next_born, BTreeMap::new());
        let keeper = Keeper { unopened: Some(folder.to_owned()), ..Keeper::new(store.clone(), limits) };
        keeper.failed(error, &[], now_ms);
        (store, keeper)
    }

    pub(crate) fn on(disk: Arc<dyn Disk>, limits: &Limits) -> io::Result<(Self, Keeper, Restored)> {
        let shared = Arc::new(Shared::new(limits, true));
        let (archive, frames, values, restored) = archive::restore(disk, &shared)?;
        let store = Self::restored(shared, frames, archive.next_born, values);
        let keeper = Keeper { archive: Some(archive), ..Keeper::new(store.clone(), limits) };
        Ok((store, keeper, restored))
    }
}

impl Keeper {
    /// For a store in memory.
    pub fn in_memory(store: Store, limits: &Limits) -> Self {
        Self::new(store, limits)
    }

    fn new(store: Store, limits: &Limits) -> Self {
        let limits = limits.clone();
        Self {
            store,
            limits,
            archive: None,
            unopened: None,
            retry: None,
            changes: Changes::new(),
            pruned_ms: None,
            settled_ms: None,
            trust: None,
            noted_ms: None,
        }
    }

    /// Does what is to be done by now. To be called once in a flush interval.
    pub fn step(&mut self, now_ms: i64) -> Step {
        // Before the frames: whoever is forgotten is not among those.
        self.open_at_last(now_ms);
        self.take_changes();
        let frames = self.store.all_frames();
        let most = SEALED.max(frames.len() / 30);
        let sealed = self.store.seal(now_ms, most);
        let flushed = self.flush(&frames, now_ms);
        if flushed.is_some() {
            self.tidy(&frames, now_ms);
        }
        self.make_room(&frames);
        self.make_room_on_disk(&frames, now_ms);
        if self.pruned_ms.is_none_or(|pruned| now_ms < pruned || now_ms.saturating_sub(pruned) >= PRUNE_MS) {
            self.prune(&frames, now_ms);
            self.pruned_ms = Some(now_ms);
            self.store.look();
        }
        Step { sealed, flushed: flushed.unwrap_or_default() }
    }

    /// Writes what is left; whether it could. What cannot be written now is lost.
    pub fn close(mut self, now_ms: i64) -> bool {
        self.retry = None;
        self.open_at_last(now_ms);
        self.take_changes();
        let frames = self.store.all_frames();
        (self.archive.is_none() && self.unopened.is_none()) || self.flush(&frames, now_ms).is_some()
    }

    /// Opens the archive if that did not work before.
    fn open_at_last(&mut self, now_ms: i64) {
        let Some(folder) = &self.unopened else { return };
        if self.waits(now_ms) {
            return;
        }
        let opened = Folder::locked(folder);
        match opened.and_then(|disk| archive::restore(Arc::new(disk), self.store.shared())) {
            Ok((archive, frames, values, restored)) => {
                (self.unopened, self.retry) = (None, None);
                // Also what is known of the clock: without it one that has jumped would cost history.
                self.trust = None;
                self.store.adopt(frames, archive.next_born, values, restored);
                self.archive = Some(archive);
            }
            Err(error) => {
                // All of it is written once there is a folder.
                drop(self.store.take_changes(0));
                self.failed_again(&error, &self.store.all_frames(), now_ms);
            }
        }
    }

    /// Whether it is not yet the time to try again what failed. The clock may have been set back.
    fn waits(&self, now_ms: i64) -> bool {
        self.retry.is_some_and(|retry| now_ms < retry.at_ms && retry.at_ms - now_ms <= BACKOFF_MS.1)
    }

    fn take_changes(&mut self) {
        let Some(archive) = &self.archive else { return };
        let last_file = archive.last_number();
        let changes = self.store.take_changes(last_file);
        self.changes.extend(changes);
    }

    /// None: it is not the time, or it failed.
    fn flush(&mut self, frames: &[Arc<Frame>], now_ms: i64) -> Option<Flushed> {
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
            status.failing = Some(Failing { reason, error: error.to_string(), since_ms });
            status.unstored_rows = unstored_rows(frames);
        });
    }

    /// The time it is, as far as the clock is trusted.
    fn trusted_ms(&mut self, now_ms: i64) -> i64 {
        let known = self.trust.or_else(|| Trust::read(&self.store.notes(TRUST).first()?.1));
        let trust = self.trust.insert(known.unwrap_or_else(|| Trust::new(now_ms)));
        let trusted_ms = trust.look(now_ms);
        if !(0..NOTED_MS).contains(&now_ms.saturating_sub(self.noted_ms.unwrap_or(i64::MIN))) {
            // It is a few bytes.
            let _ = self.store.note(TRUST, Some(trust.write()));
            self.noted_ms = Some(now_ms);
        }
        self.store.trust(trusted_ms);
        trusted_ms
    }

    /// Merges what is over, and begins a new log.
    fn tidy(&mut self, frames: &[Arc<Frame>], now_ms: i64) {
        let Some(archive) = &mut self.archive else { return };
        if frames.iter().all(|frame| frame.to_seal(now_ms).is_none()) {
            archive.renew_log(frames.iter().map(|frame| frame.open_rows()).sum());
        }
        // After an error, or when there was nothing, not at once again.
        let waits = |last: i64| (0..PRUNE_MS).contains(&(now_ms - last));
        if !archive.is_settling() && self.settled_ms.is_some_and(waits) {
            return;
        }
        match archive.settle(frames, now_ms, MERGED.max(frames.len() / 30)) {
            Ok(true) => self.settled_ms = None,
            Ok(false) => self.settled_ms = Some(now_ms),
            Err(error) => {
                self.settled_ms = Some(now_ms);
                // What is merged later is not lost, and where it is stays readable.
                self.store.update_status(|status| {
                    *status.failed.entry(reason(&error)).or_default() += 1;
                });
            }
        }
    }

    /// Lets go of the oldest blocks of owners that have more in memory than they may.
    fn make_room(&self, frames: &[Arc<Frame>]) {
        let sealed = self.store.sealed();
        for owner in sealed.accounts().into_keys() {
            let excess = sealed.excess(&owner);
            if excess == 0 {
                continue;
            }
            // Some more, so that it is not to be done again at once.
            let mut left = excess.saturating_add(sealed.most() / 16);
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

    /// Lets go of files where there are more bytes of them than there may be, as soon as there are. Of the log nothing can
    /// be spared, nor of each owner's newest file.
    fn make_room_on_disk(&mut self, frames: &[Arc<Frame>], now_ms: i64) {
        let trusted_ms = self.store.trusted_ms().unwrap_or(now_ms);
        let Some(archive) = &mut self.archive else { return };
        // A file must not go before it is written why: that an instance was forgotten.
        if archive.size() > self.limits.disk && self.retry.is_none() && self.changes.is_empty() {
            let spared = archive.to_spare(frames, trusted_ms);
            for Spared { owner, by_ms, .. } in &spared {
                // What goes soon after it was written is more than its owner may want.
                let is_young = trusted_ms.saturating_sub(*by_ms) < YOUNG_MS;
                owner.iter().filter(|_| is_young).for_each(|owner| self.store.disk().refuse(owner, 1));
            }
            let numbers: HashSet<u64> = spared.iter().map(|spared| spared.number).collect();
            let is_over = |blocks: &Blocks, _| blocks.file().is_some_and(|number| numbers.contains(&number));
            frames.iter().for_each(|frame| _ = frame.prune(trusted_ms, is_over));
            archive.end(&numbers);
            archive.sweep(frames);
        }
        archive.count();
        let (size, beyond_limit) = (archive.size(), archive.size() > self.limits.disk);
        self.store.update_status(|status| (status.size, status.beyond_limit) = (size, beyond_limit));
    }

    /// Lets go of what is too old, or too much.
    fn prune(&mut self, frames: &[Arc<Frame>], now_ms: i64) {
        let trusted_ms = self.trusted_ms(now_ms);
        // A clock that is behind costs nothing.
        let before_ms = trusted_ms.min(now_ms).saturating_sub(self.limits.age_ms);
        let is_over = |blocks: &Blocks, written_ms: i64| written_ms.max(blocks.last_ms()) < before_ms;
        for frame in frames {
            frame.prune(trusted_ms, is_over);
            frame.rest(now_ms);
        }
        let Some(archive) = &mut self.archive else { return };
        // A file must not go before it is written why: that an instance was forgotten.
        if self.retry.is_some() || !self.changes.is_empty() {
            return;
        }
        // Also what a failed write has left.
        archive.sweep(frames);
        // What is said of files that are gone need not be said.
        let oldest = archive.oldest_file();
        let mut noted = self.store.notes(FORGOTTEN);
        noted.retain(|(_, value)| Forgotten::read(value).is_none_or(|forgotten| forgotten.last_file < oldest));
        let over: Vec<_> = noted.into_iter().map(|(key, _)| key).chain(self.store.over_dead(oldest)).collect();
        // Gone for certain, that is: a crash can bring back a file that was deleted.
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
