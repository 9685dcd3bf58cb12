//! The samples of the series that a search found.

use crate::Frame;
use dropsonde_model::labels::NAME;
use dropsonde_model::{Labels, MetricType};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

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
        selected.sort_by(|(a, _), (b, _)| in_order(&a.labels, &b.labels));
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

    /// Returns the samples of each series in a window. Each block is unpacked once. A series that ends in the window
    /// has a [`STALE`] sample where it ends: at the first row without its value, or when no row comes for three
    /// intervals.
    pub fn samples(&self, window: Range<i64>) -> Vec<SeriesSamples> {
        let mut all: Vec<SeriesSamples> = vec![SeriesSamples::default(); self.series.len()];
        for FrameColumns { frame, columns, scales, series } in &self.by_frame() {
            let ends_after_ms = frame.stale_after_ms();
            let mut last_ms: Option<i64> = None;
            let mut parts: Vec<SeriesSamples> = vec![SeriesSamples::default(); series.len()];
            frame.readings(columns, window.clone(), |at_ms, columns| {
                let pause = last_ms.filter(|last| at_ms.first().is_some_and(|at| at - last > ends_after_ms));
                for ((part, column), scale) in parts.iter_mut().zip(columns).zip(scales) {
                    if let Some(last_ms) = pause {
                        part.end(last_ms.saturating_add(ends_after_ms));
                    }
                    part.extend(at_ms, column, *scale, ends_after_ms);
                }
                last_ms = at_ms.last().copied();
            });
            let ends_ms = last_ms.map(|last| last.saturating_add(ends_after_ms)).filter(|ends| *ends < window.end);
            for (part, nth) in parts.iter_mut().zip(series) {
                ends_ms.into_iter().for_each(|ends_ms| part.end(ends_ms));
                if let Some(samples) = all.get_mut(*nth) {
                    samples.append(part);
                }
            }
        }
        all
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

impl SeriesSamples {
    /// Adds readings. The series ends at a gap, and where no row comes for too long.
    fn extend(&mut self, at_ms: &[i64], readings: &[f64], scale: ReadingScale, ends_after_ms: i64) {
        let mut last_ms: Option<i64> = None;
        for (&at_ms, &reading) in at_ms.iter().zip(readings) {
            if let Some(last_ms) = last_ms.filter(|last| at_ms - last > ends_after_ms) {
                self.end(last_ms.saturating_add(ends_after_ms));
            }
            last_ms = Some(at_ms);
            if reading.is_nan() {
                self.end(at_ms);
            } else {
                self.at_ms.push(at_ms);
                self.values.push(scale.value(reading));
            }
        }
    }

    /// Ends the series, unless it has ended.
    fn end(&mut self, at_ms: i64) {
        if self.values.last().is_some_and(|value| !is_stale(*value)) {
            self.at_ms.push(at_ms);
            self.values.push(STALE);
        }
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
