//! A disk that keeps only what it must, and an archive that is stopped on it at every point: what comes back is always
//! what was there at one moment, not before the last flush.
//!
//! `DROPSONDE_CRASH_CASES` says how many cases to try.

use super::disk::{Disk, Growing, Readable};
use crate::{Field, InstanceId, Keeper, Limits, Query, Schema, Store};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a disk writes at once, or not.
const SECTOR: usize = 512;

/// A folder in memory that knows what is sure to stay.
#[derive(Debug, Clone)]
pub(crate) struct Sim(Arc<Mutex<State>>);

#[derive(Debug)]
pub(crate) struct State {
    random: Random,
    names: BTreeMap<String, usize>,
    /// As a crash leaves them, at least.
    synced_names: BTreeMap<String, usize>,
    /// Since then.
    changes: Vec<Change>,
    files: Vec<Data>,
    /// Operations until the power goes.
    left: Option<u32>,
    /// Bytes that fit yet.
    room: Option<usize>,
    /// One in so many operations fails.
    fails: Option<u32>,
}

#[derive(Debug, Clone)]
enum Change {
    Put(String, usize),
    Remove(String),
}

#[derive(Debug, Clone, Default)]
struct Data {
    bytes: Vec<u8>,
    synced: usize,
}

#[derive(Debug, Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            random: Random(seed * 2 + 1),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            changes: Vec::new(),
            files: Vec::new(),
            left: None,
            room: None,
            fails: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// From now on every operation fails, or none does.
    pub(crate) fn fail(&self, always: bool) {
        self.state().fails = always.then_some(1);
    }

    /// From now on so many bytes fit.
    pub(crate) fn set_room(&self, bytes: Option<usize>) {
        self.state().room = bytes;
    }

    /// Names of files and their bytes.
    pub(crate) fn files(&self) -> BTreeMap<String, usize> {
        let state = self.state();
        state.names.iter().map(|(name, file)| (name.clone(), state.files[*file].bytes.len())).collect()
    }

    fn is_off(&self) -> bool {
        self.state().left == Some(0)
    }

    /// The power comes back.
    fn restart(&self) {
        let mut state = self.state();
        let State { random, names, synced_names, changes, files, .. } = &mut *state;
        for change in changes.drain(..) {
            // Each may have reached the disk or not, whatever came before it.
            if random.one_in(2) {
                continue;
            }
            match change {
                Change::Put(name, file) => {
                    synced_names.retain(|_, known| *known != file);
                    synced_names.insert(name, file);
                }
                Change::Remove(name) => {
                    synced_names.remove(&name);
                }
            }
        }
        names.clone_from(synced_names);
        for file in files.iter_mut() {
            // Sectors after what is certain come through in any order; the file ends somewhere.
            let end = file.synced + random.below((file.bytes.len() - file.synced) as u64 + 1) as usize;
            file.bytes.truncate(end);
            let mut at = file.synced;
            while at < end {
                let next = (at / SECTOR + 1) * SECTOR;
                if random.one_in(4) {
                    file.bytes[at..next.min(end)].fill(0);
                }
                at = next;
            }
            file.synced = file.bytes.len();
        }
        state.left = None;
        state.fails = None;
    }
}

impl State {
    /// Whether an operation takes place.
    fn operate(&mut self) -> io::Result<()> {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Err(io::Error::other("the power is off"));
            }
        }
        match self.fails {
            Some(fails) if self.random.one_in(fails.into()) => Err(ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

impl Disk for Sim {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.operate()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Growing>> {
        let mut state = self.state();
        state.operate()?;
        assert!(!state.names.contains_key(name), "{name} is there already");
        let file = state.files.len();
        state.files.push(Data::default());
        state.names.insert(name.to_owned(), file);
        state.changes.push(Change::Put(name.to_owned(), file));
        Ok(Box::new(SimFile { sim: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Readable>> {
        let mut state = self.state();
        state.operate()?;
        let file = *state.names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(SimFile { sim: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let file = state.names.remove(from).ok_or(ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        state.changes.push(Change::Put(to.to_owned(), file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let file = state.names.remove(name).ok_or(ErrorKind::NotFound)?;
        let freed = state.files[file].bytes.len();
        state.room = state.room.map(|room| room + freed);
        state.changes.push(Change::Remove(name.to_owned()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        state.synced_names = state.names.clone();
        state.changes.clear();
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile {
    sim: Sim,
    file: usize,
}

impl Growing for SimFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.sim.state();
        let done = state.operate();
        // A write that fails may have done part of its work.
        let written = match done {
            Ok(()) => bytes.len().min(state.room.unwrap_or(usize::MAX)),
            Err(_) => state.random.below(bytes.len() as u64 + 1) as usize,
        };
        state.files[self.file].bytes.extend_from_slice(&bytes[..written]);
        if let Some(room) = &mut state.room {
            *room -= written;
        }
        if done.is_ok() && written < bytes.len() { Err(ErrorKind::StorageFull.into()) } else { done }
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.sim.state();
        state.operate()?;
        let file = &mut state.files[self.file];
        file.synced = file.bytes.len();
        Ok(())
    }
}

impl Readable for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.sim.state().files[self.file].bytes.len() as u64)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.sim.state();
        if state.left == Some(0) {
            state.operate()?;
        }
        let from = offset as usize;
        let data = state.files[self.file].bytes.get(from..from + bytes.len());
        bytes.copy_from_slice(data.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

// === what must come back ===

/// More than a case writes: what is in files counts until it is too old.
const CAPACITY: usize = 1 << 20;

/// A frame as it was after each operation on it: all rows in the order they were written, and how many of them counted.
#[derive(Debug, Default)]
struct Expected {
    rows: Vec<(i64, f64)>,
    counted: usize,
    /// By number of the operation.
    past: Vec<Past>,
}

/// After which operation, the rows there were, and how many of them counted.
type Past = (u32, Vec<(i64, f64)>, usize);

impl Expected {
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

    /// Takes what came back: all that counted at some time since the last flush, but for the last rows, if those were
    /// added since too. Beside them rows may come back that a full ring had let go of.
    fn came_back(&mut self, flushed: u32, found: &[(i64, f64)]) -> Result<(), String> {
        let first = self.past.partition_point(|(operation, ..)| *operation <= flushed).saturating_sub(1);
        let fits = |(_, rows, counted): &&Past| {
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

/// Whether rows are among others, in their order.
fn is_part_of(rows: &[(i64, f64)], all: &[(i64, f64)]) -> bool {
    let mut all = all.iter();
    rows.iter().all(|row| all.any(|other| other == row))
}

/// In the order they were written.
fn rows_of(store: &Store, instance: &InstanceId) -> Vec<(i64, f64)> {
    let frames = store.frames(instance);
    let Some(frame) = frames.first() else { return Vec::new() };
    let view = frame.view();
    let blocks = view.blocks.iter().map(|block| (block.start_row, block.unpack(frame.schema()).unwrap()));
    let opens = view.opens.iter().map(|open| (open.start_row, open.read(open.len())));
    let first_row = view.first_row(CAPACITY as u64);
    let rows = blocks.chain(opens).flat_map(|(start_row, rows)| {
        let skip = first_row.saturating_sub(start_row) as usize;
        rows.at_ms.into_iter().zip(rows.columns[0].clone()).skip(skip).collect::<Vec<_>>()
    });
    rows.collect()
}

/// In the order of their times, of one time the later written, as queries have them.
fn answer(store: &Store, instance: &InstanceId) -> Vec<(i64, f64)> {
    let query = Query { since_ms: i64::MIN / 2, until_ms: i64::MAX / 2, step_ms: 1, ..Query::default() };
    let points = store.range(instance, &query);
    let values = points.column("x").map(|column| column.values.clone()).unwrap_or_default();
    points.at_ms.into_iter().zip(values).collect()
}

/// Starts until a start is not interrupted.
fn start(sim: &Sim, limits: &Limits) -> (Store, Keeper) {
    loop {
        match Store::on(Arc::new(sim.clone()), limits) {
            Ok((store, keeper, restored)) if !sim.is_off() => {
                assert!(restored.unreadable.is_empty() && restored.newer.is_empty(), "{restored:?}");
                return (store, keeper);
            }
            Ok(_) => {}
            Err(error) => assert!(sim.is_off(), "it does not start: {error}"),
        }
        sim.restart();
    }
}

fn case(seed: u64) -> Result<(), String> {
    let sim = Sim::new(seed);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let limits = Limits { samples: CAPACITY, ..Limits::default() };
    let schema = Schema::new("s", vec![Field::gauge("x")]);
    let instances: Vec<_> = (0..3).map(|n| InstanceId::new(format!("i{n}")).unwrap()).collect();
    let mut expected: Vec<Expected> = instances.iter().map(|_| Expected::default()).collect();
    let (mut noted, mut noted_flushed) = (0u32, 0u32);
    let (mut operation, mut now) = (0u32, 1_700_000_000_000i64);
    for _ in 0..4 {
        if random.one_in(2) {
            sim.state().left = Some(1 + random.below(20) as u32);
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
        // What came back need not be on the disk again yet; what brought it back is.
        {
            let mut state = sim.state();
            state.fails = random.one_in(3).then(|| 2 + random.below(30) as u32);
            state.left = Some(1 + random.below(200) as u32);
        }
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
        // From here on: anything since that flush.
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
fn what_comes_back_after_a_crash_is_what_was_there_since_the_last_flush() {
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
