//! Aggregations that pick some series of each group: `topk`, `bottomk`, `limitk`, `limit_ratio`.

use super::Context;
use super::aggregate::Grouped;
use super::matrix::{Matrix, Row};
use crate::annotations::Annotations;
use crate::ast::{AggregationOperator as Op, Grouping};
use crate::source::{QueryError, STALE};
use std::cmp::Ordering;
use std::ops::Range;
use xxhash_rust::xxh64::xxh64;

impl Context<'_> {
    pub(super) fn pick(
        &self,
        operator: Op,
        vector: &Matrix,
        grouping: &Grouping,
        parameters: &[f64],
        at: &Range<usize>,
        annotations: &mut Annotations,
    ) -> Result<Matrix, QueryError> {
        if parameters.iter().any(|parameter| parameter.is_nan()) {
            let what = if operator == Op::LimitRatio { "Ratio" } else { "Parameter" };
            return Err(QueryError::Execution(format!("{what} value is NaN")));
        }
        if operator == Op::LimitRatio {
            for beyond in parameters.iter().filter(|ratio| ratio.abs() > 1.0) {
                annotations.ratio_out_of_bounds(*beyond, at);
            }
        } else if let Some(beyond) = parameters.iter().find(|count| count.abs() >= i64::MAX as f64)
            && parameters.iter().any(|count| *count >= 1.0)
        {
            return Err(QueryError::Execution(format!("Scalar value {beyond} does not fit into 64 bits")));
        }
        let groups = Grouped::of(vector, grouping).members();
        let mut picked = Matrix::new(self, vector.steps);
        for row in vector.rows() {
            picked.push_empty(row.labels.clone(), row.drops_name)?;
        }
        let mut candidates: Vec<(f64, usize)> = Vec::new();
        // The place of each row in the answer to an instant query.
        let mut order: Vec<usize> = Vec::new();
        for (step, parameter) in parameters.iter().enumerate() {
            self.limits.check()?;
            for rows in &groups {
                candidates.clear();
                candidates.extend(rows.iter().filter_map(|row| Some((vector.value(*row, step)?, *row))));
                match operator {
                    Op::LimitRatio => candidates.retain(|(_, row)| {
                        vector.rows().get(*row).is_some_and(|row| is_in_share(row, parameter.clamp(-1.0, 1.0)))
                    }),
                    _ => keep(&mut candidates, operator, *parameter),
                }
                for (value, row) in &candidates {
                    if let Some(result) = picked.values_mut(*row).get_mut(step) {
                        *result = *value;
                    }
                }
                if vector.steps == 1 {
                    order.extend(candidates.iter().map(|(_, row)| *row));
                }
            }
        }
        if vector.steps > 1 {
            return Ok(picked.without_empty());
        }
        let mut ordered = Matrix::new(self, 1);
        for row in order {
            if let Some(Row { labels, drops_name }) = picked.rows().get(row) {
                ordered.push(labels.clone(), *drops_name, &[picked.value(row, 0).unwrap_or(STALE)])?;
            }
        }
        Ok(ordered)
    }
}

/// Keeps as many candidates as wanted, the best first. NaN is worst. Which of several equal ones stay is as in Prometheus:
/// a heap with the worst at its root decides.
fn keep(candidates: &mut Vec<(f64, usize)>, operator: Op, wanted: f64) {
    let wanted = if wanted < 1.0 { 0 } else { (wanted as usize).min(candidates.len()) };
    if operator == Op::LimitK || wanted == 0 {
        candidates.truncate(wanted);
        return;
    }
    let is_worse = |a: f64, b: f64| if operator == Op::TopK { a < b } else { a > b };
    // NaN counts as worse than itself, as in Prometheus.
    let is_below = |a: f64, b: f64| a.is_nan() || is_worse(a, b);
    let mut heap: Vec<(f64, usize)> = Vec::with_capacity(wanted);
    for candidate in candidates.iter() {
        if heap.len() < wanted {
            heap.push(*candidate);
            rise(&mut heap, &is_below);
        } else if let Some(root) = heap.first_mut()
            && (is_worse(root.0, candidate.0) || (root.0.is_nan() && !candidate.0.is_nan()))
        {
            *root = *candidate;
            sink(&mut heap, &is_below);
        }
    }
    heap.sort_by(|a, b| {
        let (low, high) = if operator == Op::TopK { (b.0, a.0) } else { (a.0, b.0) };
        a.0.is_nan().cmp(&b.0.is_nan()).then(low.partial_cmp(&high).unwrap_or(Ordering::Equal))
    });
    *candidates = heap;
}

/// Moves the last element of a heap up to its place.
fn rise(heap: &mut [(f64, usize)], is_below: &impl Fn(f64, f64) -> bool) {
    let mut at = heap.len().saturating_sub(1);
    while at > 0 {
        let parent = (at - 1) / 2;
        match (heap.get(at), heap.get(parent)) {
            (Some(child), Some(above)) if is_below(child.0, above.0) => heap.swap(at, parent),
            _ => return,
        }
        at = parent;
    }
}

/// Moves the root of a heap down to its place.
fn sink(heap: &mut [(f64, usize)], is_below: &impl Fn(f64, f64) -> bool) {
    let mut at = 0;
    loop {
        let (left, right) = (2 * at + 1, 2 * at + 2);
        let Some(mut lowest) = heap.get(left).copied() else { return };
        let mut child = left;
        if let Some(other) = heap.get(right)
            && is_below(other.0, lowest.0)
        {
            (child, lowest) = (right, *other);
        }
        match heap.get(at) {
            Some(parent) if is_below(lowest.0, parent.0) => heap.swap(at, child),
            _ => return,
        }
        at = child;
    }
}

/// Returns whether a series belongs to a share of all series, which depends on its labels only: Prometheus picks the same
/// series. A negative share is the rest of the positive one that makes it whole.
fn is_in_share(row: &Row, ratio: f64) -> bool {
    // Prometheus hashes labels as it holds them: each text behind its length.
    let mut bytes = Vec::new();
    for text in row.labels.iter().flat_map(|(name, value)| [name, value]) {
        match u8::try_from(text.len()) {
            Ok(length) if length < u8::MAX => bytes.push(length),
            _ => {
                bytes.push(u8::MAX);
                bytes.extend(text.len().to_le_bytes().iter().take(3));
            }
        }
        bytes.extend(text.as_bytes());
    }
    let place = xxh64(&bytes, 0) as f64 / u64::MAX as f64;
    if ratio >= 0.0 { place < ratio } else { place >= 1.0 + ratio }
}
