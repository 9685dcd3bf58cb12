//! Tests an archive that is stopped at any point, on a simulated disk that loses all that it may lose. After a restart
//! the archive must have the state of one moment, not before the last flush.
//!
//! `DROPSONDE_CRASH_CASES` sets the number of cases.

use super::simulated_disk::{SimRandom, SimulatedDisk};
use crate::frame::Blocks;
use crate::{InstanceId, Keeper, Query, Schema, Store, StoreLimits, StoredField};
use std::collections::BTreeMap;
use std::sync::Arc;

/// More rows than a case writes, because rows in files count until they are too old.
const CAPACITY: usize = 1 << 20;

/// The states of a frame after each operation: all rows in the order they were written, and how many of them counted.
#[derive(Debug, Default)]
struct ExpectedRows {
    rows: Vec<(i64, f64)>,
    counted: usize,
    /// States by number of the operation.
    past: Vec<PastRows>,
}

/// The number of an operation, the rows after it, and how many of them counted.
type PastRows = (u32, Vec<(i64, f64)>, usize);

impl ExpectedRows {
    fn push(&mut self, operation: u32, at: i64, value: f64) {
        self.counted = (self.counted + 1).min(CAPACITY);
        self.rows.push((at, value));
        self.note(operation);
    }

    fn forget(&mut self, operation: u32) {
        self.rows.clear();
        self.counted = 0;
        self.note(operation);
    }

    fn note(&mut self, operation: u32) {
        self.past.push((operation, self.rows.clone(), self.counted));
    }

    /// Checks and takes over the rows that a restart found. They must be all rows that counted at some time since the
    /// last flush; the last rows may be missing if they were added since. Rows that a full ring had evicted may come
    /// back too.
    fn came_back(&mut self, flushed: u32, found: &[(i64, f64)]) -> Result<(), String> {
        let first = self.past.partition_point(|(operation, ..)| *operation <= flushed).saturating_sub(1);
        let fits = |(_, rows, counted): &&PastRows| {
            let (old, counted) = rows.split_at(rows.len() - counted);
            let (found_old, found) =
                found.split_at(found.len() - found.iter().rev().take_while(|row| counted.contains(row)).count());
            let (kept, lost) = counted.split_at(found.len());
            // A row's value is the operation that added it.
            kept == found && lost.iter().all(|(_, value)| *value > f64::from(flushed)) && is_part_of(found_old, old)
        };
        let possible = if self.past.is_empty() { &[(0, Vec::new(), 0)][..] } else { &self.past[first..] };
        let Some((operation, rows, _)) = possible.iter().rev().find(fits).filter(|_| found.len() <= CAPACITY) else {
            let ends: Vec<_> = possible.iter().map(|(_, rows, counted)| (rows.len(), *counted, rows.last())).collect();
            return Err(format!("{} rows came back, last {:?}; possible were {ends:?}", found.len(), found.last()));
        };
        let first = found.first().map_or(f64::MAX, |row| row.1);
        let older = rows.iter().take_while(|row| row.1 < first);
        (self.rows, self.counted) = (older.chain(found).copied().collect(), found.len());
        self.past = vec![(*operation, self.rows.clone(), self.counted)];
        Ok(())
    }
}

/// Returns whether `rows` are among `all`, in the same order.
fn is_part_of(rows: &[(i64, f64)], all: &[(i64, f64)]) -> bool {
    let mut all = all.iter();
    rows.iter().all(|row| all.any(|other| other == row))
}

/// Returns the rows in the order they were written.
fn rows_of(store: &Store, instance: &InstanceId) -> Vec<(i64, f64)> {
    let frames = store.frames(instance);
    let Some(frame) = frames.first() else { return Vec::new() };
    let view = frame.view();
    let blocks =
        view.blocks.iter().flat_map(Blocks::each).map(|block| (block.start_row, block.unpack(frame.schema()).unwrap()));
    let opens = view.opens.iter().map(|open| (open.start_row, open.read(open.len())));
    let first_row = view.first_row(CAPACITY as u64);
    let rows = blocks.chain(opens).flat_map(|(start_row, rows)| {
        let skip = first_row.saturating_sub(start_row) as usize;
        rows.at_ms.into_iter().zip(rows.columns[0].clone()).skip(skip).collect::<Vec<_>>()
    });
    rows.collect()
}

/// Returns the rows as queries see them: in the order of their times; of two with the same time the one written later.
fn answer(store: &Store, instance: &InstanceId) -> Vec<(i64, f64)> {
    let query = Query { since_ms: i64::MIN / 2, until_ms: i64::MAX / 2, step_ms: 1, ..Query::default() };
    let points = store.range(instance, &query);
    let values = points.column("x").map(|column| column.values.clone()).unwrap_or_default();
    points.at_ms.into_iter().zip(values).collect()
}

/// Restarts the store until a start is not interrupted.
fn start(sim: &SimulatedDisk, limits: &StoreLimits) -> (Store, Keeper) {
    loop {
        match Store::on(Arc::new(sim.clone()), limits) {
            Ok((store, keeper, restored)) if !sim.is_off() => {
                assert!(restored.unreadable.is_empty() && restored.newer.is_empty(), "{restored:?}");
                return (store, keeper);
            }
            Ok(_) => {}
            Err(error) => assert!(sim.is_off(), "the store does not start: {error}"),
        }
        sim.restart();
    }
}

fn case(seed: u64) -> Result<(), String> {
    let sim = SimulatedDisk::new(seed);
    let mut random = SimRandom(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let limits = StoreLimits { samples: CAPACITY, ..StoreLimits::default() };
    let schema = Schema::new("s", vec![StoredField::gauge("x")]);
    let instances: Vec<_> = (0..3).map(|n| InstanceId::new(format!("i{n}")).unwrap()).collect();
    let mut expected: Vec<ExpectedRows> = instances.iter().map(|_| ExpectedRows::default()).collect();
    let (mut noted, mut noted_flushed) = (0u32, 0u32);
    let (mut operation, mut now) = (0u32, 1_700_000_000_000i64);
    for _ in 0..4 {
        if random.one_in(2) {
            sim.stop_after(1 + random.below(20) as u32);
        }
        let (store, mut keeper) = start(&sim, &limits);
        let mut flushed = operation;
        for (instance, expected) in instances.iter().zip(&mut expected) {
            let rows = rows_of(&store, instance);
            expected.came_back(flushed, &rows)?;
            let by_time: BTreeMap<i64, f64> = rows.into_iter().collect();
            if answer(&store, instance) != by_time.into_iter().collect::<Vec<_>>() {
                return Err("queries do not answer what came back".to_owned());
            }
        }
        let note = store.notes("note").first().map_or(0, |(_, value)| u32::from(value[0]));
        if !(noted_flushed..=noted).contains(&note) {
            return Err(format!("note {note}, it was {noted_flushed} to {noted}"));
        }
        (noted, noted_flushed) = (note, note);
        // The restored state need not be on the disk again yet; the files it came from are.
        sim.fail_one_in(random.one_in(3).then(|| 2 + random.below(30) as u32));
        sim.stop_after(1 + random.below(200) as u32);
        while !sim.is_off() && operation < 100_000 {
            operation += 1;
            let n = random.below(3) as usize;
            match random.below(100) {
                0 => {
                    store.remove(&instances[n]);
                    expected[n].forget(operation);
                }
                1 => {
                    noted += 1;
                    store.note("note", Some(vec![noted as u8])).unwrap();
                }
                2 => now += 3_600_000 * (1 + random.below(8) as i64),
                3 => {
                    let most = if random.one_in(3) { 100 * 86_400_000 } else { 100_000 };
                    now -= random.below(most) as i64;
                }
                4..15 => {
                    keeper.step(now);
                    if store.archive().failing.is_none() && !sim.is_off() {
                        (flushed, noted_flushed) = (operation, noted);
                    }
                }
                _ => {
                    now += 1 + random.below(12_000) as i64;
                    let value = f64::from(operation);
                    store.frame(&instances[n], &schema, 100).push(now, &[value]);
                    expected[n].push(operation, now, value);
                }
            }
        }
        operation = operation.max(flushed);
        for expected in &mut expected {
            let first = expected.past.partition_point(|(operation, ..)| *operation <= flushed).saturating_sub(1);
            expected.past.drain(..first);
        }
        sim.restart();
        // After this start any state since that flush is right.
        operation += 1;
        let before = flushed;
        let (store, _) = start(&sim, &limits);
        for (instance, expected) in instances.iter().zip(&mut expected) {
            expected.came_back(before, &rows_of(&store, instance))?;
        }
    }
    Ok(())
}

#[test]
fn a_restart_after_a_crash_restores_a_state_not_before_the_last_flush() {
    let cases: u64 = std::env::var("DROPSONDE_CRASH_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(3000);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let fails = |first| (first..cases).step_by(threads as usize).find_map(|seed| Some((seed, case(seed).err()?)));
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || fails(first))).collect();
        for thread in running {
            assert_eq!(thread.join().unwrap(), None);
        }
    });
}
