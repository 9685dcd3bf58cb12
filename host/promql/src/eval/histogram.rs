//! Histograms of buckets with upper bounds (`le`): their quantiles and fractions.

use super::Context;
use super::matrix::{Grid, Groups, Matrix, with_label};
use super::plan::Node;
use crate::annotations::{Annotations, Repair};
use crate::ast::ValueType;
use crate::number;
use crate::source::QueryError;
use dropsonde_model::Labels;
use dropsonde_model::labels::NAME;

/// The label of a bucket's upper bound.
const BOUND: &str = "le";

/// Counts that differ by less, relatively, are equal: computing them lost digits.
const TOLERANCE: f64 = 1e-12;

/// A bucket: how many observations are at most as large as its bound.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    bound: f64,
    count: f64,
}

/// The buckets of one histogram, by the rows that hold them.
struct Buckets {
    labels: Labels,
    drops_name: bool,
    /// Ascending by the bounds.
    rows: Vec<(f64, usize)>,
}

impl Context<'_> {
    pub(super) fn histogram(
        &self,
        function: &str,
        arguments: &[Node],
        grid: Grid,
        annotations: &mut Annotations,
    ) -> Result<Matrix, QueryError> {
        let Some(vector_node) = arguments.iter().find(|argument| argument.value_type == ValueType::Vector) else {
            return Err(QueryError::Execution(format!("`{function}` needs an instant vector")));
        };
        let mut parameters = Vec::new();
        for argument in arguments.iter().filter(|argument| argument.value_type == ValueType::Scalar) {
            parameters.push((self.scalar(argument, grid, annotations)?, argument));
        }
        let label = arguments.iter().find(|argument| argument.value_type == ValueType::String).map(Node::label);
        let label = label
            .transpose()
            .map_err(|written| QueryError::Execution(format!("invalid label name {written} in {function}()")))?;
        let vector = self.vector(vector_node, grid, annotations)?;
        if function != "histogram_fraction" {
            for (values, node) in &parameters {
                for quantile in values.iter().filter(|quantile| !(0.0..=1.0).contains(*quantile)) {
                    annotations.quantile_out_of_bounds(*quantile, &node.at);
                }
            }
        }
        let mut matrix = Matrix::new(self, grid.steps);
        let parameter = |nth: usize, step: usize| {
            parameters.get(nth).and_then(|(values, _)| values.get(step)).copied().unwrap_or(f64::NAN)
        };
        let histograms = self.histograms(&vector, vector_node, annotations);
        let mut row = vec![f64::NAN; grid.steps];
        let mut buckets: Vec<Bucket> = Vec::new();
        for histogram in &histograms {
            self.limits.check()?;
            let metric = histogram.labels.get(NAME).unwrap_or_default();
            let metric = if self.settings.delayed_name_removal { metric } else { "" };
            let wanted = if function == "histogram_quantiles" { 0..parameters.len() } else { 0..1 };
            for nth in wanted {
                let mut labels = histogram.labels.clone();
                if let Some(label) = label {
                    // The value of the label is the quantile at the first step; as in Prometheus, constants are meant.
                    labels = with_label(&labels, label, &open_metrics(parameter(nth, 0)));
                }
                for (step, result) in row.iter_mut().enumerate() {
                    buckets.clear();
                    let of_step = histogram.rows.iter();
                    buckets.extend(
                        of_step.filter_map(|(bound, row)| {
                            Some(Bucket { bound: *bound, count: vector.value(*row, step)? })
                        }),
                    );
                    *result = match (&*buckets, function) {
                        ([], _) => crate::source::STALE,
                        (_, "histogram_fraction") => fraction(parameter(0, step), parameter(1, step), &mut buckets),
                        _ => {
                            let (value, repair) = quantile(parameter(nth, step), &mut buckets, grid.time(step));
                            if let Some(repair) = repair {
                                annotations.histogram_repaired(metric, &vector_node.at, repair);
                            }
                            value
                        }
                    };
                }
                matrix.push(labels, histogram.drops_name, &row)?;
            }
        }
        self.without_names(matrix.without_empty())
    }

    /// Finds the buckets of each histogram.
    fn histograms(&self, vector: &Matrix, node: &Node, annotations: &mut Annotations) -> Vec<Buckets> {
        let mut groups = Groups::default();
        let mut histograms: Vec<Buckets> = Vec::new();
        for (nth, row) in vector.rows().iter().enumerate() {
            let bound = row.labels.get(BOUND).unwrap_or_default();
            let Ok(parsed) = bound.parse::<f64>() else {
                let metric = row.labels.get(NAME).unwrap_or_default();
                let metric = if self.settings.delayed_name_removal { metric } else { "" };
                annotations.bad_bucket(metric, bound, &node.at);
                continue;
            };
            let labels = with_label(&row.labels, BOUND, "");
            let group = groups.of(&labels);
            match histograms.get_mut(group) {
                Some(known) => known.rows.push((parsed, nth)),
                None => histograms.push(Buckets { labels, drops_name: row.drops_name, rows: vec![(parsed, nth)] }),
            }
        }
        for histogram in &mut histograms {
            histogram.rows.sort_by(|(a, _), (b, _)| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        }
        histograms
    }
}

/// Writes a number as OpenMetrics wants it in labels: `1.0`.
fn open_metrics(value: f64) -> String {
    let text = number::general(value, None);
    if value.is_finite() && !text.contains(['.', 'e']) { format!("{text}.0") } else { text }
}

/// Unites buckets with the same bound. Returns whether the last bound is infinite.
fn prepare(buckets: &mut Vec<Bucket>) -> bool {
    if buckets.last().is_none_or(|last| last.bound != f64::INFINITY) {
        return false;
    }
    buckets.dedup_by(|later, kept| {
        let is_same = later.bound == kept.bound;
        if is_same {
            kept.count += later.count;
        }
        is_same
    });
    true
}

/// Makes the counts ascend. Returns what that needed, if it was more than lost digits.
fn make_ascending(buckets: &mut [Bucket], at_ms: i64) -> Option<Repair> {
    let mut repair: Option<Repair> = None;
    let mut before = buckets.first().map_or(f64::NAN, |bucket| bucket.count);
    for bucket in buckets.iter_mut().skip(1) {
        let count = bucket.count;
        if count == before {
            continue;
        }
        if almost_equal(before, count) {
            bucket.count = before;
        } else if count < before {
            bucket.count = before;
            let this = Repair {
                lowest_bucket: bucket.bound,
                highest_bucket: bucket.bound,
                largest_difference: before - count,
                count: 1,
                first_ms: at_ms,
                last_ms: at_ms,
            };
            repair = Some(match repair {
                Some(known) => Repair {
                    lowest_bucket: known.lowest_bucket.min(bucket.bound),
                    highest_bucket: known.highest_bucket.max(bucket.bound),
                    largest_difference: known.largest_difference.max(before - count),
                    ..known
                },
                None => this,
            });
        } else {
            before = count;
        }
    }
    repair
}

fn almost_equal(a: f64, b: f64) -> bool {
    let sum = a.abs() + b.abs();
    if a.is_nan() && b.is_nan() || a == b {
        return true;
    }
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return (a - b).abs() < TOLERANCE * f64::MIN_POSITIVE;
    }
    (a - b).abs() / sum.min(f64::MAX) < TOLERANCE
}

/// Returns a quantile: in a bucket, observations are taken to be spread evenly. The first bucket begins at 0 if its bound
/// is above; in the last one, the answer is the bound before.
fn quantile(quantile: f64, buckets: &mut Vec<Bucket>, at_ms: i64) -> (f64, Option<Repair>) {
    if quantile.is_nan() {
        return (f64::NAN, None);
    }
    if quantile < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if quantile > 1.0 {
        return (f64::INFINITY, None);
    }
    if !prepare(buckets) {
        return (f64::NAN, None);
    }
    let repair = make_ascending(buckets, at_ms);
    let [inner @ .., last] = &**buckets else { return (f64::NAN, repair) };
    let Some(before_last) = inner.last().filter(|_| last.count != 0.0) else { return (f64::NAN, repair) };
    let rank = quantile * last.count;
    // With counts that are NaN no bucket is reached, as in Prometheus' search.
    let at = inner.partition_point(|bucket| bucket.count < rank || bucket.count.is_nan() || rank.is_nan());
    let value = match (inner.get(at), at.checked_sub(1).and_then(|at| inner.get(at))) {
        (None, _) => before_last.bound,
        (Some(first), None) if first.bound <= 0.0 => first.bound,
        (Some(bucket), before) => {
            let (start, below) = before.map_or((0.0, 0.0), |before| (before.bound, before.count));
            let (rank, count) = (rank - below, bucket.count - below);
            start + (bucket.bound - start) * (rank / count)
        }
    };
    (value, repair)
}

/// Returns the share of observations between two values.
fn fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    if !prepare(buckets) {
        return f64::NAN;
    }
    let count = buckets.last().map_or(0.0, |last| last.count);
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let rank = |value: f64| rank_of(value, buckets).filter(|rank| *rank <= count || rank.is_nan()).unwrap_or(count);
    (rank(upper) - rank(lower)) / count
}

/// Returns how many observations are below a value; nothing if all are.
fn rank_of(value: f64, buckets: &[Bucket]) -> Option<f64> {
    // If the first bound is above 0, so are all observations.
    let is_positive = buckets.first().is_some_and(|first| first.bound > 0.0);
    let mut start = if is_positive { 0.0 } else { f64::NEG_INFINITY };
    let mut rank = 0.0;
    for bucket in buckets {
        if start >= value {
            return Some(rank);
        }
        if bucket.bound > value {
            // In a bucket without a lower end nothing is known of how observations are spread.
            let share = (value - start) / (bucket.bound - start);
            return Some(if start == f64::NEG_INFINITY { bucket.count } else { rank + (bucket.count - rank) * share });
        }
        rank = bucket.count;
        start = bucket.bound;
    }
    None
}
