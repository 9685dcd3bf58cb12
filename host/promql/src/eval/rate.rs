//! How fast values change: `rate`, `increase`, `delta`, `irate`, `idelta`.

use super::select::Windows;
use crate::source::Samples;

/// The falls of a counter: the index of each sample that is below the one before, and the value before.
pub(super) struct Resets(Vec<(usize, f64)>);

impl Resets {
    /// Finds the falls in the windows' samples.
    pub(super) fn of(windows: &Windows<'_>) -> Self {
        let values = windows.samples.values;
        let has_fallen = |has_fallen, (before, now): (&f64, &f64)| has_fallen | (now < before);
        // Few counters fall. To look at all values at once costs less than at one window after the other.
        if !values.iter().zip(values.iter().skip(1)).fold(false, has_fallen) {
            return Self(Vec::new());
        }
        let (mut falls, mut looked) = (Vec::new(), 0);
        for &(from, to) in windows.bounds {
            // What is between two windows does not matter. At the seam of two stretches a sample is in both.
            let from = if from < looked { from.max(looked - 1) } else { from };
            let values = windows.between(from, to).values;
            let fallen = values.iter().zip(values.iter().skip(1)).enumerate().filter(|(_, (before, now))| now < before);
            falls.extend(fallen.map(|(nth, (before, _))| (from + nth + 1, *before)));
            looked = looked.max(to);
        }
        Self(falls)
    }

    /// Returns the values before the falls inside of a stretch of samples.
    fn between(&self, from: usize, to: usize) -> impl Iterator<Item = f64> {
        let start = self.0.partition_point(|(at, _)| *at <= from);
        let falls = self.0.get(start..).unwrap_or_default();
        falls.iter().take_while(move |(at, _)| *at < to).map(|(_, before)| *before)
    }

    /// Returns the number of falls inside of a stretch of samples.
    pub(super) fn count(&self, from: usize, to: usize) -> usize {
        self.0.partition_point(|(at, _)| *at < to) - self.0.partition_point(|(at, _)| *at <= from).min(self.0.len())
    }
}

/// How far the samples of each window are extrapolated. Series with the same times share it.
#[derive(Default)]
pub(super) struct Extrapolation {
    /// The number of the times that the spans belong to.
    times: Option<u64>,
    /// A window of fewer than two samples has none.
    spans: Vec<Option<Span>>,
}

/// The times of a window's samples, in seconds.
#[derive(Clone, Copy)]
struct Span {
    /// From the first sample to the last.
    sampled: f64,
    /// To the window's ends: at most half of the usual time between samples, if the ends are further than 1.1 times that.
    to_start: f64,
    to_end: f64,
    /// How much longer it is with both.
    factor: f64,
}

impl Extrapolation {
    /// Returns that of the windows of a series.
    pub(super) fn of(&mut self, windows: &Windows<'_>) -> &Self {
        if self.times.is_none() || self.times != windows.times {
            self.spans.clear();
            self.spans.extend((0..windows.bounds.len()).map(|step| Span::of(windows, step)));
            self.times = windows.times;
        }
        self
    }

    /// Computes how much the values of each window grow or change in its whole length, or in a second: what the samples
    /// show is extrapolated to the window's ends. A counter is not extrapolated below zero. Windows of fewer than two
    /// samples keep what `row` has.
    pub(super) fn growth(&self, windows: &Windows<'_>, resets: Option<&Resets>, per_second: bool, row: &mut [f64]) {
        let range = if per_second { windows.range_ms as f64 / 1000.0 } else { 1.0 };
        let values = windows.samples.values;
        for ((result, (from, to)), span) in row.iter_mut().zip(windows.bounds).zip(&self.spans) {
            let Some(Span { sampled, to_start, to_end, factor }) = *span else { continue };
            let Some((first, last)) = values.get(*from).zip(values.get(*to - 1)) else { continue };
            let mut change = last - first;
            let mut factor = factor;
            if let Some(resets) = resets {
                resets.between(*from, *to).for_each(|before| change += before);
                // The first comparison saves most divisions.
                if change > 0.0 && *first >= 0.0 && sampled * first <= to_start * change * 1.000_001 {
                    let to_zero = sampled * (first / change);
                    factor = extended(sampled, to_start.min(to_zero), to_end);
                }
            }
            *result = change * (factor / range);
        }
    }
}

/// Returns how much longer a stretch is with both its ends.
fn extended(sampled: f64, to_start: f64, to_end: f64) -> f64 {
    if sampled == 0.0 { 1.0 } else { (sampled + to_start + to_end) / sampled }
}

impl Span {
    fn of(windows: &Windows<'_>, step: usize) -> Option<Self> {
        let at_ms = windows.at(step).at_ms;
        let [first_ms, .., last_ms] = at_ms else { return None };
        let end_ms = windows.end_ms(step);
        let start_ms = end_ms.saturating_sub(windows.range_ms);
        let seconds = |from: i64, to: i64| to.saturating_sub(from) as f64 / 1000.0;
        let sampled = seconds(*first_ms, *last_ms);
        let spacing = sampled / (at_ms.len() - 1) as f64;
        let near = |seconds: f64| if seconds >= spacing * 1.1 { spacing / 2.0 } else { seconds };
        let (to_start, to_end) = (near(seconds(start_ms, *first_ms)), near(seconds(*last_ms, end_ms)));
        Some(Self { sampled, to_start, to_end, factor: extended(sampled, to_start, to_end) })
    }
}

/// Returns the change between the last two samples, or its rate; of a counter that fell the last value.
pub(super) fn last_two(samples: Samples<'_>, is_counter: bool) -> Option<f64> {
    let ([.., before_ms, last_ms], [.., before, last]) = (samples.at_ms, samples.values) else { return None };
    let seconds = (last_ms - before_ms) as f64 / 1000.0;
    if seconds == 0.0 {
        return None;
    }
    let change = if is_counter && last < before { *last } else { last - before };
    Some(if is_counter { change / seconds } else { change })
}
