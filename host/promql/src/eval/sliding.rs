//! Summaries of windows that overlap, without reading the samples of each window anew.

use super::select::Windows;

/// Summarises each window. `one` makes the summary of a sample, `both` that of two neighbouring stretches. Each sample is
/// read about twice, however many windows hold it: a window is a stretch that was summarised backwards from its end,
/// and one that grows at its end.
pub(super) fn summaries<T: Copy>(
    windows: &Windows<'_>,
    one: impl Fn(f64) -> T,
    both: impl Fn(T, T) -> T,
    mut each: impl FnMut(usize, T),
) {
    let values = windows.samples.values;
    // The summaries of values[at..middle] for each `at`, the last first.
    let mut front: Vec<T> = Vec::new();
    let (mut middle, mut end) = (0, 0);
    let mut back: Option<T> = None;
    for (step, &(from, to)) in windows.bounds.iter().enumerate() {
        if from >= to {
            continue;
        }
        if from >= end {
            // The window has no sample of the one before it.
            (middle, end) = (from, from);
            front.clear();
            back = None;
        }
        for value in values.get(end..to).unwrap_or_default() {
            let summary = one(*value);
            back = Some(back.map_or(summary, |before| both(before, summary)));
        }
        end = to;
        if from >= middle {
            front.clear();
            let mut after: Option<T> = None;
            for value in values.get(from..end).unwrap_or_default().iter().rev() {
                let summary = one(*value);
                let summary = after.map_or(summary, |after| both(summary, after));
                front.push(summary);
                after = Some(summary);
            }
            middle = end;
            back = None;
        }
        let of_front = (middle - from).checked_sub(1).and_then(|at| front.get(at)).copied();
        let summary = match (of_front, back) {
            (Some(front), Some(back)) => both(front, back),
            (Some(only), None) | (None, Some(only)) => only,
            (None, None) => continue,
        };
        each(step, summary);
    }
}

/// Returns whether most samples of a window are also in the next one.
pub(super) fn overlap(windows: &Windows<'_>) -> bool {
    let all: usize = windows.bounds.iter().map(|(from, to)| to - from).sum();
    all > 2 * windows.samples.values.len()
}
