//! A folder of history looked into, whether or not a host is writing it: nothing is changed, and no lock is needed.

use crate::archive::{self, Disk as _, Folder, Restored, Role, Snapshot};
use crate::frame::{Frame, Row, Shared};
use crate::rows::Rows;
use crate::{InstanceId, Kind, Limits, Schema};
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// What there is in a folder, and what it takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// A host has the folder locked.
    pub in_use: bool,
    pub log: Files,
    /// Blocks as they were sealed.
    pub fresh: Files,
    /// Blocks merged.
    pub settled: Files,
    pub notes: Files,
    /// Those that have rows.
    pub instances: usize,
    pub frames: usize,
    pub blocks: u64,
    pub rows: u64,
    /// Rows times fields.
    pub values: u64,
    pub oldest_ms: Option<i64>,
    pub newest_ms: Option<i64>,
    /// Places that made no sense, as far as a start looks; [`verify`] finds all.
    pub damaged: u64,
    /// Files of a later version; and those that could not be read, with why.
    pub newer: Vec<String>,
    pub unreadable: Vec<(String, String)>,
}

/// Files of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files {
    pub files: u64,
    pub bytes: u64,
}

/// A place in a file that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub file: String,
    /// Where the record begins.
    pub offset: u64,
    pub what: String,
}

/// What reading everything came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verified {
    pub files: u64,
    pub bytes: u64,
    /// Those that are whole.
    pub records: u64,
    /// Blocks that could be unpacked, and their rows with those of logs; what is in two files is counted twice.
    pub blocks: u64,
    pub rows: u64,
    pub damaged: Vec<Finding>,
    /// Ends of files whose writer was stopped in the middle of a record. They are harmless: nobody was told that what
    /// they held was written.
    pub torn: Vec<Finding>,
    /// Files of a later version, which were not looked into.
    pub newer: Vec<String>,
}

/// Which rows to export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// None: all.
    pub instances: Vec<InstanceId>,
    /// Inclusive.
    pub since_ms: i64,
    /// Exclusive.
    pub until_ms: i64,
}

/// History as it was when it was opened.
#[derive(Debug)]
pub struct Export {
    /// By instance, then by sampler; of one sampler the older first.
    pub frames: Vec<Exported>,
    /// What did not come back is not exported.
    pub restored: Restored,
}

/// One sampler's rows for one instance.
#[derive(Debug)]
pub struct Exported {
    frame: Arc<Frame>,
    since_ms: i64,
    until_ms: i64,
}

impl Default for Filter {
    fn default() -> Self {
        Self { instances: Vec::new(), since_ms: i64::MIN, until_ms: i64::MAX }
    }
}

/// What there is in a folder. It reads no more than a host does when it starts.
pub fn stats(folder: &Path) -> io::Result<Stats> {
    let folder = Folder::unlocked(folder)?;
    let in_use = folder.is_in_use();
    let disk = snapshot(folder)?;
    let mut stats = Stats { in_use, ..Stats::default() };
    for name in disk.list()? {
        let files = match Role::of(&name) {
            Some(Role::Log) => &mut stats.log,
            Some(Role::Fresh) => &mut stats.fresh,
            Some(Role::Settled) => &mut stats.settled,
            Some(Role::Notes) => &mut stats.notes,
            None => continue,
        };
        files.files += 1;
        files.bytes += disk.open(&name).and_then(|file| file.size()).unwrap_or(0);
    }
    let (frames, restored) = restore(disk)?;
    let frames: Vec<_> = frames.iter().filter(|frame| !frame.is_empty()).collect();
    stats.instances = frames.iter().map(|frame| &frame.key().instance).collect::<HashSet<_>>().len();
    stats.frames = frames.len();
    stats.blocks = restored.blocks as u64;
    for frame in frames {
        let rows = frame.len() as u64;
        stats.rows += rows;
        stats.values += rows * frame.schema().fields().len() as u64;
        let oldest = frame.oldest_at_ms();
        stats.oldest_ms = stats.oldest_ms.into_iter().chain(oldest).min();
        stats.newest_ms = stats.newest_ms.max(frame.latest_at_ms());
    }
    Ok(Stats { damaged: restored.damaged, newer: restored.newer, unreadable: restored.unreadable, ..stats })
}

/// Reads everything there is in a folder, unpacks all of it, and looks for what makes no sense. `progress` is told how
/// many bytes of how many are done.
pub fn verify(folder: &Path, mut progress: impl FnMut(u64, u64)) -> io::Result<Verified> {
    let disk = snapshot(Folder::unlocked(folder)?)?;
    archive::verify(&disk, &mut progress)
}

/// Opens history to hand over its rows: all there are in files, also those a host would answer with no more.
pub fn export(folder: &Path, filter: &Filter) -> io::Result<Export> {
    let (mut frames, restored) = restore(snapshot(Folder::unlocked(folder)?)?)?;
    let wanted = &filter.instances;
    frames.retain(|frame| !frame.is_empty() && (wanted.is_empty() || wanted.contains(&frame.key().instance)));
    frames.sort_by(|a, b| {
        let order =
            |frame: &Arc<Frame>| (frame.key().instance.clone(), frame.schema().sampler().clone(), frame.key().born);
        order(a).cmp(&order(b))
    });
    let Filter { since_ms, until_ms, .. } = *filter;
    let frames = frames.into_iter().map(|frame| Exported { frame, since_ms, until_ms }).collect();
    Ok(Export { frames, restored })
}

fn snapshot(folder: Folder) -> io::Result<Snapshot> {
    // Logs before segments: what leaves a log meanwhile is in a segment.
    Snapshot::take(folder, |name| Role::of(name).is_some(), |name| Role::of(name) == Some(Role::Log))
}

fn restore(disk: Snapshot) -> io::Result<(Vec<Arc<Frame>>, Restored)> {
    let limits = Limits { samples: usize::MAX, block_cache: 1 << 20, ..Limits::default() };
    let (_, frames, _, restored) = archive::restore(Arc::new(disk), &Arc::new(Shared::new(&limits, true)))?;
    Ok((frames, restored))
}

impl Stats {
    /// In all files.
    pub fn bytes(&self) -> u64 {
        [self.log, self.fresh, self.settled, self.notes].iter().map(|files| files.bytes).sum()
    }

    /// None: there are no values.
    pub fn bytes_per_value(&self) -> Option<f64> {
        (self.values > 0).then(|| self.bytes() as f64 / self.values as f64)
    }
}

impl Verified {
    /// Nothing is damaged.
    pub fn is_whole(&self) -> bool {
        self.damaged.is_empty()
    }
}

impl Exported {
    pub fn instance(&self) -> &InstanceId {
        &self.frame.key().instance
    }

    pub fn schema(&self) -> &Schema {
        self.frame.schema()
    }

    /// Hands over the rows, ascending in time. Returns how many blocks could not be read, and are missing.
    pub fn rows<E>(&self, mut each: impl FnMut(&Row) -> Result<(), E>) -> Result<u64, E> {
        let view = self.frame.view();
        let mut unreadable = 0;
        for block in view.blocks.iter().filter(|block| self.overlaps(block.first_ms, block.last_ms)) {
            match block.unpack(self.schema()) {
                Ok(rows) => self.hand_over(rows, &mut each)?,
                Err(_) => unreadable += 1,
            }
        }
        for open in &view.opens {
            self.hand_over(open.read(open.len()), &mut each)?;
        }
        Ok(unreadable)
    }

    fn hand_over<E>(&self, rows: Rows, each: &mut impl FnMut(&Row) -> Result<(), E>) -> Result<(), E> {
        let fields = self.schema().fields();
        let is_counter = |field: usize| fields.get(field).is_some_and(|field| field.kind != Kind::Gauge);
        let values = rows.clone().into_values(self.schema());
        let at = |columns: &[Vec<f64>], field: usize, nth: usize| {
            columns.get(field).and_then(|column| column.get(nth)).copied().unwrap_or(f64::NAN)
        };
        let mut row = Row { at_ms: 0, values: Vec::new(), totals: Vec::new() };
        for (nth, &at_ms) in rows.at_ms.iter().enumerate().filter(|(_, at_ms)| self.is_wanted(**at_ms)) {
            row.at_ms = at_ms;
            row.values.clear();
            row.values.extend((0..fields.len()).map(|field| at(&values.columns, field, nth)));
            row.totals.clear();
            let total = |field| if is_counter(field) { at(&rows.columns, field, nth) } else { f64::NAN };
            row.totals.extend((0..fields.len()).map(total));
            each(&row)?;
        }
        Ok(())
    }

    /// Hands over what is stored of one field, a counter's totals, ascending in time and without gaps. Returns how many
    /// blocks could not be read, and are missing.
    pub fn readings<E>(&self, field: usize, mut each: impl FnMut(i64, f64) -> Result<(), E>) -> Result<u64, E> {
        let view = self.frame.view();
        let mut unreadable = 0;
        let mut hand_over = |at_ms: i64, reading: f64| {
            if self.is_wanted(at_ms) && !reading.is_nan() { each(at_ms, reading) } else { Ok(()) }
        };
        for block in view.blocks.iter().filter(|block| self.overlaps(block.first_ms, block.last_ms)) {
            match block.column(self.schema(), field) {
                Ok((at_ms, readings)) => at_ms.into_iter().zip(readings).try_for_each(|(at, x)| hand_over(at, x))?,
                Err(_) => unreadable += 1,
            }
        }
        for open in &view.opens {
            let rows = (0..open.len()).filter_map(|row| Some((open.at_ms(row)?, open.reading(field, row))));
            rows.into_iter().try_for_each(|(at, x)| hand_over(at, x))?;
        }
        Ok(unreadable)
    }

    fn overlaps(&self, first_ms: i64, last_ms: i64) -> bool {
        last_ms >= self.since_ms && first_ms < self.until_ms
    }

    fn is_wanted(&self, at_ms: i64) -> bool {
        self.overlaps(at_ms, at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Aggregation, Field, Keeper, Query, Store};
    use std::fs;

    const BEGIN_MS: i64 = 1_700_000_000_000;
    const INTERVAL_MS: i64 = 10_000;
    const HOURS: i64 = 20;
    const H: i64 = 3_600_000;

    fn instances() -> [InstanceId; 2] {
        ["a", "b"].map(|id| InstanceId::new(id).unwrap())
    }

    fn schema() -> Schema {
        let gauge = Field { precision: 0.01, ..Field::gauge("level") };
        let gaps = Field { aggregation: Aggregation::Last, ..Field::gauge("gaps") };
        Schema::new("s", vec![gauge, Field::counter("rate", 2.0), gaps])
    }

    /// What is pushed nth.
    fn row(nth: i64) -> [f64; 3] {
        let x = nth as f64;
        let total = if nth % 1000 < 500 { x * 3.0 } else { (nth % 1000) as f64 };
        [((x / 50.0).sin() * 1e4).round() / 100.0, total, if nth % 7 == 0 { f64::NAN } else { x * 0.1 }]
    }

    fn rows() -> i64 {
        HOURS * H / INTERVAL_MS
    }

    fn at_ms(nth: i64) -> i64 {
        BEGIN_MS + nth * INTERVAL_MS
    }

    /// Hours of rows, most of them merged, the last in a log; still open.
    fn archive(folder: &Path) -> (Store, Keeper) {
        let (store, mut keeper, _) = Store::open(folder, &Limits::default()).unwrap();
        for nth in 0..rows() {
            for instance in instances() {
                store.frame(&instance, &schema(), INTERVAL_MS).push(at_ms(nth), &row(nth));
            }
            if nth % 60 == 0 {
                store.note(&format!("note {nth}"), Some(vec![nth as u8; 20]));
                keeper.step(at_ms(nth));
            }
        }
        keeper.step(at_ms(rows()));
        (store, keeper)
    }

    fn closed(folder: &Path) {
        let (_, keeper) = archive(folder);
        keeper.close(at_ms(rows()));
    }

    fn whole(folder: &Path) -> Verified {
        verify(folder, |_, _| {}).unwrap()
    }

    fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        files
    }

    fn one_of(folder: &Path, kind: &str) -> (String, Vec<u8>) {
        let found = files(folder).into_iter().find(|(name, _)| name.starts_with(kind));
        found.unwrap_or_else(|| panic!("a file {kind}"))
    }

    fn all_rows(export: &Export) -> Vec<(InstanceId, Row)> {
        let mut all = Vec::new();
        for frame in &export.frames {
            let mut take = |row: &Row| {
                all.push((frame.instance().clone(), row.clone()));
                Ok::<_, ()>(())
            };
            assert_eq!(frame.rows(&mut take), Ok(0));
        }
        all
    }

    fn bits(values: &[f64]) -> Vec<u64> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn what_was_written_is_whole_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        closed(folder.path());
        let stats = stats(folder.path()).unwrap();
        let all = 2 * rows() as u64;
        assert_eq!((stats.instances, stats.frames, stats.rows, stats.values), (2, 2, all, 3 * all));
        assert_eq!((stats.oldest_ms, stats.newest_ms), (Some(BEGIN_MS), Some(at_ms(rows() - 1))));
        assert_eq!((stats.in_use, stats.damaged), (false, 0));
        for files in [stats.log, stats.fresh, stats.settled, stats.notes] {
            assert!(files.files > 0 && files.bytes > 0, "{stats:?}");
        }
        assert!((0.1..4.0).contains(&stats.bytes_per_value().unwrap()), "{stats:?}");

        let mut last = (0, 0);
        let verified = verify(folder.path(), |done, of| last = (done, of)).unwrap();
        assert!(verified.is_whole() && verified.torn.is_empty() && verified.newer.is_empty(), "{verified:?}");
        assert_eq!(last, (stats.bytes(), stats.bytes()));
        assert_eq!(verified.bytes, stats.bytes());
        assert!(verified.blocks >= stats.blocks && verified.rows >= all, "{verified:?}");
    }

    #[test]
    fn a_flipped_bit_in_any_file_is_found_and_its_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        closed(folder.path());
        for kind in ["log-", "new-", "seg-", "notes-"] {
            let (name, bytes) = one_of(folder.path(), kind);
            for at in [bytes.len() / 3, bytes.len() / 2] {
                let mut flipped = bytes.clone();
                flipped[at] ^= 0x10;
                fs::write(folder.path().join(&name), flipped).unwrap();
                let verified = whole(folder.path());
                let first = verified.damaged.first().unwrap_or_else(|| panic!("{name} at {at}: {verified:?}"));
                assert!(first.offset <= at as u64, "{first:?}");
                assert!(verified.damaged.iter().all(|found| found.file == name), "{verified:?}");
            }
            fs::write(folder.path().join(&name), bytes).unwrap();
        }
        assert!(whole(folder.path()).is_whole());
    }

    #[test]
    fn a_log_that_was_cut_off_is_torn_and_a_settled_file_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        closed(folder.path());
        for (kind, torn, damaged) in [("log-", true, false), ("new-", true, false), ("seg-", false, true)] {
            let (name, bytes) = one_of(folder.path(), kind);
            fs::write(folder.path().join(&name), &bytes[..bytes.len() - 3]).unwrap();
            let verified = whole(folder.path());
            let names = |found: &[Finding]| found.iter().any(|found| found.file == name);
            assert_eq!((names(&verified.torn), names(&verified.damaged)), (torn, damaged), "{verified:?}");
            assert_eq!(verified.is_whole(), !damaged);
            fs::write(folder.path().join(&name), bytes).unwrap();
        }
    }

    #[test]
    fn exported_are_exactly_the_rows_that_were_pushed() {
        let folder = tempfile::tempdir().unwrap();
        let (store, keeper) = archive(folder.path());
        let query = Query { since_ms: 0, until_ms: i64::MAX / 2, step_ms: 1, ..Query::default() };
        let queried = store.range(&instances()[0], &query);
        keeper.close(at_ms(rows()));
        let exported = all_rows(&export(folder.path(), &Filter::default()).unwrap());
        assert_eq!(exported.len() as i64, 2 * rows());
        for (nth, (instance, exported)) in exported.iter().enumerate() {
            let nth = nth as i64;
            let [level, total, gaps] = row(nth % rows());
            assert_eq!(*instance, instances()[(nth / rows()) as usize]);
            assert_eq!(exported.at_ms, at_ms(nth % rows()));
            assert_eq!(bits(&exported.totals), bits(&[f64::NAN, total, f64::NAN]));
            assert_eq!(bits(&[exported.values[0], exported.values[2]]), bits(&[level, gaps]), "{nth}");
        }
        let first = &exported[..rows() as usize];
        assert_eq!(queried.at_ms, first.iter().map(|(_, row)| row.at_ms).collect::<Vec<_>>());
        let rates: Vec<f64> = first.iter().map(|(_, row)| row.values[1]).collect();
        assert_eq!(bits(&queried.column("rate").unwrap().values), bits(&rates));
    }

    #[test]
    fn one_field_is_exported_as_it_is_stored_and_without_gaps() {
        let folder = tempfile::tempdir().unwrap();
        closed(folder.path());
        let export = export(folder.path(), &Filter::default()).unwrap();
        for field in 0..3 {
            let pushed = (0..rows()).map(|nth| (at_ms(nth), row(nth)[field])).filter(|(_, reading)| !reading.is_nan());
            let mut exported = Vec::new();
            let take = |at, reading: f64| {
                exported.push((at, reading));
                Ok::<_, ()>(())
            };
            assert_eq!(export.frames[1].readings(field, take), Ok(0));
            assert_eq!(exported, pushed.collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_filter_leaves_what_it_asks_for() {
        let folder = tempfile::tempdir().unwrap();
        closed(folder.path());
        let [_, b] = instances();
        let filter = Filter { instances: vec![b.clone()], since_ms: at_ms(100), until_ms: at_ms(5000) };
        let rows = all_rows(&export(folder.path(), &filter).unwrap());
        assert!(rows.iter().all(|(instance, _)| *instance == b));
        let at: Vec<i64> = rows.iter().map(|(_, row)| row.at_ms).collect();
        assert_eq!(at, (100..5000).map(at_ms).collect::<Vec<_>>());
    }

    #[test]
    fn a_running_hosts_history_is_read_and_nothing_in_its_folder_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (store, mut keeper) = archive(folder.path());
        fs::write(folder.path().join("tmp-0000000099"), "being merged").unwrap();
        let before = files(folder.path());
        assert!(stats(folder.path()).unwrap().in_use);
        assert!(whole(folder.path()).is_whole());
        let export = export(folder.path(), &Filter::default()).unwrap();
        assert_eq!(files(folder.path()), before);
        // What it has open stays as it was, also when the files are merged and deleted.
        for nth in rows()..rows() + 12 * H / INTERVAL_MS {
            store.frame(&instances()[0], &schema(), INTERVAL_MS).push(at_ms(nth), &row(nth));
            if nth % 60 == 0 {
                keeper.step(at_ms(nth));
            }
        }
        let gone = before.iter().filter(|(name, _)| !folder.path().join(name).exists()).count();
        assert!(gone > 0, "some were merged");
        assert_eq!(all_rows(&export).len() as i64, 2 * rows());
        drop(keeper);
        assert!(!stats(folder.path()).unwrap().in_use);
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_and_an_empty_one_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("history");
        assert_eq!(stats(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(verify(&missing, |_, _| {}).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(export(&missing, &Filter::default()).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(stats(folder.path()).unwrap(), Stats::default());
        assert!(!missing.exists());
    }
}
