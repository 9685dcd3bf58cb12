//! When counters began: a collector computes rates of totals by the time since which they count.
//!
//! Nobody says when a counter of history began to count. So it counts since the first sample that is sent, and after a
//! total that is less than the one before, since the sample before. A gap changes nothing. A file keeps that over a
//! restart.

use anyhow::{Context as _, Result};
use dropsonde_sandbox::replace::{PRIVATE, replace_file};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Says which file it is, and in which version.
const MAGIC: &[u8; 8] = b"DSSTART1";

/// Bytes of a counter in the file.
const ENTRY: usize = 32;

/// A counter without samples for so long, in milliseconds, is forgotten.
const FORGET_MS: i64 = 86_400_000;

/// The time between two writes. What happens in between is found out again after a crash.
const WRITE: Duration = Duration::from_secs(60);

/// The longest time, in milliseconds, whose samples are looked at again for that.
const MOST_MISSING_MS: i64 = 600_000;

/// The beginnings of the counters that a server gets, by a number of their labels.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    /// The counters as of the end of the last window that was sent.
    known: HashMap<u64, Counter>,
    /// The counters that have samples in the window under way, as of its end.
    changes: HashMap<u64, Counter>,
    /// The end of that window. None: nothing is known.
    until_ms: Option<i64>,
    file: Option<PathBuf>,
    written: Option<Instant>,
    /// The end of the window that was sent before that.
    written_ms: Option<i64>,
}

/// A counter up to some time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Counter {
    start_ms: i64,
    last_ms: i64,
    last: f64,
}

/// Follows the samples of one counter.
#[derive(Debug)]
pub(super) struct CounterStart(Option<Counter>);

impl Starts {
    /// Reads what is known. `file`: the file in which it is kept; none: it is not kept.
    pub(crate) fn open(file: Option<PathBuf>) -> Self {
        let (until_ms, known) = file.as_ref().and_then(|file| read(&fs::read(file).ok()?)).unzip();
        Self {
            known: known.unwrap_or_default(),
            changes: HashMap::new(),
            until_ms,
            file,
            written: None,
            written_ms: None,
        }
    }

    /// Returns the state of a counter at the start of the window under way.
    pub(super) fn counter(&self, number: u64) -> CounterStart {
        CounterStart(self.known.get(&number).copied())
    }

    /// Notes the state of a counter at the end of the window under way.
    pub(super) fn note(&mut self, number: u64, counter: CounterStart) {
        if let Some(counter) = counter.0 {
            self.changes.insert(number, counter);
        }
    }

    /// Returns the time from which on samples must be looked at before those from `from_ms` on are sent: a crash can
    /// lose what was found out last. None: nothing is missing, or too much.
    pub(crate) fn missing_since_ms(&self, from_ms: i64) -> Option<i64> {
        self.until_ms.filter(|until_ms| (1..=MOST_MISSING_MS).contains(&from_ms.saturating_sub(*until_ms)))
    }

    /// Notes that the window under way was sent, which ended at a time.
    pub(crate) fn sent(&mut self, until_ms: i64) {
        self.until_ms = Some(until_ms);
        self.known.extend(self.changes.drain());
        let is_far = self.written_ms.is_none_or(|written_ms| until_ms.saturating_sub(written_ms) > MOST_MISSING_MS / 2);
        if is_far || self.written.is_none_or(|written| written.elapsed() >= WRITE) {
            self.write();
        }
    }

    /// Notes that the window under way is made again.
    pub(crate) fn rewind(&mut self) {
        self.changes.clear();
    }

    /// All counters begin anew.
    pub(crate) fn forget(&mut self) {
        (self.until_ms, self.known, self.changes) = (None, HashMap::new(), HashMap::new());
    }

    fn write(&mut self) {
        (self.written, self.written_ms) = (Some(Instant::now()), self.until_ms);
        let newest_ms = self.known.values().map(|counter| counter.last_ms).max().unwrap_or(i64::MIN);
        self.known.retain(|_, counter| counter.last_ms >= newest_ms.saturating_sub(FORGET_MS));
        let (Some(file), Some(until_ms)) = (&self.file, self.until_ms) else { return };
        if self.known.is_empty() && !file.exists() {
            return;
        }
        if let Err(error) = save(file, until_ms, &self.known) {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot note when counters began; after a restart they begin anew"
            );
        }
    }
}

impl Drop for Starts {
    fn drop(&mut self) {
        self.write();
    }
}

impl CounterStart {
    /// Returns the time since which the total of a sample counts.
    pub(super) fn of(&mut self, at_ms: i64, total: f64) -> i64 {
        let counter = match self.0 {
            // A crash can set the cursor back to before what is known.
            Some(counter) if at_ms <= counter.last_ms => return counter.start_ms.min(at_ms),
            Some(counter) if total < counter.last => Counter { start_ms: counter.last_ms, last_ms: at_ms, last: total },
            Some(counter) => Counter { last_ms: at_ms, last: total, ..counter },
            None => Counter { start_ms: at_ms, last_ms: at_ms, last: total },
        };
        self.0 = Some(counter);
        counter.start_ms
    }

    /// Returns the time since which a counter counts that has no total at a time.
    pub(super) fn without(&self, at_ms: i64) -> i64 {
        self.0.map_or(at_ms, |counter| counter.start_ms.min(at_ms))
    }
}

/// Reads the time up to which counters are known, and the counters.
fn read(bytes: &[u8]) -> Option<(i64, HashMap<u64, Counter>)> {
    let (content, sum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    if crc32fast::hash(content) != u32::from_le_bytes(sum.try_into().ok()?) {
        return None;
    }
    let (until_ms, entries) = content.strip_prefix(MAGIC)?.split_at_checked(8)?;
    let until_ms = i64::from_le_bytes(until_ms.try_into().ok()?);
    let entry = |entry: &[u8]| {
        let word = |nth: usize| Some(u64::from_le_bytes(entry.get(nth * 8..nth * 8 + 8)?.try_into().ok()?));
        let counter = Counter { start_ms: word(1)? as i64, last_ms: word(2)? as i64, last: f64::from_bits(word(3)?) };
        Some((word(0)?, counter))
    };
    Some((until_ms, entries.chunks_exact(ENTRY).map(entry).collect::<Option<_>>()?))
}

fn save(file: &Path, until_ms: i64, known: &HashMap<u64, Counter>) -> Result<()> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(until_ms.to_le_bytes());
    for (number, Counter { start_ms, last_ms, last }) in known {
        let words = [*number, *start_ms as u64, *last_ms as u64, last.to_bits()];
        bytes.extend(words.into_iter().flat_map(u64::to_le_bytes));
    }
    bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
    replace_file(file, &bytes, PRIVATE).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_counts_since_its_first_sample_and_anew_after_a_reset() {
        let mut counter = CounterStart(None);
        let starts = [(10, 5.0), (20, 7.0), (30, 7.0), (40, 1.0), (50, 2.0)].map(|(at, total)| counter.of(at, total));
        assert_eq!(starts, [10, 10, 10, 30, 30]);
        assert_eq!((counter.without(60), counter.of(70, 9.0)), (30, 30), "a gap is no reset");
    }

    #[test]
    fn what_is_known_of_counters_survives_a_restart_and_a_window_that_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.starts");
        let mut starts = Starts::open(Some(file.clone()));
        let add = |starts: &mut Starts, at_ms, total| {
            let mut counter = starts.counter(7);
            let start_ms = counter.of(at_ms, total);
            starts.note(7, counter);
            start_ms
        };
        assert_eq!(add(&mut starts, 10, 5.0), 10);
        starts.sent(11);
        assert_eq!(add(&mut starts, 20, 5.5), 10);
        starts.sent(21);
        assert_eq!(add(&mut starts, 30, 1.0), 20);
        starts.rewind();
        assert_eq!(add(&mut starts, 30, 6.0), 10, "of a window that was not sent nothing stays");
        starts.sent(31);
        drop(starts);
        let mut starts = Starts::open(Some(file.clone()));
        assert_eq!((starts.missing_since_ms(31), starts.missing_since_ms(41)), (None, Some(31)));
        assert_eq!(add(&mut starts, 15, 5.5), 10, "a cursor that is behind");
        assert_eq!(add(&mut starts, 40, 6.0), 10);
        drop(starts);
        fs::write(&file, b"DSSTART1 garbage").unwrap();
        assert!(Starts::open(Some(file)).known.is_empty());
    }
}
