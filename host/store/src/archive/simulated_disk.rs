//! A simulated disk that loses everything in a crash that it may lose.

use super::disk::{AppendOnlyFile, Disk, ReadableFile};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

/// The number of bytes that a disk writes atomically.
const SECTOR: usize = 512;

/// A folder in memory that knows what is durable.
#[derive(Debug, Clone)]
pub(crate) struct SimulatedDisk(Arc<Mutex<SimulatedDiskState>>);

#[derive(Debug)]
struct SimulatedDiskState {
    random: SimRandom,
    names: BTreeMap<String, usize>,
    /// The names at the last sync.
    synced_names: BTreeMap<String, usize>,
    /// Changes of names since the last sync.
    changes: Vec<NameChange>,
    files: Vec<SimulatedData>,
    /// Operations until the power fails.
    left: Option<u32>,
    /// Bytes that still fit on the disk.
    room: Option<usize>,
    /// One in this many operations fails.
    fails: Option<u32>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Put(String, usize),
    Remove(String),
}

#[derive(Debug, Clone, Default)]
struct SimulatedData {
    bytes: Vec<u8>,
    synced: usize,
}

#[derive(Debug, Clone)]
pub(super) struct SimRandom(pub(super) u64);

impl SimRandom {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % bound
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

impl SimulatedDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(SimulatedDiskState {
            random: SimRandom(seed * 2 + 1),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            changes: Vec::new(),
            files: Vec::new(),
            left: None,
            room: None,
            fails: None,
        })))
    }

    fn state(&self) -> MutexGuard<'_, SimulatedDiskState> {
        self.0.lock().unwrap()
    }

    /// Makes every operation fail from now on, or none.
    pub(crate) fn fail(&self, always: bool) {
        self.fail_one_in(always.then_some(1));
    }

    /// Makes the power fail after a number of operations.
    pub(super) fn stop_after(&self, operations: u32) {
        self.state().left = Some(operations);
    }

    /// Makes one in a number of operations fail from now on, or none.
    pub(super) fn fail_one_in(&self, operations: Option<u32>) {
        self.state().fails = operations;
    }

    /// Sets the number of bytes that still fit; `None` for no limit.
    pub(crate) fn set_room(&self, bytes: Option<usize>) {
        self.state().room = bytes;
    }

    /// Returns the names of the files and their sizes.
    pub(crate) fn files(&self) -> BTreeMap<String, usize> {
        let state = self.state();
        state.names.iter().map(|(name, file)| (name.clone(), state.files[*file].bytes.len())).collect()
    }

    /// Returns whether the power has failed.
    pub(super) fn is_off(&self) -> bool {
        self.state().left == Some(0)
    }

    /// Restores the power: changes that were not synced may be lost.
    pub(super) fn restart(&self) {
        let mut state = self.state();
        let SimulatedDiskState { random, names, synced_names, changes, files, .. } = &mut *state;
        for change in changes.drain(..) {
            // Each change may have reached the disk or not, independent of those before it.
            if random.one_in(2) {
                continue;
            }
            match change {
                NameChange::Put(name, file) => {
                    synced_names.retain(|_, known| *known != file);
                    synced_names.insert(name, file);
                }
                NameChange::Remove(name) => {
                    synced_names.remove(&name);
                }
            }
        }
        names.clone_from(synced_names);
        for file in files.iter_mut() {
            // Sectors that were not synced reach the disk in any order; the file may end anywhere after the synced
            // part.
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

impl SimulatedDiskState {
    /// Counts an operation and returns an error if it must fail.
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

impl Disk for SimulatedDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.operate()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn AppendOnlyFile>> {
        let mut state = self.state();
        state.operate()?;
        assert!(!state.names.contains_key(name), "{name} exists already");
        let file = state.files.len();
        state.files.push(SimulatedData::default());
        state.names.insert(name.to_owned(), file);
        state.changes.push(NameChange::Put(name.to_owned(), file));
        Ok(Box::new(SimulatedFile { sim: self.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn ReadableFile>> {
        let mut state = self.state();
        state.operate()?;
        let file = *state.names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(SimulatedFile { sim: self.clone(), file }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let file = state.names.remove(from).ok_or(ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), file);
        state.changes.push(NameChange::Put(to.to_owned(), file));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        state.operate()?;
        let file = state.names.remove(name).ok_or(ErrorKind::NotFound)?;
        let freed = state.files[file].bytes.len();
        state.room = state.room.map(|room| room + freed);
        state.changes.push(NameChange::Remove(name.to_owned()));
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
struct SimulatedFile {
    sim: SimulatedDisk,
    file: usize,
}

impl AppendOnlyFile for SimulatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.sim.state();
        let done = state.operate();
        // A failed write may have written a part.
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

impl ReadableFile for SimulatedFile {
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
