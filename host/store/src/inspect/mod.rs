//! Reads a history folder, whether or not a host is writing it. Changes nothing and needs no lock.

#[cfg(test)]
mod tests;

use crate::archive::{self, Disk as _, FileRole, FolderSnapshot, HistoryFolder, NoteValues, RestoreReport};
use crate::codec::PagePart;
use crate::frame::{BlockRef, Blocks, Frame, FrameRow, FrameView, Readings, StoreResources};
use crate::rows::RawRows;
use crate::{ClockJump, InstanceId, Kind, ReadingScale, Schema, SeriesColumn, StoreLimits, StoreUsage, clock_jumps};
use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Stored history in a folder and its disk usage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FolderStats {
    /// Whether a host has the folder locked.
    pub in_use: bool,
    /// Files with rows that are in no block yet.
    pub log: FileTotals,
    /// Files with blocks as they were sealed.
    pub fresh: FileTotals,
    /// Files with merged blocks.
    pub settled: FileTotals,
    pub notes: FileTotals,
    /// Instances that have rows.
    pub instances: usize,
    /// Labelled series.
    pub series: usize,
    pub frames: usize,
    pub blocks: u64,
    pub rows: u64,
    /// Values: rows × fields.
    pub values: u64,
    /// The earliest time of a row, in milliseconds since 1970 UTC.
    pub oldest_ms: Option<i64>,
    /// The latest time of a row, in milliseconds since 1970 UTC.
    pub newest_ms: Option<i64>,
    /// Frames whose clock was set back while they were recorded.
    pub clock_set_back: u64,
    /// The last times that the clock was set, the oldest first.
    pub clock_jumps: Vec<ClockJump>,
    /// Corrupt places that a start would find; [`verify`] finds all.
    pub damaged: u64,
    /// Names of files of a later version, which are not read.
    pub newer: Vec<String>,
    /// Names of files that could not be read, and the error.
    pub unreadable: Vec<(String, String)>,
}

/// Files of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileTotals {
    pub files: u64,
    pub bytes: u64,
}

/// A corrupt or incomplete place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDefect {
    pub file: String,
    /// The offset of the record.
    pub offset: u64,
    /// A description of the damage.
    pub what: String,
}

/// The result of [`verify`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub files: u64,
    pub bytes: u64,
    /// Valid records.
    pub records: u64,
    /// Blocks that could be unpacked. A block in two files counts twice.
    pub blocks: u64,
    /// Rows of those blocks and of logs. A row in two files counts twice.
    pub rows: u64,
    /// Corrupt places.
    pub damaged: Vec<FileDefect>,
    /// Incomplete records at the ends of files, whose writer was stopped. They are harmless: their contents were never
    /// reported as written.
    pub torn: Vec<FileDefect>,
    /// Names of files of a later version, which were not checked.
    pub newer: Vec<String>,
    /// The last times that the clock was set, the oldest first.
    pub clock_jumps: Vec<ClockJump>,
}

/// Selects the rows to export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportFilter {
    /// The instances to export; empty for all.
    pub instances: Vec<InstanceId>,
    /// The earliest time to export, inclusive.
    pub since_ms: i64,
    /// The end of the time to export, exclusive.
    pub until_ms: i64,
}

/// The history at the time it was opened.
#[derive(Debug)]
pub struct Export {
    /// The frames by instance, then by sampler; of one sampler the older first.
    pub frames: Vec<ExportedFrame>,
    /// The notes by key.
    pub notes: BTreeMap<String, Vec<u8>>,
    /// The result of reading the files. History that could not be read is not exported.
    pub restored: RestoreReport,
}

/// One sampler's rows for one instance.
#[derive(Debug)]
pub struct ExportedFrame {
    frame: Arc<Frame>,
    since_ms: i64,
    until_ms: i64,
}

impl Default for ExportFilter {
    fn default() -> Self {
        Self { instances: Vec::new(), since_ms: i64::MIN, until_ms: i64::MAX }
    }
}

/// Returns whether a host has the folder locked.
pub fn is_in_use(folder: &Path) -> io::Result<bool> {
    Ok(HistoryFolder::unlocked(folder)?.is_in_use())
}

/// Counts the history in a folder. It reads no more than a host does when it starts.
pub fn stats(folder: &Path) -> io::Result<FolderStats> {
    let folder = HistoryFolder::unlocked(folder)?;
    let in_use = folder.is_in_use();
    let disk = snapshot(folder)?;
    let mut stats = FolderStats { in_use, ..FolderStats::default() };
    for name in disk.list()? {
        let files = match FileRole::of(&name) {
            Some(FileRole::Log) => &mut stats.log,
            Some(FileRole::Fresh) => &mut stats.fresh,
            Some(FileRole::Settled) => &mut stats.settled,
            Some(FileRole::Notes) => &mut stats.notes,
            None => continue,
        };
        files.files += 1;
        files.bytes += disk.open(&name).and_then(|file| file.size()).unwrap_or(0);
    }
    let (frames, values, restored) = restore(disk)?;
    stats.clock_jumps = values.get(clock_jumps::NOTE).map(|value| clock_jumps::read(value)).unwrap_or_default();
    let frames: Vec<_> = frames.iter().filter(|frame| !frame.is_empty()).collect();
    let (labelled, of_instances): (Vec<&Arc<Frame>>, Vec<&Arc<Frame>>) =
        frames.iter().partition(|frame| frame.schema().labels().is_some());
    stats.instances = of_instances.iter().map(|frame| &frame.key().instance).collect::<HashSet<_>>().len();
    let series = labelled.iter().flat_map(|frame| frame.schema().series().unwrap_or_default());
    stats.series = series.map(|(labels, _)| labels).collect::<HashSet<_>>().len();
    stats.frames = frames.len();
    let mut usage = StoreUsage::default();
    for frame in frames {
        frame.add_usage(&mut usage);
        let rows = frame.len() as u64;
        stats.values += rows * frame.schema().fields().len() as u64;
        let span = frame.span_ms();
        stats.oldest_ms = stats.oldest_ms.into_iter().chain(span.map(|span| span.0)).min();
        stats.newest_ms = stats.newest_ms.max(span.map(|span| span.1));
        stats.clock_set_back += u64::from(frame.generation() > 0);
    }
    (stats.blocks, stats.rows) = (usage.blocks, usage.rows);
    Ok(FolderStats { damaged: restored.damaged, newer: restored.newer, unreadable: restored.unreadable, ..stats })
}

/// Reads and unpacks everything in a folder, and reports what is corrupt. `progress` gets the number of bytes that are
/// done and the total.
pub fn verify(folder: &Path, mut progress: impl FnMut(u64, u64)) -> io::Result<VerifyReport> {
    let disk = snapshot(HistoryFolder::unlocked(folder)?)?;
    archive::verify(&disk, &mut progress)
}

/// Opens history to export its rows: all rows in files, also those that a host would no longer answer.
pub fn export(folder: &Path, filter: &ExportFilter) -> io::Result<Export> {
    let (mut frames, notes, restored) = restore(snapshot(HistoryFolder::unlocked(folder)?)?)?;
    let wanted = &filter.instances;
    frames.retain(|frame| !frame.is_empty() && (wanted.is_empty() || wanted.contains(&frame.key().instance)));
    frames.sort_by(|a, b| {
        let order =
            |frame: &Arc<Frame>| (frame.key().instance.clone(), frame.schema().sampler().clone(), frame.key().born);
        order(a).cmp(&order(b))
    });
    let ExportFilter { since_ms, until_ms, .. } = *filter;
    let frames = frames.into_iter().map(|frame| ExportedFrame { frame, since_ms, until_ms }).collect();
    Ok(Export { frames, notes, restored })
}

fn snapshot(folder: HistoryFolder) -> io::Result<FolderSnapshot> {
    // Take logs before segments: rows that leave a log meanwhile are then in a segment.
    FolderSnapshot::take(folder, |name| FileRole::of(name).is_some(), |name| FileRole::of(name) == Some(FileRole::Log))
}

fn restore(disk: FolderSnapshot) -> io::Result<(Vec<Arc<Frame>>, NoteValues, RestoreReport)> {
    let limits = StoreLimits { samples: usize::MAX, block_cache: 1 << 20, ..StoreLimits::default() };
    let (_, frames, values, restored) =
        archive::restore(Arc::new(disk), &Arc::new(StoreResources::new(&limits, true)))?;
    Ok((frames, values, restored))
}

/// Sorts rows of several generations by time. Of rows with the same time the one written later stays.
fn in_order<T>(rows: &mut Vec<T>, at_ms: impl Fn(&T) -> i64) {
    rows.sort_by_key(&at_ms);
    rows.reverse();
    rows.dedup_by_key(|row| at_ms(row));
    rows.reverse();
}

impl FolderStats {
    /// Returns the size of all files in bytes.
    pub fn bytes(&self) -> u64 {
        [self.log, self.fresh, self.settled, self.notes].iter().map(|files| files.bytes).sum()
    }

    /// Returns the bytes per value; `None` if there are no values.
    pub fn bytes_per_value(&self) -> Option<f64> {
        (self.values > 0).then(|| self.bytes() as f64 / self.values as f64)
    }
}

impl VerifyReport {
    /// Returns whether nothing is damaged.
    pub fn is_whole(&self) -> bool {
        self.damaged.is_empty()
    }
}

impl ExportedFrame {
    pub fn instance(&self) -> &InstanceId {
        &self.frame.key().instance
    }

    pub fn schema(&self) -> &Schema {
        self.frame.schema()
    }

    /// Returns a column as that of a series.
    pub fn column(&self, column: usize, scale: ReadingScale) -> SeriesColumn {
        SeriesColumn { frame: self.frame.clone(), column, scale }
    }

    /// Passes the rows to `each`, ascending in time. Returns how many blocks could not be read and are missing.
    pub fn rows<E>(&self, mut each: impl FnMut(&FrameRow) -> Result<(), E>) -> Result<u64, E> {
        if self.frame.generation() > 0 {
            let mut rows = Vec::new();
            let Ok(unreadable) = self.rows_as_written(&mut |row: &FrameRow| {
                rows.push(row.clone());
                Ok::<_, Infallible>(())
            });
            in_order(&mut rows, |row| row.at_ms);
            rows.iter().try_for_each(each)?;
            return Ok(unreadable);
        }
        self.rows_as_written(&mut each)
    }

    fn rows_as_written<E>(&self, each: &mut impl FnMut(&FrameRow) -> Result<(), E>) -> Result<u64, E> {
        let view = self.frame.view();
        let mut unreadable = 0;
        for block in self.blocks(&view) {
            match block.unpack(self.schema()) {
                Ok(rows) => self.hand_over(rows, each)?,
                Err(_) => unreadable += 1,
            }
        }
        for open in &view.opens {
            self.hand_over(open.read(open.len()), each)?;
        }
        Ok(unreadable)
    }

    fn hand_over<E>(&self, rows: RawRows, each: &mut impl FnMut(&FrameRow) -> Result<(), E>) -> Result<(), E> {
        let fields = self.schema().fields();
        let is_counter = |field: usize| fields.get(field).is_some_and(|field| field.kind != Kind::Gauge);
        let values = rows.clone().into_values(self.schema());
        let at = |columns: &[Vec<f64>], field: usize, nth: usize| {
            columns.get(field).and_then(|column| column.get(nth)).copied().unwrap_or(f64::NAN)
        };
        let mut row = FrameRow { at_ms: 0, values: Vec::new(), totals: Vec::new() };
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

    /// Passes the readings of one field to `each`, ascending in time, without gaps. A counter's readings are its
    /// totals. Returns how many blocks could not be read and are missing.
    pub fn readings<E>(&self, field: usize, mut each: impl FnMut(i64, f64) -> Result<(), E>) -> Result<u64, E> {
        if self.frame.generation() > 0 {
            let mut readings = Vec::new();
            let Ok(unreadable) = self.readings_as_written(field, &mut |at_ms, reading| {
                readings.push((at_ms, reading));
                Ok::<_, Infallible>(())
            });
            in_order(&mut readings, |reading| reading.0);
            readings.into_iter().try_for_each(|(at_ms, reading)| each(at_ms, reading))?;
            return Ok(unreadable);
        }
        self.readings_as_written(field, &mut each)
    }

    fn readings_as_written<E>(&self, field: usize, each: &mut impl FnMut(i64, f64) -> Result<(), E>) -> Result<u64, E> {
        let view = self.frame.view();
        let mut unreadable = 0;
        let mut hand_over = |at_ms: i64, reading: f64| {
            if self.is_wanted(at_ms) && !reading.is_nan() { each(at_ms, reading) } else { Ok(()) }
        };
        for block in self.blocks(&view) {
            let mut rows = Readings::new(1);
            let all = PagePart { page: block.place.page.into(), rows: 0..block.rows, window: i64::MIN..i64::MAX };
            match block.append(&[all], self.schema(), &[field], &mut rows) {
                Ok(()) => {
                    let readings = rows.columns.into_iter().flatten();
                    rows.at_ms.into_iter().zip(readings).try_for_each(|(at, x)| hand_over(at, x))?;
                }
                Err(_) => unreadable += 1,
            }
        }
        for open in &view.opens {
            let rows = (0..open.len()).filter_map(|row| Some((open.at_ms(row)?, open.reading(field, row))));
            rows.into_iter().try_for_each(|(at, x)| hand_over(at, x))?;
        }
        Ok(unreadable)
    }

    fn blocks<'v>(&self, view: &'v FrameView) -> impl Iterator<Item = BlockRef<'v>> {
        let over = view.blocks.iter().filter(|blocks| self.overlaps(blocks.first_ms(), blocks.last_ms()));
        over.flat_map(Blocks::each).filter(|block| self.overlaps(block.first_ms, block.last_ms))
    }

    fn overlaps(&self, first_ms: i64, last_ms: i64) -> bool {
        last_ms >= self.since_ms && first_ms < self.until_ms
    }

    fn is_wanted(&self, at_ms: i64) -> bool {
        self.overlaps(at_ms, at_ms)
    }
}
