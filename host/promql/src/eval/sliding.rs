//! Summaries of windows that overlap, without reading the samples of each window anew.

use super::select::Windows;

/// Summarises each window. `of` makes the summary of samples, at least one, `both` that of two neighbouring stretches.
///
/// All starts and ends of windows cut the samples into stretches, and each stretch is summarised once. Then a window is
/// some stretches in a row: those up to a middle, which are summarised backwards from there, and those behind it, whose
/// summary grows. When a window begins behind the middle, its end becomes the next one. So each stretch takes part in
/// two summaries or so, however many windows hold it.
pub(super) fn summaries<T: Copy>(
    windows: &Windows<'_>,
    of: impl Fn(&[f64]) -> T,
    both: impl Fn(T, T) -> T,
    mut each: impl FnMut(usize, T),
) {
    let cuts = cuts(windows.bounds);
    let stretches: Vec<Option<T>> = cuts
        .windows(2)
        .map(|cut| match cut {
            [from, to] => {
                let values = windows.samples.values.get(*from..*to).unwrap_or_default();
                (!values.is_empty()).then(|| of(values))
            }
            _ => None,
        })
        .collect();
    let join = |a: Option<T>, b: Option<T>| match (a, b) {
        (Some(a), Some(b)) => Some(both(a, b)),
        (a, b) => a.or(b),
    };
    // The summaries of stretches[at..middle] for each `at` from the end on.
    let mut front: Vec<Option<T>> = Vec::new();
    let (mut middle, mut end, mut back) = (0, 0, None);
    // The windows' bounds among the cuts: both only grow.
    let (mut first, mut last) = (0, 0);
    for (step, &(from, to)) in windows.bounds.iter().enumerate() {
        if from >= to {
            continue;
        }
        first = place(&cuts, first, from);
        last = place(&cuts, last, to);
        if first >= end {
            // The window has nothing of the one before it.
            (middle, end, back) = (first, first, None);
            front.clear();
        }
        for stretch in stretches.get(end..last).unwrap_or_default() {
            back = join(back, *stretch);
        }
        end = last;
        if first >= middle {
            front.clear();
            let mut after = None;
            for stretch in stretches.get(first..end).unwrap_or_default().iter().rev() {
                after = join(*stretch, after);
                front.push(after);
            }
            (middle, back) = (end, None);
        }
        let of_front = (middle - first).checked_sub(1).and_then(|at| front.get(at)).copied().flatten();
        if let Some(summary) = join(of_front, back) {
            each(step, summary);
        }
    }
}

/// Returns all starts and ends of windows, ascending, each once.
fn cuts(bounds: &[(usize, usize)]) -> Vec<usize> {
    let mut cuts: Vec<usize> = Vec::with_capacity(bounds.len() * 2);
    let mut ends = bounds.iter().filter(|(from, to)| from < to).map(|(_, to)| *to).peekable();
    for (from, _) in bounds.iter().filter(|(from, to)| from < to) {
        while let Some(end) = ends.next_if(|end| end <= from) {
            cuts.push(end);
        }
        cuts.push(*from);
    }
    cuts.extend(ends);
    cuts.dedup();
    cuts
}

/// Returns the place of a cut, from one on.
fn place(cuts: &[usize], from: usize, cut: usize) -> usize {
    from + cuts.get(from..).unwrap_or_default().iter().take_while(|known| **known < cut).count()
}

/// Returns whether most samples of a window are also in the next one.
pub(super) fn overlap(windows: &Windows<'_>) -> bool {
    let all: usize = windows.bounds.iter().map(|(from, to)| to - from).sum();
    all > 2 * windows.samples.values.len()
}
