//! The quantile of a histogram, as PromQL's `histogram_quantile` computes it.

/// A bucket: how many observations were up to its upper bound.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) upper: f64,
    pub(crate) count: f64,
}

/// Returns the `q`-quantile of cumulative buckets in any order, interpolated within its bucket. None without
/// observations, or without a last bucket `+Inf`.
///
/// In the first bucket it interpolates from 0, unless the bound is not positive. A quantile in the last bucket is the
/// bound of the bucket before. Counts that fall towards larger bounds, which are read at different times, are
/// raised to the count before.
pub(crate) fn quantile(q: f64, buckets: &mut Vec<Bucket>) -> Option<f64> {
    buckets.sort_by(|a, b| a.upper.total_cmp(&b.upper));
    // The bounds 1 and 1.0 of two series are one.
    buckets.dedup_by(|next, before| {
        let is_same = next.upper == before.upper;
        if is_same {
            before.count += next.count;
        }
        is_same
    });
    let mut most = 0.0_f64;
    for bucket in buckets.iter_mut() {
        most = most.max(bucket.count);
        bucket.count = most;
    }
    let [.., before_last, last] = buckets.as_slice() else { return None };
    if last.upper != f64::INFINITY || last.count <= 0.0 {
        return None;
    }
    let rank = q * last.count;
    let nth = buckets.iter().position(|bucket| bucket.count >= rank)?;
    let bucket = buckets.get(nth)?;
    if bucket.upper == f64::INFINITY {
        return Some(before_last.upper);
    }
    let (lower, below) = match nth.checked_sub(1).and_then(|before| buckets.get(before)) {
        Some(before) => (before.upper, before.count),
        None if bucket.upper <= 0.0 => return Some(bucket.upper),
        None => (0.0, 0.0),
    };
    let inside = bucket.count - below;
    let share = if inside > 0.0 { (rank - below) / inside } else { 0.0 };
    Some(lower + (bucket.upper - lower) * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(q: f64, buckets: &[(f64, f64)]) -> Option<f64> {
        quantile(q, &mut buckets.iter().map(|&(upper, count)| Bucket { upper, count }).collect())
    }

    #[test]
    fn a_quantile_is_interpolated_within_its_bucket() {
        let buckets = [(0.1, 50.0), (0.5, 90.0), (1.0, 100.0), (f64::INFINITY, 100.0)];
        assert_eq!(of(0.25, &buckets), Some(0.05));
        assert_eq!(of(0.5, &buckets), Some(0.1));
        assert!((of(0.95, &buckets).unwrap() - 0.75).abs() < 1e-12);
        assert_eq!(of(1.0, &buckets), Some(1.0));
    }

    #[test]
    fn a_quantile_beyond_the_last_bound_is_that_bound() {
        assert_eq!(of(0.99, &[(0.1, 1.0), (f64::INFINITY, 100.0)]), Some(0.1));
    }

    #[test]
    fn without_observations_or_without_an_infinite_bucket_there_is_no_quantile() {
        assert_eq!(of(0.9, &[(0.1, 0.0), (f64::INFINITY, 0.0)]), None);
        assert_eq!(of(0.9, &[(0.1, 1.0), (1.0, 2.0)]), None);
        assert_eq!(of(0.9, &[(f64::INFINITY, 2.0)]), None);
        assert_eq!(of(0.9, &[]), None);
    }

    #[test]
    fn counts_that_fall_towards_larger_bounds_are_raised() {
        let fallen = [(0.1, 50.0), (0.5, 40.0), (1.0, 100.0), (f64::INFINITY, 100.0)];
        let raised = [(0.1, 50.0), (0.5, 50.0), (1.0, 100.0), (f64::INFINITY, 100.0)];
        assert_eq!(of(0.75, &fallen), of(0.75, &raised));
    }

    #[test]
    fn buckets_of_one_bound_are_added() {
        let twice = [(1.0, 1.0), (1.0, 1.0), (2.0, 4.0), (f64::INFINITY, 2.0), (f64::INFINITY, 2.0)];
        assert_eq!(of(0.5, &twice), of(0.5, &[(1.0, 2.0), (2.0, 4.0), (f64::INFINITY, 4.0)]));
    }

    #[test]
    fn a_first_bucket_that_is_not_positive_is_not_interpolated() {
        assert_eq!(of(0.1, &[(-1.0, 10.0), (0.0, 20.0), (f64::INFINITY, 20.0)]), Some(-1.0));
        assert_eq!(of(0.75, &[(-1.0, 10.0), (0.0, 20.0), (f64::INFINITY, 20.0)]), Some(-0.5));
    }
}
