//! Follows series: reads their samples window by window, each sample once, with a mark where a series ends.

#[cfg(test)]
mod tests;

use super::selection::{STALE, SeriesColumn};
use crate::frame::{LONGEST_PACE_MS, Readings, STALE_INTERVALS};
use crate::{Frame, Windows, ladder};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// Series that are read window by window. Each window begins where the one before ended.
///
/// A series ends at the first row without its value, and where no row comes for three times as long as between the two
/// rows before; both are marked with [`STALE`]. Unlike a selection, a tail knows what was read before: it marks an end
/// although the last sample was in an earlier window, and it marks it once.
#[derive(Debug)]
pub struct SeriesTail {
    pieces: Vec<Piece>,
}

/// A series with its samples in a window: values, and a [`STALE`] one where it ends.
#[derive(Debug, Clone, Copy)]
pub struct TailSamples<'a> {
    /// The number of the series among those that the tail was made of.
    pub index: usize,
    pub at_ms: &'a [i64],
    pub values: &'a [f64],
}

/// Series whose columns are in the same frames.
#[derive(Debug)]
struct Piece {
    frames: Vec<Arc<Frame>>,
    series: Vec<TailedSeries>,
    /// The scheduled time between two rows.
    interval_ms: i64,
    /// The start of the window that is read, the rows before it, and those before its end.
    window_ms: i64,
    before: RowTimes,
    after: RowTimes,
    /// Whether there can be rows in the window.
    has_rows: bool,
    /// The last write of the frames, if no row so far is later than the window.
    seen: Option<u64>,
}

#[derive(Debug)]
struct TailedSeries {
    index: usize,
    /// Its column in each frame of the piece.
    columns: Vec<SeriesColumn>,
    /// Whether its last row so far had a value, and no end was marked since.
    is_live: bool,
}

/// The times of the last rows, by which the end of a series is known.
#[derive(Debug, Clone, Copy, Default)]
struct RowTimes {
    last_ms: Option<i64>,
    /// The time between the last two.
    pace_ms: i64,
}

/// Memory for rows and samples, used again and again.
#[derive(Default)]
struct Spare {
    readings: Vec<Readings>,
    at_ms: Vec<i64>,
    values: Vec<f64>,
}

impl SeriesTail {
    /// Follows series, each given by its columns, from a time on. Samples before it are not read, but a series that has
    /// current ones then, not older than `known_ms`, is known to be alive. May read files.
    pub fn new(series: impl IntoIterator<Item = Vec<SeriesColumn>>, known_ms: i64, from_ms: i64) -> Self {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut numbers: HashMap<Vec<u64>, usize> = HashMap::new();
        for (index, mut columns) in series.into_iter().enumerate() {
            columns.sort_by_key(|column| (column.frame.key().born, column.frame.id));
            columns.dedup_by_key(|column| column.frame.id);
            let is_same = |piece: &Piece| {
                let frames = piece.frames.iter().map(|frame| frame.id);
                frames.eq(columns.iter().map(|column| column.frame.id))
            };
            // Series of the same frames come one after the other, most often.
            let number = match pieces.last() {
                Some(last) if is_same(last) => pieces.len() - 1,
                _ => *numbers.entry(columns.iter().map(|column| column.frame.id).collect()).or_insert_with(|| {
                    pieces.push(Piece::of(columns.iter().map(|column| column.frame.clone()).collect()));
                    pieces.len() - 1
                }),
            };
            if let Some(piece) = pieces.get_mut(number) {
                piece.series.push(TailedSeries { index, columns, is_live: false });
            }
        }
        pieces.iter_mut().for_each(|piece| piece.begin(known_ms, from_ms));
        Self { pieces }
    }

    /// Returns about how many samples are in a window, if they come on schedule.
    pub fn samples_in(&self, window: &Range<i64>) -> usize {
        let windows = Windows::one(window.clone());
        let has_rows = |frame: &&Arc<Frame>| {
            frame.span_ms().is_some_and(|(first_ms, last_ms)| first_ms < window.end && last_ms >= window.start)
        };
        let of_piece = |piece: &Piece| {
            let rows = piece.frames.iter().filter(has_rows).map(|frame| frame.rows_in(&windows));
            rows.sum::<usize>().saturating_mul(piece.series.len())
        };
        self.pieces.iter().map(of_piece).sum()
    }

    /// Returns the start of the last block that begins at `until_ms` or before, for the shortest blocks. Windows that end
    /// there unpack no block twice.
    pub fn block_start(&self, until_ms: i64) -> i64 {
        let spans = self.pieces.iter().flat_map(|piece| &piece.frames).map(|frame| frame.layout().block_ms);
        spans.min().map_or(until_ms, |block_ms| ladder::floor(until_ms, block_ms))
    }

    /// Reads the samples of the wanted series in the next window. Call it again for the same window until each series
    /// was wanted once. May read files.
    pub fn read(
        &mut self,
        window: &Range<i64>,
        is_wanted: &dyn Fn(usize) -> bool,
        visit: &mut dyn FnMut(TailSamples<'_>),
    ) {
        let mut spare = Spare::default();
        for piece in &mut self.pieces {
            piece.read(window, is_wanted, &mut spare, visit);
        }
    }

    /// Returns the numbers of the series that have current samples.
    pub fn live(&self) -> impl Iterator<Item = usize> + '_ {
        self.pieces.iter().flat_map(|piece| &piece.series).filter(|series| series.is_live).map(|series| series.index)
    }
}

impl Piece {
    fn of(frames: Vec<Arc<Frame>>) -> Self {
        let interval_ms = frames.iter().map(|frame| frame.interval_ms()).max().unwrap_or(1);
        let (before, after) = (RowTimes::default(), RowTimes::default());
        Self {
            frames,
            series: Vec::new(),
            interval_ms,
            window_ms: i64::MIN,
            before,
            after,
            has_rows: false,
            seen: None,
        }
    }

    /// Notes which series have current samples before a time. Ends before it count as marked.
    fn begin(&mut self, known_ms: i64, from_ms: i64) {
        let longest_ms = self.interval_ms.max(LONGEST_PACE_MS).saturating_mul(STALE_INTERVALS);
        let since_ms = from_ms.saturating_sub(longest_ms).max(known_ms);
        let mut times = Vec::new();
        for (nth, frame) in self.frames.iter().enumerate() {
            if frame.latest_at_ms().is_none_or(|latest_ms| latest_ms < since_ms) {
                continue;
            }
            let columns: Vec<usize> =
                self.series.iter().filter_map(|series| series.columns.get(nth)).map(|column| column.column).collect();
            let Some((at_ms, readings)) = frame.newest_reading(&columns, since_ms..from_ms) else { continue };
            let is_later = times.iter().max().is_none_or(|known_ms| *known_ms < at_ms);
            for (series, reading) in self.series.iter_mut().zip(readings) {
                // Of rows with the same time that with a value counts.
                series.is_live = !reading.is_nan() || (series.is_live && !is_later);
            }
            times.push(at_ms);
            // Of a longer pause it does not matter how long it was.
            times.extend(
                frame.newest_reading(&[], at_ms.saturating_sub(longest_ms)..at_ms).map(|(before_ms, _)| before_ms),
            );
        }
        times.sort_unstable();
        times.dedup();
        let (last_ms, before_ms) = (times.pop(), times.pop());
        let pace_ms = last_ms.zip(before_ms).map_or(0, |(last_ms, before_ms)| last_ms.saturating_sub(before_ms));
        self.after = RowTimes { last_ms, pace_ms };
        if self.after.is_over(self.interval_ms, from_ms) {
            self.series.iter_mut().for_each(|series| series.is_live = false);
        }
    }

    fn read(
        &mut self,
        window: &Range<i64>,
        is_wanted: &dyn Fn(usize) -> bool,
        spare: &mut Spare,
        visit: &mut dyn FnMut(TailSamples<'_>),
    ) {
        if self.window_ms != window.start {
            (self.window_ms, self.before) = (window.start, self.after);
            self.look(window);
        }
        let has_rows = self.has_rows;
        let can_end = || self.before.is_over(self.interval_ms, window.end) && self.series.iter().any(|one| one.is_live);
        if !has_rows && !can_end() {
            return;
        }
        let wanted: Vec<usize> = (0..self.series.len())
            .filter(|nth| self.series.get(*nth).is_some_and(|one| is_wanted(one.index)))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let rows = if has_rows { self.rows(&wanted, window, spare) } else { Readings::default() };
        let (pauses, after) = self.before.pauses(&rows.at_ms, self.interval_ms, window);
        self.after = after;
        let none: &[f64] = &[];
        for (column, nth) in wanted.iter().enumerate() {
            if let Some(series) = self.series.get_mut(*nth) {
                let values = rows.columns.get(column).map_or(none, |values| values);
                series.visit(&rows.at_ms, values, &pauses, spare, visit);
            }
        }
        spare.readings.push(rows);
    }

    /// Looks whether there can be rows in a window.
    fn look(&mut self, window: &Range<i64>) {
        // The number of the last write is at hand. The times of rows are not: most of the time nothing is new.
        let last_write = self.frames.iter().map(|frame| frame.last_write()).max().unwrap_or(0);
        self.has_rows = self.seen != Some(last_write);
        if self.has_rows {
            let latest = |frame: &Arc<Frame>| match frame.generation() {
                0 => frame.latest_at_ms(),
                // The clock was set back: an earlier row has a later time.
                _ => frame.span_ms().map(|(_, last_ms)| last_ms),
            };
            let latest_ms = self.frames.iter().filter_map(latest).max();
            self.has_rows = latest_ms.is_some_and(|latest_ms| latest_ms >= window.start);
            self.seen = latest_ms.is_none_or(|latest_ms| latest_ms < window.end).then_some(last_write);
        }
    }

    /// Reads the rows of all frames in a window, as values of the wanted series.
    fn rows(&self, wanted: &[usize], window: &Range<i64>, spare: &mut Spare) -> Readings {
        let mut of_frames: Vec<Readings> = Vec::with_capacity(self.frames.len());
        for (nth, frame) in self.frames.iter().enumerate() {
            let columns = wanted.iter().filter_map(|series| self.series.get(*series)?.columns.get(nth));
            let (columns, scales): (Vec<_>, Vec<_>) = columns.map(|column| (column.column, column.scale)).unzip();
            let mut readings = spare.readings.pop().unwrap_or_default();
            frame.read_rows(&columns, &Windows::one(window.clone()), &mut readings);
            for (values, scale) in readings.columns.iter_mut().zip(scales) {
                scale.convert_values(values);
            }
            of_frames.push(readings);
        }
        match of_frames.len() {
            1 => of_frames.pop().unwrap_or_default(),
            _ => joined(&of_frames, wanted.len()),
        }
    }
}

/// Joins the rows of several frames. Of values with the same time that of the later frame counts.
fn joined(frames: &[Readings], columns: usize) -> Readings {
    let mut at_ms: Vec<i64> = frames.iter().flat_map(|rows| rows.at_ms.iter().copied()).collect();
    at_ms.sort_unstable();
    at_ms.dedup();
    let mut joined = vec![vec![f64::NAN; at_ms.len()]; columns];
    for rows in frames {
        let places: Vec<usize> = rows.at_ms.iter().filter_map(|row_ms| at_ms.binary_search(row_ms).ok()).collect();
        for (column, values) in joined.iter_mut().zip(&rows.columns) {
            for (place, value) in places.iter().zip(values).filter(|(_, value)| !value.is_nan()) {
                column.get_mut(*place).into_iter().for_each(|known| *known = *value);
            }
        }
    }
    let mut rows = Readings::default();
    (rows.at_ms, rows.columns) = (at_ms, joined);
    rows
}

impl RowTimes {
    /// Returns when series end if no further row comes.
    fn ends_ms(&self, interval_ms: i64) -> Option<i64> {
        let pace_ms = interval_ms.max(self.pace_ms.min(LONGEST_PACE_MS));
        Some(self.last_ms?.saturating_add(pace_ms.saturating_mul(STALE_INTERVALS)))
    }

    fn is_over(&self, interval_ms: i64, before_ms: i64) -> bool {
        self.ends_ms(interval_ms).is_some_and(|ends_ms| ends_ms < before_ms)
    }

    /// Goes on with the rows of a window. Returns the pauses that end all series, each as the number of the row that
    /// follows it with the time of the end, and what is known after the window.
    fn pauses(mut self, at_ms: &[i64], interval_ms: i64, window: &Range<i64>) -> (Vec<(usize, i64)>, Self) {
        let mut pauses = Vec::new();
        for (row, row_ms) in at_ms.iter().chain([&window.end]).enumerate() {
            if self.is_over(interval_ms, *row_ms) {
                // An end that would have been in the window before is marked as soon as it is noticed.
                let ends_ms = self.ends_ms(interval_ms).map(|ends_ms| ends_ms.max(window.start));
                pauses.extend(ends_ms.filter(|ends_ms| ends_ms < row_ms).map(|ends_ms| (row, ends_ms)));
            }
            if row < at_ms.len() {
                let pace_ms = self.last_ms.map_or(0, |last_ms| row_ms.saturating_sub(last_ms));
                self = Self { last_ms: Some(*row_ms), pace_ms };
            }
        }
        (pauses, self)
    }
}

impl TailedSeries {
    /// Passes its samples to `visit`, with the marks of its ends.
    fn visit(
        &mut self,
        at_ms: &[i64],
        values: &[f64],
        pauses: &[(usize, i64)],
        spare: &mut Spare,
        visit: &mut dyn FnMut(TailSamples<'_>),
    ) {
        let index = self.index;
        // It looks at all, because many at once cost less than one after the other until the first.
        let has_gaps = values.iter().fold(false, |has_gaps, value| has_gaps | value.is_nan());
        if !has_gaps && pauses.is_empty() {
            // Most often nothing ends.
            if !values.is_empty() {
                self.is_live = true;
                visit(TailSamples { index, at_ms, values });
            }
            return;
        }
        spare.at_ms.clear();
        spare.values.clear();
        let mut add = |at_ms: i64, value: f64| {
            spare.at_ms.push(at_ms);
            spare.values.push(value);
        };
        let mut pauses = pauses.iter().peekable();
        for row in 0..=values.len() {
            if let Some((_, ends_ms)) = pauses.next_if(|(before, _)| *before == row)
                && std::mem::take(&mut self.is_live)
            {
                add(*ends_ms, STALE);
            }
            let (Some(row_ms), Some(value)) = (at_ms.get(row), values.get(row)) else { continue };
            if !value.is_nan() {
                add(*row_ms, *value);
            } else if self.is_live {
                add(*row_ms, STALE);
            }
            self.is_live = !value.is_nan();
        }
        if !spare.at_ms.is_empty() {
            visit(TailSamples { index, at_ms: &spare.at_ms, values: &spare.values });
        }
    }
}
