//! The samples of the series that a search found.

use super::ahead::make_in_order;
use crate::frame::Readings;
use crate::{Frame, Windows};
use dropsonde_model::labels::NAME;
use dropsonde_model::{Labels, MetricType};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// The bits of the NaN that marks the end of a series.
const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The value that marks the end of a series: from its time on, the samples before it are not current. As in Prometheus
/// it is a NaN with certain bits.
pub const STALE: f64 = f64::from_bits(STALE_BITS);

/// Returns whether a value marks the end of a series.
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_BITS
}

/// Compares series by the names of their metrics, then by their labels.
pub fn in_order(a: &Labels, b: &Labels) -> Ordering {
    // The name need not be the first label: capital letters come before `_`.
    a.get(NAME).cmp(&b.get(NAME)).then_with(|| a.iter().cmp(b.iter()))
}

/// Series that a search found, in the order of [`in_order`].
#[derive(Debug, Clone, Default)]
pub struct SeriesSelection {
    series: Vec<SelectedSeries>,
    /// The columns that hold the samples of each series.
    columns: Vec<Vec<SeriesColumn>>,
}

/// One series of a selection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectedSeries {
    pub labels: Labels,
    pub metric_type: MetricType,
    /// The times of the first and the last row of the frames that hold its samples. The series may be shorter.
    pub first_ms: i64,
    pub last_ms: i64,
    /// The shortest scheduled time between two of its samples, in milliseconds.
    pub interval_ms: i64,
}

/// A series that a search found, with the columns that hold its samples.
#[derive(Debug, Clone)]
pub struct FoundSeries {
    pub labels: Labels,
    pub metric_type: MetricType,
    pub columns: Vec<SeriesColumn>,
}

/// A column of a frame.
#[derive(Debug, Clone)]
pub struct SeriesColumn {
    pub frame: Arc<Frame>,
    /// The index of the field in the frame's schema.
    pub column: usize,
    pub scale: ReadingScale,
}

/// The conversion from the readings of a column to the values of its series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ReadingScale {
    Same,
    Times(f64),
    /// Readings are a whole number of steps, `steps` of them in a unit of the column. A unit of the series has `parts`
    /// of them.
    Steps {
        steps: f64,
        parts: f64,
    },
}

/// The columns of a frame that a selection needs.
#[derive(Debug, Clone)]
struct FrameColumns {
    frame: Arc<Frame>,
    columns: Vec<usize>,
    scales: Vec<ReadingScale>,
    /// The index of the series of each column.
    series: Vec<usize>,
}

/// Samples of one series, ascending in time. A value can be [`STALE`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SeriesSamples {
    pub at_ms: Vec<i64>,
    pub values: Vec<f64>,
}

impl SeriesSelection {
    /// Selects the found series that have rows in a window.
    pub fn of(found: Vec<FoundSeries>, window: &Range<i64>) -> Self {
        Self::sorted(found, window, true)
    }

    /// Selects the found series that have rows in a window, in the order in which they were found.
    pub fn as_found(found: Vec<FoundSeries>, window: &Range<i64>) -> Self {
        Self::sorted(found, window, false)
    }

    fn sorted(found: Vec<FoundSeries>, window: &Range<i64>, is_sorted: bool) -> Self {
        let mut spans: HashMap<u64, Option<(i64, i64)>> = HashMap::new();
        let mut span = |frame: &Arc<Frame>| {
            let span = *spans.entry(frame.id).or_insert_with(|| frame.span_ms());
            span.filter(|(first_ms, last_ms)| *first_ms < window.end && *last_ms >= window.start)
        };
        let mut selected: Vec<(SelectedSeries, Vec<SeriesColumn>)> = Vec::new();
        for FoundSeries { labels, metric_type, mut columns } in found {
            let mut bounds: Option<(i64, i64)> = None;
            columns.retain(|column| {
                let span = span(&column.frame);
                bounds = [bounds, span].into_iter().flatten().reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)));
                span.is_some()
            });
            let interval_ms = columns.iter().map(|column| column.frame.interval_ms()).min();
            if let Some(((first_ms, last_ms), interval_ms)) = bounds.zip(interval_ms) {
                selected.push((SelectedSeries { labels, metric_type, first_ms, last_ms, interval_ms }, columns));
            }
        }
        if is_sorted {
            selected.sort_by(|(a, _), (b, _)| in_order(&a.labels, &b.labels));
        }
        let (series, columns) = selected.into_iter().unzip();
        Self { series, columns }
    }

    /// Returns the frames that hold the samples, each with its columns, in the order they began: so samples come in the
    /// order of time.
    fn by_frame(&self) -> Vec<FrameColumns> {
        let mut frames: BTreeMap<(u64, u64), FrameColumns> = BTreeMap::new();
        for (nth, columns) in self.columns.iter().enumerate() {
            for SeriesColumn { frame, column, scale } in columns {
                let of_frame =
                    frames.entry((frame.key().born, frame.id)).or_insert_with(|| FrameColumns::of(frame.clone()));
                of_frame.columns.push(*column);
                of_frame.scales.push(*scale);
                of_frame.series.push(nth);
            }
        }
        frames.into_values().collect()
    }

    pub fn series(&self) -> &[SelectedSeries] {
        &self.series
    }

    /// Returns some of the series, by their indexes.
    pub fn part(&self, wanted: Range<usize>) -> Self {
        let until = wanted.end.min(self.series.len());
        let wanted = wanted.start.min(until)..until;
        Self {
            series: self.series.get(wanted.clone()).unwrap_or_default().to_vec(),
            columns: self.columns.get(wanted).unwrap_or_default().to_vec(),
        }
    }

    /// Returns the newest sample of each series in a window, with its time, unless the series has ended by then.
    pub fn newest(&self, window: Range<i64>) -> Vec<Option<(i64, f64)>> {
        // Of several frames the one with the newest row counts. Of rows with the same time, that with a value.
        let mut newest: Vec<Option<(i64, f64)>> = vec![None; self.series.len()];
        for FrameColumns { frame, columns, scales, series } in &self.by_frame() {
            let since_ms = window.start.max(window.end.saturating_sub(frame.stale_after_ms()));
            let Some((at_ms, values)) = frame.newest_reading(columns, since_ms..window.end) else { continue };
            for ((nth, scale), reading) in series.iter().zip(scales).zip(values) {
                let value = scale.value(reading);
                let Some(known) = newest.get_mut(*nth) else { continue };
                if known.is_none_or(|(known_ms, known)| known_ms < at_ms || (known_ms == at_ms && known.is_nan())) {
                    *known = Some((at_ms, value));
                }
            }
        }
        newest.into_iter().map(|sample| sample.filter(|(_, value)| !value.is_nan())).collect()
    }

    /// Returns the samples of each series in a window, in the order of the series: see [`SeriesSelection::visit`].
    pub fn samples(&self, window: Range<i64>) -> Vec<SeriesSamples> {
        let mut all: Vec<SeriesSamples> = vec![SeriesSamples::default(); self.series.len()];
        let visited: Result<(), Infallible> = self.visit(&Windows::one(window), usize::MAX, &mut |series| {
            if let Some(samples) = all.get_mut(series.index) {
                *samples = SeriesSamples { at_ms: series.at_ms.to_vec(), values: series.values.to_vec() };
                samples.normalize();
            }
            Ok(())
        });
        let Ok(()) = visited;
        all
    }

    /// Passes the samples of each series in some windows to `visit`. Each block is unpacked once, and series that are
    /// recorded together come together. `most` samples are unpacked at a time, or those of one series; some such parts
    /// are held.
    ///
    /// A series that ends in a window has a [`STALE`] sample where it ends: at the first row without its value, or
    /// when no row comes for three intervals. Further such samples can follow. The error of `visit` ends the visit.
    pub fn visit<E>(&self, windows: &Windows, most: usize, visit: &mut VisitSeries<'_, E>) -> Result<(), E> {
        let frames = self.by_frame();
        let mut parts: Vec<FramePart<'_>> = Vec::new();
        let mut samples = 0;
        for (number, frame) in frames.iter().enumerate() {
            let rows = frame.frame.rows_in(windows).max(1);
            samples += rows.saturating_mul(frame.columns.len());
            let at_once = (most / rows).max(1);
            let columns = frame.columns.chunks(at_once).zip(frame.scales.chunks(at_once));
            parts.extend(columns.zip(frame.series.chunks(at_once)).map(|((columns, scales), series)| FramePart {
                frame: &frame.frame,
                number,
                columns,
                scales,
                series,
            }));
        }
        // Memory that was used is used again: memory that is new for each part costs as much as the values in it.
        let spare: Mutex<Vec<PartSamples>> = Mutex::default();
        let spare = || spare.lock().unwrap_or_else(PoisonError::into_inner);
        let read = |part: &FramePart<'_>| {
            let mut read = spare().pop().unwrap_or_default();
            part.read(windows, &mut read);
            read
        };
        let mut joined = JoinedSeries { columns: &self.columns, unfinished: HashMap::new() };
        let mut take = |part: &FramePart<'_>, mut read: PartSamples| {
            joined.take(part, &mut read, visit)?;
            spare().push(read);
            Ok(())
        };
        if samples >= AHEAD_FROM {
            let read = |nth: usize| parts.get(nth).map(read).unwrap_or_default();
            return make_in_order(parts.len(), &read, &mut |nth, read| match parts.get(nth) {
                Some(part) => take(part, read),
                None => Ok(()),
            });
        }
        parts.iter().try_for_each(|part| take(part, read(part)))
    }
}

/// Takes a series that is visited.
pub type VisitSeries<'a, E> = dyn FnMut(VisitedSeries<'_>) -> Result<(), E> + 'a;

/// A series with its samples in a window.
#[derive(Debug, Clone, Copy)]
pub struct VisitedSeries<'a> {
    /// The index of the series in the selection.
    pub index: usize,
    pub at_ms: &'a [i64],
    pub values: &'a [f64],
    /// All series of a visit with the same number have the same times.
    pub times: Option<u64>,
    /// Whether a value can be [`STALE`].
    pub can_be_stale: bool,
}

/// From so many samples on, several threads unpack them.
const AHEAD_FROM: usize = 1 << 17;

/// Some columns of a frame, and the series that they are of.
struct FramePart<'a> {
    frame: &'a Arc<Frame>,
    /// The number of the frame among those of the selection.
    number: usize,
    columns: &'a [usize],
    scales: &'a [ReadingScale],
    series: &'a [usize],
}

/// Times, and values of each column at these times.
#[derive(Default)]
struct PartSamples {
    readings: Readings,
    /// Whether a value of each column is [`STALE`].
    have_stale: Vec<bool>,
}

impl FramePart<'_> {
    /// Reads the part in place of what `into` held.
    fn read(&self, windows: &Windows, into: &mut PartSamples) {
        self.frame.read_rows(self.columns, windows, &mut into.readings);
        let Readings { at_ms, columns, .. } = &mut into.readings;
        end_where_pauses(at_ms, columns, self.frame.stale_after_ms(), windows);
        let have_stale = columns.iter_mut().zip(self.scales).map(|(values, scale)| scale.convert(values));
        into.have_stale.clear();
        into.have_stale.extend(have_stale);
    }
}

/// Joins the samples of series that are in several frames.
struct JoinedSeries<'a> {
    /// The columns of each series.
    columns: &'a [Vec<SeriesColumn>],
    /// The samples of series so far, with the number of frames that they are from.
    unfinished: HashMap<usize, (usize, SeriesSamples)>,
}

impl JoinedSeries<'_> {
    fn take<E>(
        &mut self,
        part: &FramePart<'_>,
        read: &mut PartSamples,
        visit: &mut VisitSeries<'_, E>,
    ) -> Result<(), E> {
        let Readings { at_ms, columns, .. } = &mut read.readings;
        for ((index, values), has_stale) in part.series.iter().zip(columns).zip(&read.have_stale) {
            let frames = self.columns.get(*index).map_or(0, Vec::len);
            if frames == 1 {
                let times = Some(part.number as u64);
                visit(VisitedSeries { index: *index, at_ms, values, times, can_be_stale: *has_stale })?;
                continue;
            }
            let (seen, samples) = self.unfinished.entry(*index).or_default();
            let mut of_frame = SeriesSamples { at_ms: at_ms.clone(), values: std::mem::take(values) };
            of_frame.normalize();
            samples.append(&mut of_frame);
            *seen += 1;
            if *seen == frames {
                let (_, SeriesSamples { at_ms, values }) = self.unfinished.remove(index).unwrap_or_default();
                let (at_ms, values) = (&at_ms[..], &values[..]);
                visit(VisitedSeries { index: *index, at_ms, values, times: None, can_be_stale: true })?;
            }
        }
        Ok(())
    }
}

/// Adds a row where the series of a frame end because no row comes for too long. Between the windows, where rows can be
/// missing because nobody wants them, nothing ends.
fn end_where_pauses(at_ms: &mut Vec<i64>, columns: &mut [Vec<f64>], ends_after_ms: i64, windows: &Windows) {
    let pauses = at_ms.windows(2).enumerate().filter_map(|(row, pair)| match pair {
        [before, after] if after - before > ends_after_ms => Some((row + 1, before.saturating_add(ends_after_ms))),
        _ => None,
    });
    let last = at_ms.last().map(|last| (at_ms.len(), last.saturating_add(ends_after_ms)));
    let ends: Vec<(usize, i64)> = pauses.chain(last).filter(|(_, ends_ms)| windows.contains(*ends_ms)).collect();
    // From behind, so that the places before stay.
    for (row, ends_ms) in ends.into_iter().rev() {
        at_ms.insert(row, ends_ms);
        columns.iter_mut().for_each(|column| column.insert(row, STALE));
    }
}

impl FrameColumns {
    fn of(frame: Arc<Frame>) -> Self {
        Self { frame, columns: Vec::new(), scales: Vec::new(), series: Vec::new() }
    }
}

impl ReadingScale {
    pub fn value(self, reading: f64) -> f64 {
        match self {
            Self::Same => reading,
            Self::Times(factor) => reading * factor,
            Self::Steps { steps, parts } => (reading * steps).round() / parts,
        }
    }
}

impl ReadingScale {
    /// Converts readings to values; gaps stay NaN.
    pub(super) fn convert_values(self, readings: &mut [f64]) {
        if self != Self::Same {
            readings.iter_mut().for_each(|reading| *reading = self.value(*reading));
        }
    }

    /// Converts readings to values, gaps to [`STALE`]. Returns whether there are any.
    fn convert(self, readings: &mut [f64]) -> bool {
        // It looks at all, because many at once cost less than one after the other until the first.
        let has_gaps = readings.iter().fold(false, |has_gaps, reading| has_gaps | reading.is_nan());
        if has_gaps || self != Self::Same {
            for reading in readings {
                *reading = if reading.is_nan() { STALE } else { self.value(*reading) };
            }
        }
        has_gaps
    }
}

impl SeriesSamples {
    /// Leaves out samples before the first value, and all but the first of several ends.
    fn normalize(&mut self) {
        let is_end = |nth: usize| self.values.get(nth).is_some_and(|value| is_stale(*value));
        if !(0..self.values.len()).any(is_end) {
            return;
        }
        let kept = |nth: &usize| !is_end(*nth) || (*nth > 0 && !is_end(nth - 1));
        let kept: Vec<usize> = (0..self.values.len()).filter(kept).collect();
        self.at_ms = kept.iter().filter_map(|nth| self.at_ms.get(*nth).copied()).collect();
        self.values = kept.iter().filter_map(|nth| self.values.get(*nth).copied()).collect();
    }

    /// Adds the samples of a later frame. A series that goes on in the later frame does not end in between.
    fn append(&mut self, later: &mut Self) {
        let Some(&first_ms) = later.at_ms.first() else { return };
        while let (Some(&last_ms), Some(&value)) = (self.at_ms.last(), self.values.last())
            && last_ms >= first_ms
            && is_stale(value)
        {
            self.at_ms.pop();
            self.values.pop();
        }
        let is_later = self.at_ms.last().is_none_or(|last_ms| *last_ms < first_ms);
        if is_later {
            self.at_ms.append(&mut later.at_ms);
            self.values.append(&mut later.values);
        } else {
            self.merge(later);
        }
    }

    /// Adds samples that cover the same time. Of samples with the same time the one with a value stays, else the later.
    fn merge(&mut self, other: &Self) {
        let both = |samples: &Self| -> Vec<(i64, f64)> {
            samples.at_ms.iter().copied().zip(samples.values.iter().copied()).collect()
        };
        let mut all = both(self);
        all.extend(both(other));
        all.sort_by_key(|(at_ms, value)| (*at_ms, !is_stale(*value)));
        all.reverse();
        all.dedup_by_key(|(at_ms, _)| *at_ms);
        all.reverse();
        (self.at_ms, self.values) = all.into_iter().unzip();
    }
}
