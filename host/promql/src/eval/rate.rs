//! How fast values change: `rate`, `increase`, `delta`, `irate`, `idelta`.

use super::select::Windows;
use crate::source::Samples;

/// The falls of a counter: the index of each sample that is below the one before, and the value before.
pub(super) struct Resets(Vec<(usize, f64)>);

impl Resets {
    /// Finds the falls in the windows' samples.
    pub(super) fn of(windows: &Windows<'_>) -> Self {
        let (mut falls, mut looked) = (Vec::new(), 0);
        for &(from, to) in windows.bounds {
            // What is between two windows does not matter.
            let from = from.max(looked);
            let values = windows.between(from, to).values;
            // From one on, each is compared with the one before; at the seam of two stretches, too.
            let before = from.checked_sub(1).filter(|_| from == looked).and_then(|at| windows.samples.values.get(at));
            let earlier = before.into_iter().chain(values);
            let later = values.iter().skip(usize::from(before.is_none()));
            let first = from + usize::from(before.is_none());
            let fallen = earlier.zip(later).enumerate().filter(|(_, (before, now))| now < before);
            falls.extend(fallen.map(|(nth, (before, _))| (first + nth, *before)));
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

/// Returns how much a window's values grow or change in its whole length, or in a second: what the samples show is
/// extrapolated to the window's ends, if these are no further than 1.1 times the usual time between samples; else by
/// half of that time. A counter is not extrapolated below zero.
pub(super) fn extrapolated(
    windows: &Windows<'_>,
    step: usize,
    resets: Option<&Resets>,
    per_second: bool,
) -> Option<f64> {
    let (from, to) = windows.bounds.get(step).copied()?;
    let Samples { at_ms, values } = windows.between(from, to);
    let ([first_ms, .., last_ms], [first, .., last]) = (at_ms, values) else { return None };
    let mut change = last - first;
    if let Some(resets) = resets {
        resets.between(from, to).for_each(|before| change += before);
    }
    let end_ms = windows.end_ms(step);
    let start_ms = end_ms.saturating_sub(windows.range_ms);
    let seconds = |from: i64, to: i64| to.saturating_sub(from) as f64 / 1000.0;
    let (mut to_start, mut to_end) = (seconds(start_ms, *first_ms), seconds(*last_ms, end_ms));
    let sampled = seconds(*first_ms, *last_ms);
    let spacing = sampled / (at_ms.len() - 1) as f64;
    let threshold = spacing * 1.1;
    if to_start >= threshold {
        to_start = spacing / 2.0;
    }
    if resets.is_some() && change > 0.0 && *first >= 0.0 {
        let to_zero = sampled * (first / change);
        if to_zero < to_start {
            to_start = to_zero;
        }
    }
    if to_end >= threshold {
        to_end = spacing / 2.0;
    }
    let mut factor = if sampled == 0.0 { 1.0 } else { (sampled + to_start + to_end) / sampled };
    if per_second {
        factor /= windows.range_ms as f64 / 1000.0;
    }
    Some(change * factor)
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
