//! Files that several rows of one tick use.

use crate::clock::Moment;
use crate::cpu::SystemStat;
use crate::memory::Memory;
use crate::{cgroup, clock, cpu, memory};
use dropsonde_guest::files::{self, FileError};
use dropsonde_guest::{Failure, Tick};
use std::collections::BTreeMap;

/// Most bytes to read of one file: enough for a mount table with ten thousand containers, or /proc/stat with thousands
/// of CPUs.
const LARGEST_FILE: usize = 16 << 20;

/// Reads each file at most once, when it is first needed. So all rows of a tick agree, and unused files are not read.
#[derive(Default)]
pub(crate) struct TickFiles {
    tick: Option<Tick>,
    texts: BTreeMap<&'static str, Result<String, Failure>>,
    stat: Option<Option<SystemStat>>,
    memory: Option<Memory>,
}

// === impl TickFiles ===

impl TickFiles {
    pub(crate) fn at(tick: &Tick) -> Self {
        Self { tick: Some(*tick), ..Self::default() }
    }

    pub(crate) fn text(&mut self, path: &'static str) -> Result<&str, Failure> {
        let text = self.texts.entry(path).or_insert_with(|| Ok(read(path)?));
        text.as_deref().map_err(|failure| failure.clone())
    }

    /// Returns memory and swap of the surrounding container, or else of the machine.
    pub(crate) fn memory(&mut self) -> Memory {
        if let Some(memory) = self.memory {
            return memory;
        }
        let machine = self.text(memory::MEMINFO).map(memory::parse).unwrap_or_default();
        *self.memory.insert(cgroup::container(machine).unwrap_or(machine))
    }

    /// Returns the seconds since boot.
    pub(crate) fn uptime(&mut self) -> Result<Option<f64>, Failure> {
        self.text(clock::UPTIME).map(clock::parse_uptime)
    }

    /// Returns the moment of this tick.
    pub(crate) fn moment(&mut self) -> Moment {
        let uptime = self.uptime().ok().flatten();
        match &self.tick {
            Some(tick) => Moment::of(tick, uptime),
            None => Moment::after_boot(uptime),
        }
    }

    /// Returns the content of /proc/stat, if it can be read.
    pub(crate) fn stat(&mut self) -> Option<SystemStat> {
        if self.stat.is_none() {
            self.stat = Some(self.text(cpu::STAT).ok().map(cpu::parse));
        }
        self.stat.clone().flatten()
    }

    /// Returns the number of online CPUs, if it is known.
    pub(crate) fn cpus(&mut self) -> Option<f64> {
        self.stat().map(|stat| stat.cpus as f64)
    }

    /// Returns a text that identifies this boot of the machine; empty if nothing does.
    pub(crate) fn boot(&mut self) -> String {
        if let Ok(id) = self.text(crate::totals::BOOT_ID) {
            return id.trim().to_owned();
        }
        self.stat().and_then(|stat| stat.booted).map(|booted| booted.to_string()).unwrap_or_default()
    }
}

/// Reads a file of any size, up to [`LARGEST_FILE`].
fn read(path: &str) -> Result<String, FileError> {
    match files::read_to_string(path) {
        Err(FileError::TooLarge(..)) => {
            let bytes = files::read_large(path, LARGEST_FILE)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        other => other,
    }
}

#[cfg(test)]
impl TickFiles {
    /// Returns the given files instead of the machine's.
    pub(crate) fn given(texts: impl IntoIterator<Item = (&'static str, Result<&'static str, Failure>)>) -> Self {
        let texts = texts.into_iter().map(|(path, text)| (path, text.map(str::to_owned))).collect();
        Self { texts, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_told_by_its_id_else_by_its_time() {
        let missing = || Err(Failure::unavailable("not found"));
        let mut both =
            TickFiles::given([(crate::totals::BOOT_ID, Ok("4f3a-1\n")), (cpu::STAT, Ok("btime 1062191376\n"))]);
        assert_eq!(both.boot(), "4f3a-1");
        let mut time = TickFiles::given([(crate::totals::BOOT_ID, missing()), (cpu::STAT, Ok("btime 1062191376\n"))]);
        assert_eq!(time.boot(), "1062191376");
        let mut neither = TickFiles::given([(crate::totals::BOOT_ID, missing()), (cpu::STAT, missing())]);
        assert_eq!((neither.boot().as_str(), neither.cpus()), ("", None));
    }
}
