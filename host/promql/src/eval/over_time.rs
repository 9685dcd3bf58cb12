//! Functions of windows.

use super::matrix::{Grid, Matrix, without_name};
use super::plan::{Node, NodeKind};
use super::rate::{self, Extrapolation, Resets};
use super::regression;
use super::select::Windows;
use super::sliding;
use super::sums::{Mean, Sum};
use super::{Context, Value};
use crate::annotations::Annotations;
use crate::source::{QueryError, STALE, Samples};
use dropsonde_model::Labels;
use dropsonde_model::labels::NAME;

impl Context<'_> {
    /// Computes a function of windows.
    pub(super) fn over_time(
        &self,
        function: &str,
        arguments: &[Node],
        grid: Grid,
        annotations: &mut Annotations,
    ) -> Result<Value, QueryError> {
        let is_window = |node: &&Node| matches!(node.kind, NodeKind::Window { .. } | NodeKind::Subquery { .. });
        let Some(window) = arguments.iter().find(is_window) else {
            return Err(QueryError::Execution(format!("`{function}` needs a range vector")));
        };
        let mut parameters = Vec::new();
        for argument in arguments.iter().filter(|argument| !is_window(argument)) {
            parameters.push(self.scalar(argument, grid, annotations)?);
        }
        let parameter = |nth: usize, step: usize| -> f64 {
            parameters.get(nth).and_then(|values| values.get(step)).copied().unwrap_or(f64::NAN)
        };
        // The names stay where a sample itself is the answer.
        let keeps_name = matches!(function, "last_over_time" | "first_over_time");
        let is_rate = matches!(function, "rate" | "increase");
        let mut matrix = Matrix::new(self, grid.steps);
        let mut row = vec![STALE; grid.steps];
        let mut extrapolation = Extrapolation::default();
        let mut remarks = Annotations::default();
        let first_at = arguments.first().map_or(0..0, |argument| argument.at.clone());
        self.windows(window, grid, annotations, &mut |labels, drops_name, windows| {
            row.fill(STALE);
            if function == "quantile_over_time" {
                for (step, (from, to)) in windows.bounds.iter().enumerate() {
                    let quantile = parameter(0, step);
                    if from < to && !(0.0..=1.0).contains(&quantile) {
                        remarks.quantile_out_of_bounds(quantile, &first_at);
                    }
                }
            }
            if function == "double_exponential_smoothing" && windows.bounds.iter().any(|(from, to)| from < to) {
                for (name, nth) in [("smoothing", 0), ("trend", 1)] {
                    let factor = parameter(nth, 0);
                    if !(factor > 0.0 && factor < 1.0) {
                        let why = format!("the {name} factor must be between 0 and 1, not {factor}");
                        return Err(QueryError::Execution(why));
                    }
                }
            }
            compute(function, &windows, &parameter, &mut extrapolation, &mut row);
            if row.iter().all(|value| crate::source::is_stale(*value)) {
                return Ok(());
            }
            let name = labels.get(NAME).unwrap_or_default();
            let is_counter = ["_total", "_sum", "_count", "_bucket"].iter().any(|end| name.ends_with(end));
            if is_rate && !name.is_empty() && !is_counter {
                remarks.may_be_no_counter(name, &first_at);
            }
            let drops_name = drops_name || !keeps_name;
            let labels =
                if drops_name && !self.settings.delayed_name_removal { without_name(labels) } else { labels.clone() };
            matrix.push(labels, drops_name, &row)
        })?;
        annotations.append(remarks);
        if function == "absent_over_time" {
            return self.absent(&matrix, window, grid).map(Value::Vector);
        }
        if !self.settings.delayed_name_removal {
            matrix.check_labels_differ()?;
        }
        Ok(Value::Vector(matrix))
    }

    /// Returns 1 at the steps at which no series has a value.
    pub(super) fn absent(&self, series: &Matrix, selector: &Node, grid: Grid) -> Result<Matrix, QueryError> {
        let mut row = vec![1.0; grid.steps];
        for (_, values) in series.iter() {
            for (absent, value) in row.iter_mut().zip(values) {
                if !crate::source::is_stale(*value) {
                    *absent = STALE;
                }
            }
        }
        let mut matrix = Matrix::new(self, grid.steps);
        matrix.push(labels_of_absent(selector), false, &row)?;
        Ok(matrix.without_empty())
    }
}

/// Returns the labels that a selector gives to series that are absent: those with one value.
fn labels_of_absent(selector: &Node) -> Labels {
    let Some(matchers) = selector.matchers() else { return Labels::new() };
    let mut pairs: Vec<(&str, Option<&str>)> = Vec::new();
    for matcher in matchers.iter().filter(|matcher| matcher.name != NAME) {
        let is_new = !pairs.iter().any(|(name, _)| *name == matcher.name);
        let is_equal = matcher.operator == crate::matcher::MatchOperator::Equal;
        if is_equal && is_new {
            pairs.push((&matcher.name, Some(&matcher.value)));
        } else if let Some((_, value)) = pairs.iter_mut().find(|(name, _)| *name == matcher.name) {
            *value = None;
        }
    }
    let known =
        pairs.into_iter().filter_map(|(name, value)| value.filter(|value| !value.is_empty()).map(|v| (name, v)));
    known.collect()
}

/// Computes a function for all windows of a series. Steps without a value keep what `row` has.
fn compute(
    function: &str,
    windows: &Windows<'_>,
    parameter: &dyn Fn(usize, usize) -> f64,
    extrapolation: &mut Extrapolation,
    row: &mut [f64],
) {
    let mut each = |of: &dyn Fn(usize, Samples<'_>) -> Option<f64>| {
        for (step, result) in row.iter_mut().enumerate() {
            let samples = windows.at(step);
            if !samples.values.is_empty()
                && let Some(value) = of(step, samples)
            {
                *result = value;
            }
        }
    };
    match function {
        "rate" | "increase" => {
            let resets = Resets::of(windows);
            extrapolation.of(windows).growth(windows, Some(&resets), function == "rate", row);
        }
        "delta" => extrapolation.of(windows).growth(windows, None, false, row),
        "irate" => each(&|_, samples| rate::last_two(samples, true)),
        "idelta" => each(&|_, samples| rate::last_two(samples, false)),
        "resets" => {
            let resets = Resets::of(windows);
            each(&|step, _| windows.bounds.get(step).map(|(from, to)| resets.count(*from, *to) as f64));
        }
        "changes" => changes(windows, row),
        "count_over_time" => each(&|_, samples| Some(samples.values.len() as f64)),
        "present_over_time" | "absent_over_time" => each(&|_, _| Some(1.0)),
        "last_over_time" => each(&|_, samples| samples.values.last().copied()),
        "first_over_time" => each(&|_, samples| samples.values.first().copied()),
        "ts_of_last_over_time" => each(&|_, samples| samples.at_ms.last().map(|at_ms| *at_ms as f64 / 1000.0)),
        "ts_of_first_over_time" => each(&|_, samples| samples.at_ms.first().map(|at_ms| *at_ms as f64 / 1000.0)),
        "ts_of_max_over_time" => each(&|_, samples| time_of(samples, |value, best| value >= best)),
        "ts_of_min_over_time" => each(&|_, samples| time_of(samples, |value, best| value <= best)),
        // Both ignore NaN, unless there is nothing else.
        "max_over_time" => extremes(windows, row, f64::NEG_INFINITY, f64::max, |value, best| value > best),
        "min_over_time" => extremes(windows, row, f64::INFINITY, f64::min, |value, best| value < best),
        "sum_over_time" => sums(windows, row),
        "avg_over_time" => averages(windows, row),
        "stddev_over_time" => each(&|_, samples| Some(variance(samples.values).sqrt())),
        "stdvar_over_time" => each(&|_, samples| Some(variance(samples.values))),
        "quantile_over_time" => quantiles(windows, parameter, row),
        "mad_over_time" => each(&|_, samples| Some(median_deviation(samples.values))),
        "deriv" => each(&|_, samples| {
            let first_ms = samples.at_ms.first().copied().unwrap_or_default();
            regression::line(samples, first_ms).map(|(slope, _)| slope)
        }),
        "predict_linear" => each(&|step, samples| {
            let (slope, height) = regression::line(samples, windows.grid.time(step))?;
            Some(slope * parameter(0, step) + height)
        }),
        "double_exponential_smoothing" => {
            each(&|step, samples| regression::smoothed(samples.values, parameter(0, step), parameter(1, step)));
        }
        _ => {}
    }
}

/// Counts samples that differ from the one before.
fn changes(windows: &Windows<'_>, row: &mut [f64]) {
    let values = windows.samples.values;
    // The number of changes up to each sample.
    let mut until: Vec<usize> = Vec::with_capacity(values.len());
    let mut count = 0;
    for (at, value) in values.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| values.get(at));
        count += usize::from(before.is_some_and(|before| before != value && !(before.is_nan() && value.is_nan())));
        until.push(count);
    }
    for (result, (from, to)) in row.iter_mut().zip(windows.bounds) {
        if from < to
            && let (Some(first), Some(last)) = (until.get(*from), until.get(to - 1))
        {
            *result = (last - first) as f64;
        }
    }
}

fn time_of(samples: Samples<'_>, is_better: impl Fn(f64, f64) -> bool) -> Option<f64> {
    let mut best: Option<(i64, f64)> = None;
    for (at_ms, value) in samples.at_ms.iter().zip(samples.values) {
        if best.is_none_or(|(_, known)| is_better(*value, known) || known.is_nan()) {
            best = Some((*at_ms, *value));
        }
    }
    best.map(|(at_ms, _)| at_ms as f64 / 1000.0)
}

fn extremes(
    windows: &Windows<'_>,
    row: &mut [f64],
    worst: f64,
    better: impl Fn(f64, f64) -> f64 + Copy,
    is_better: impl Fn(f64, f64) -> bool + Copy,
) {
    let of = |values: &[f64]| {
        // Some side by side, because each comparison waits for the one before. NaN is not better than anything.
        let (parts, rest) = values.as_chunks::<8>();
        let mut best = [worst; 8];
        for part in parts {
            best.iter_mut()
                .zip(part)
                .for_each(|(best, value)| *best = if is_better(*value, *best) { *value } else { *best });
        }
        let best = best.iter().chain(rest).copied().fold(f64::NAN, better);
        // Perhaps there is nothing but NaN.
        if best == worst { values.iter().copied().fold(f64::NAN, better) } else { best }
    };
    sliding::summaries(windows, of, better, |step, value| {
        if let Some(result) = row.get_mut(step) {
            *result = value;
        }
    });
}

fn sums(windows: &Windows<'_>, row: &mut [f64]) {
    sliding::summaries(windows, Sum::of, Sum::plus, |step, sum| {
        if let Some(result) = row.get_mut(step) {
            *result = sum.total();
        }
    });
}

fn averages(windows: &Windows<'_>, row: &mut [f64]) {
    sliding::summaries(windows, Sum::of, Sum::plus, |step, sum| {
        let values = windows.at(step).values;
        let count = values.len() as f64;
        if let Some(result) = row.get_mut(step) {
            *result = if sum.sum.is_finite() {
                sum.sum / count + sum.lost / count
            } else {
                let mut mean = Mean::default();
                values.iter().for_each(|value| mean.add(*value));
                mean.value()
            };
        }
    });
}

/// Returns the variance of values, by Welford's method.
fn variance(values: &[f64]) -> f64 {
    let (mut count, mut mean, mut squares) = (0.0, Sum::default(), Sum::default());
    for value in values {
        count += 1.0;
        let difference = value - (mean.sum + mean.lost);
        mean = mean.add(difference / count);
        squares = squares.add(difference * (value - (mean.sum + mean.lost)));
    }
    (squares.sum + squares.lost) / count
}

/// Orders values as quantiles need them: NaN is the lowest.
pub(super) fn by_value(a: &f64, b: &f64) -> std::cmp::Ordering {
    b.is_nan().cmp(&a.is_nan()).then(a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal))
}

/// Returns a quantile of sorted values.
pub(super) fn quantile(quantile: f64, sorted: &[f64]) -> f64 {
    if sorted.is_empty() || quantile.is_nan() {
        return f64::NAN;
    }
    if quantile < 0.0 {
        return f64::NEG_INFINITY;
    }
    if quantile > 1.0 {
        return f64::INFINITY;
    }
    let rank = quantile * (sorted.len() - 1) as f64;
    let lower = rank.floor().max(0.0) as usize;
    let upper = (lower + 1).min(sorted.len() - 1);
    let weight = rank - rank.floor();
    let value = |at: usize| sorted.get(at).copied().unwrap_or(f64::NAN);
    value(lower) * (1.0 - weight) + value(upper) * weight
}

fn quantiles(windows: &Windows<'_>, parameter: &dyn Fn(usize, usize) -> f64, row: &mut [f64]) {
    if sliding::overlap(windows) {
        sliding_quantiles(windows, parameter, row);
        return;
    }
    let mut values: Vec<f64> = Vec::new();
    for (step, result) in row.iter_mut().enumerate() {
        let window = windows.at(step).values;
        if !window.is_empty() {
            values.clear();
            values.extend_from_slice(window);
            *result = unsorted_quantile(parameter(0, step), &mut values);
        }
    }
}

/// Returns a quantile of values in any order. It moves them.
pub(super) fn unsorted_quantile(wanted: f64, values: &mut [f64]) -> f64 {
    if !(0.0..=1.0).contains(&wanted) || values.is_empty() {
        return quantile(wanted, values);
    }
    let rank = wanted * (values.len() - 1) as f64;
    let lower = (rank.floor().max(0.0) as usize).min(values.len() - 1);
    let (_, at_lower, above) = values.select_nth_unstable_by(lower, by_value);
    let at_upper = above.iter().copied().min_by(by_value).unwrap_or(*at_lower);
    let weight = rank - rank.floor();
    *at_lower * (1.0 - weight) + at_upper * weight
}

/// Computes quantiles of windows that share most of their values: only what left and what came is moved.
fn sliding_quantiles(windows: &Windows<'_>, parameter: &dyn Fn(usize, usize) -> f64, row: &mut [f64]) {
    let mut sorted: Vec<f64> = Vec::new();
    let (mut known_from, mut known_to) = (0, 0);
    for (step, (result, &(from, to))) in row.iter_mut().zip(windows.bounds).enumerate() {
        if from >= to {
            continue;
        }
        if from < known_to {
            for value in windows.between(known_from, from).values {
                let at = sorted.partition_point(|known| by_value(known, value).is_lt());
                if at < sorted.len() {
                    sorted.remove(at);
                }
            }
            for value in windows.between(known_to, to).values {
                let at = sorted.partition_point(|known| by_value(known, value).is_lt());
                sorted.insert(at, *value);
            }
        } else {
            sorted.clear();
            sorted.extend_from_slice(windows.between(from, to).values);
            sorted.sort_unstable_by(by_value);
        }
        (known_from, known_to) = (from, to);
        *result = quantile(parameter(0, step), &sorted);
    }
}

/// Returns the median of the distances from the median.
fn median_deviation(values: &[f64]) -> f64 {
    if values.iter().any(|value| value.is_nan()) {
        return f64::NAN;
    }
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(by_value);
    let median = quantile(0.5, &sorted);
    sorted.iter_mut().for_each(|value| *value = (*value - median).abs());
    sorted.sort_unstable_by(by_value);
    quantile(0.5, &sorted)
}
