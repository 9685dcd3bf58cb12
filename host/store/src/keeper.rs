//! Who does the work that a push does not wait for: sealing, writing, letting go, merging. One thread, step by step.

use crate::archive::{self, Archive, Disk, FORGOTTEN, Flushed, Folder, Forgotten, Restored};
use crate::frame::{Frame, Shared};
use crate::store::{Changes, Limits, Store};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// The wait after a failed write: the first, and the longest.
const BACKOFF_MS: (i64, i64) = (1_000, 30_000);

/// How often what is over is looked for.
const PRUNE_MS: i64 = 30_000;

/// Blocks sealed, and merged, in one step, at least: so little that the next is not late.
const SEALED: usize = 256;
const MERGED: usize = 256;

/// Keeps a store in order, and its archive if it has one.
#[derive(Debug)]
pub struct Keeper {
    store: Store,
    limits: Limits,
    archive: Option<Archive>,
    retry: Option<Retry>,
    /// To be written with the next flush.
    changes: Changes,
    pruned_ms: Option<i64>,
    settled_ms: Option<i64>,
    /// A time the clock jumped ahead to, and how often it has been about there since.
    jumped: Option<(i64, u32)>,
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
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// `full`, `read_only`, `denied` or `io`.
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
            retry: None,
            changes: Changes::new(),
            pruned_ms: None,
            settled_ms: None,
            jumped: None,
        }
    }

    /// Does what is to be done by now. To be called once in a flush interval.
    pub fn step(&mut self, now_ms: i64) -> Step {
        // Before the frames: whoever is forgotten is not among those.
        self.take_changes();
        let frames = self.store.all_frames();
        let most = SEALED.max(frames.len() / 30);
        let sealed = self.store.seal(now_ms, most);
        let flushed = self.flush(&frames, now_ms);
        if flushed.is_some() {
            self.tidy(&frames, now_ms);
        }
        if self.pruned_ms.is_none_or(|pruned| now_ms < pruned || now_ms - pruned >= PRUNE_MS) {
            self.prune(&frames, now_ms);
            self.pruned_ms = Some(now_ms);
            self.store.look();
        }
        Step { sealed, flushed: flushed.unwrap_or_default() }
    }

    /// Writes what is left; whether it could. What cannot be written now is lost.
    pub fn close(mut self, now_ms: i64) -> bool {
        self.retry = None;
        self.take_changes();
        let frames = self.store.all_frames();
        self.archive.is_none() || self.flush(&frames, now_ms).is_some()
    }

    fn take_changes(&mut self) {
        let Some(archive) = &self.archive else { return };
        let last_file = archive.last_number();
        let changes = self.store.take_changes(|instance, born_before| {
            (format!("{FORGOTTEN}{instance}"), Forgotten { born_before, last_file }.write())
        });
        self.changes.extend(changes);
    }

    /// None: it is not the time, or it failed.
    fn flush(&mut self, frames: &[Arc<Frame>], now_ms: i64) -> Option<Flushed> {
        let archive = self.archive.as_mut()?;
        // The clock may have been set back.
        if self.retry.is_some_and(|retry| now_ms < retry.at_ms && retry.at_ms - now_ms <= BACKOFF_MS.1) {
            self.store.update_status(|status| status.unstored_rows = unstored_rows(frames));
            return None;
        }
        let changes = std::mem::take(&mut self.changes);
        self.store.update_status(|status| status.writing_since = Some(Instant::now()));
        let flushed = archive.flush(frames, &changes, &|| self.store.values());
        let (size, segments) = (archive.size(), archive.segments());
        self.store.update_status(|status| status.writing_since = None);
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
                let wait_ms = self.retry.map_or(BACKOFF_MS.0, |retry| (retry.wait_ms * 2).min(BACKOFF_MS.1));
                self.retry = Some(Retry { at_ms: now_ms.saturating_add(wait_ms), wait_ms });
                self.failed(&error, frames, now_ms);
                None
            }
        }
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

    /// A clock that was set ahead by mistake must not cost all history: what is too old by it goes when it has stayed there.
    fn is_trusted(&mut self, now_ms: i64) -> bool {
        const JUMP_MS: i64 = 3_600_000;
        const TIMES: u32 = 20;
        let steady = |from: i64| (from.saturating_sub(JUMP_MS)..=from.saturating_add(JUMP_MS)).contains(&now_ms);
        if self.jumped.is_none() && self.pruned_ms.is_none_or(|pruned| now_ms <= pruned.saturating_add(JUMP_MS)) {
            return true;
        }
        let times = match self.jumped {
            Some((from, times)) if steady(from) => times + 1,
            // Back where it was.
            Some(_) if self.store.trusted_ms().is_some_and(steady) => TIMES,
            _ => 0,
        };
        self.jumped = (times < TIMES).then_some((now_ms, times));
        self.jumped.is_none()
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

    /// Lets go of what is too old, or too much.
    fn prune(&mut self, frames: &[Arc<Frame>], now_ms: i64) {
        if self.is_trusted(now_ms) {
            self.store.trust(now_ms);
            let before_ms = now_ms.saturating_sub(self.limits.age_ms);
            frames.iter().for_each(|frame| _ = frame.prune(|block| block.last_ms < before_ms));
        }
        let Some(archive) = &mut self.archive else { return };
        // A file must not go before it is written why: that an instance was forgotten, what replaces its rows.
        if self.retry.is_some() || !self.changes.is_empty() {
            return;
        }
        // Of the log nothing can be spared, nor of the newest blocks.
        while archive.size() > self.limits.disk {
            let Some(end_ms) = archive.oldest_partition_end() else { break };
            let over = frames.iter().filter(|frame| frame.prune(|block| block.first_ms < end_ms)).count();
            let before = archive.segments();
            archive.sweep(frames);
            if over == 0 && archive.segments() == before {
                break;
            }
        }
        // Also what a failed write has left.
        archive.sweep(frames);
        // What is said of files that are gone need not be said.
        let oldest = archive.oldest_file();
        let mut over = self.store.notes(FORGOTTEN);
        over.retain(|(_, value)| Forgotten::read(value).is_none_or(|forgotten| forgotten.last_file < oldest));
        // Gone for certain, that is: a crash can bring back a file that was deleted.
        if !over.is_empty() && archive.sync().is_ok() {
            over.iter().for_each(|(key, _)| self.store.note(key, None));
        }
    }
}

fn reason(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "full",
        ErrorKind::ReadOnlyFilesystem => "read_only",
        ErrorKind::PermissionDenied => "denied",
        _ => "io",
    }
}

fn unstored_rows(frames: &[Arc<Frame>]) -> u64 {
    let rows = |frame: &Arc<Frame>| {
        let view = frame.view();
        let blocks = view.blocks.iter().rev().take_while(|block| block.unstored().is_some());
        blocks.map(|block| block.rows as u64).sum::<u64>() + frame.open_rows()
    };
    frames.iter().map(rows).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::crash::Sim;
    use crate::{Field, InstanceId, Query, Schema};

    const MIN: i64 = 60_000;
    const H: i64 = 60 * MIN;
    const DAY: i64 = 24 * H;

    fn id(n: usize) -> InstanceId {
        InstanceId::new(format!("i{n}")).unwrap()
    }

    fn schema() -> Schema {
        Schema::new("s", vec![Field::gauge("x")])
    }

    fn limits() -> Limits {
        Limits { samples: 100_000, ..Limits::default() }
    }

    /// What no codec makes small.
    fn noise(at_ms: i64) -> f64 {
        let mixed = (at_ms as u64 ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb) >> 40) as f64 / 7.0
    }

    /// Pushes a row of each instance every ten seconds from one time to another, with a step every five minutes.
    fn record(store: &Store, keeper: &mut Keeper, instances: usize, from_ms: i64, until_ms: i64) {
        let frames: Vec<_> = (0..instances).map(|n| store.frame(&id(n), &schema(), 10_000)).collect();
        for at_ms in (from_ms..until_ms).step_by(10_000) {
            frames.iter().for_each(|frame| _ = frame.push(at_ms, &[noise(at_ms)]));
            if at_ms % (5 * MIN) == 0 {
                keeper.step(at_ms);
            }
        }
    }

    fn rows(store: &Store, instance: usize) -> Vec<i64> {
        let query = Query { since_ms: 0, until_ms: i64::MAX / 2, step_ms: 10_000, ..Query::default() };
        store.range(&id(instance), &query).at_ms
    }

    #[test]
    fn a_full_disk_costs_nothing_and_history_is_written_when_there_is_room_again() {
        let sim = Sim::new(1);
        let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits()).unwrap();
        record(&store, &mut keeper, 3, 0, 3 * H);
        sim.fail(true);
        record(&store, &mut keeper, 3, 3 * H, 9 * H);
        let status = store.archive();
        let failing = status.failing.unwrap();
        assert_eq!((failing.reason, failing.since_ms), ("full", 3 * H));
        assert!(status.failed["full"] > 1 && status.unstored_rows >= 3 * 6 * 360 - 100, "{}", status.unstored_rows);
        assert_eq!(rows(&store, 0).len(), 9 * 360, "memory has it");
        sim.fail(false);
        record(&store, &mut keeper, 3, 9 * H, 10 * H);
        keeper.step(10 * H);
        let status = store.archive();
        assert_eq!((status.failing, status.unstored_rows, status.lost_rows), (None, 0, 0));
        let (again, ..) = Store::on(Arc::new(sim), &limits()).unwrap();
        for instance in 0..3 {
            assert_eq!(rows(&again, instance), rows(&store, instance));
        }
    }

    #[test]
    fn rows_the_ring_lets_go_of_before_they_are_written_are_counted() {
        let sim = Sim::new(1);
        let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &Limits { samples: 1000, ..limits() }).unwrap();
        sim.fail(true);
        record(&store, &mut keeper, 1, 0, 9 * H);
        assert_eq!(rows(&store, 0).len(), 1000);
        // Blocks go whole, when the next one is sealed.
        let lost = store.archive().lost_rows;
        assert!((9 * 360 - 1000 - 2 * 540..=9 * 360 - 1000).contains(&lost), "{lost}");
    }

    #[test]
    fn what_is_too_old_goes_also_of_instances_that_ended_and_the_space_is_given_back() {
        let sim = Sim::new(1);
        let limits = Limits { age_ms: DAY, ..limits() };
        let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
        record(&store, &mut keeper, 5, 0, 6 * H);
        record(&store, &mut keeper, 1, 6 * H, 2 * DAY);
        let size = |prefix: &str| -> usize {
            sim.files().iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, size)| size).sum()
        };
        assert!(rows(&store, 4).is_empty() && !store.instances().contains(&id(4)));
        assert!(rows(&store, 0).len() <= 360 * 26 && rows(&store, 0).len() >= 360 * 24);
        assert!(sim.files().keys().all(|name| !name.contains("-0-")), "{:?}", sim.files());
        let day = size("");
        record(&store, &mut keeper, 1, 2 * DAY, 4 * DAY);
        assert!(size("") < day * 5 / 4, "{day} bytes become {}", size(""));
    }

    #[test]
    fn beyond_its_bytes_the_oldest_history_goes_first() {
        let sim = Sim::new(1);
        let limits = Limits { disk: 100_000, ..limits() };
        let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
        record(&store, &mut keeper, 5, 0, 3 * DAY);
        let bytes: usize = sim.files().values().sum();
        assert!(bytes < 130_000, "{bytes}");
        let rows = rows(&store, 0);
        assert!(rows[0] > DAY && *rows.last().unwrap() > 3 * DAY - MIN, "{} {}", rows[0], rows.len());
    }

    #[test]
    fn a_forgotten_instance_stays_so_and_its_space_is_given_back() {
        let sim = Sim::new(1);
        let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits()).unwrap();
        record(&store, &mut keeper, 8, 0, 7 * H);
        let before: usize = sim.files().values().sum();
        (1..8).for_each(|n| store.remove(&id(n)));
        keeper.step(7 * H);
        let (again, ..) = Store::on(Arc::new(sim.clone()), &limits()).unwrap();
        assert_eq!(again.instances(), [id(0)]);
        record(&store, &mut keeper, 1, 7 * H, 9 * H);
        let after: usize = sim.files().values().sum();
        assert!(after * 3 < before, "{before} bytes become {after}: {:?}", sim.files());
        assert_eq!(rows(&store, 0).len(), 9 * 360);
    }

    #[test]
    fn a_forgotten_instance_begins_anew() {
        let sim = Sim::new(1);
        let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits()).unwrap();
        record(&store, &mut keeper, 1, 0, H);
        store.remove(&id(0));
        record(&store, &mut keeper, 1, H, 2 * H);
        keeper.close(2 * H);
        let (again, ..) = Store::on(Arc::new(sim), &limits()).unwrap();
        assert_eq!((rows(&again, 0).first(), rows(&again, 0).len()), (Some(&H), 360));
    }

    #[test]
    fn many_frames_on_one_schedule_do_not_seal_in_one_step() {
        let store = Store::in_memory(&limits());
        let mut keeper = Keeper::in_memory(store.clone(), &limits());
        let frames: Vec<_> = (0..10_000).map(|n| store.frame(&id(n), &schema(), 10_000)).collect();
        for at_ms in [90 * MIN - 10_000, 90 * MIN] {
            frames.iter().for_each(|frame| _ = frame.push(at_ms, &[1.0]));
        }
        let sealed: Vec<usize> = (0..80).map(|second| keeper.step(90 * MIN + second * 1000).sealed).collect();
        assert_eq!(sealed.iter().sum::<usize>(), 10_000);
        assert!(sealed.iter().all(|&sealed| sealed <= 400), "{sealed:?}");
    }

    #[test]
    fn a_clock_set_far_ahead_costs_history_only_when_it_stays_there() {
        let limits = Limits { age_ms: DAY, ..limits() };
        let store = Store::in_memory(&limits);
        let mut keeper = Keeper::in_memory(store.clone(), &limits);
        record(&store, &mut keeper, 1, 0, 6 * H);
        keeper.step(400 * DAY);
        keeper.step(6 * H + MIN);
        assert_eq!(rows(&store, 0).len(), 6 * 360);
        (0..30).for_each(|step| _ = keeper.step(400 * DAY + step * MIN));
        assert!(rows(&store, 0).is_empty());
    }

    #[test]
    fn an_instance_whose_history_has_gone_goes_on_with_all_its_rows() {
        let sim = Sim::new(1);
        let limits = Limits { age_ms: DAY, ..limits() };
        let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits).unwrap();
        record(&store, &mut keeper, 1, 0, 2 * DAY);
        // The clock goes back once, the instance is silent until all it had is gone.
        store.frame(&id(0), &schema(), 10_000).push(2 * DAY - H, &[1.0]);
        (2 * DAY..4 * DAY).step_by(H as usize / 2).for_each(|at_ms| _ = keeper.step(at_ms));
        assert!(store.frame(&id(0), &schema(), 10_000).is_empty());
        record(&store, &mut keeper, 1, 4 * DAY, 4 * DAY + 7 * H);
        assert_eq!(rows(&store, 0).len(), 7 * 360);
        assert!(keeper.close(4 * DAY + 7 * H));
        let (again, ..) = Store::on(Arc::new(sim), &limits).unwrap();
        assert_eq!(rows(&again, 0).len(), 7 * 360);
    }

    #[test]
    fn files_do_not_pile_up_while_a_disk_is_full() {
        let sim = Sim::new(1);
        let (store, mut keeper, _) = Store::on(Arc::new(sim.clone()), &limits()).unwrap();
        record(&store, &mut keeper, 3, 0, 3 * H);
        let before = sim.files().len();
        sim.set_room(Some(500));
        record(&store, &mut keeper, 3, 3 * H, 9 * H);
        assert!(store.archive().failing.is_some());
        assert!(sim.files().len() <= before + 3, "{:?}", sim.files());
        sim.set_room(None);
        record(&store, &mut keeper, 3, 9 * H, 10 * H);
        keeper.step(10 * H);
        assert_eq!((store.archive().failing, rows(&store, 2).len()), (None, 10 * 360));
        let (again, ..) = Store::on(Arc::new(sim), &limits()).unwrap();
        assert_eq!(rows(&again, 2).len(), 10 * 360);
    }

    #[test]
    fn a_file_of_a_later_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (store, mut keeper, _) = Store::open(folder.path(), &limits()).unwrap();
        record(&store, &mut keeper, 1, 0, H);
        keeper.close(H);
        drop(store);
        let log = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
        let log = log.filter(|path| path.to_str().unwrap().contains("log-")).max().unwrap();
        let newer = archive::of_a_later_version(&std::fs::read(&log).unwrap());
        std::fs::write(&log, &newer).unwrap();
        let (store, mut keeper, restored) = Store::open(folder.path(), &limits()).unwrap();
        assert_eq!(restored.newer, [log.file_name().unwrap().to_str().unwrap()]);
        record(&store, &mut keeper, 1, 2 * H, 3 * H);
        keeper.close(3 * H);
        assert_eq!(std::fs::read(&log).unwrap(), newer);
    }
}
