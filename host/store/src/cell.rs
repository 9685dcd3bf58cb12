use crate::Aggregation;

/// What a column's rows in one bucket add up to. Gaps count for nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cell {
    pub(crate) min: f64,
    pub(crate) max: f64,
    sum: f64,
    count: u64,
    last: f64,
}

impl Cell {
    pub(crate) const EMPTY: Self = Self { min: f64::NAN, max: f64::NAN, sum: 0.0, count: 0, last: f64::NAN };

    pub(crate) fn add(&mut self, value: f64) {
        if value.is_nan() {
            return;
        }
        // `min` and `max` of a number and NaN are the number.
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
        self.count += 1;
        self.last = value;
    }

    /// The bucket's value; NaN when nothing was added.
    pub(crate) fn value(&self, aggregation: Aggregation) -> f64 {
        if self.count == 0 {
            return f64::NAN;
        }
        let value = match aggregation {
            // The mean of equal values is that value, which summing may miss by a bit.
            Aggregation::Mean if self.sum.is_finite() => (self.sum / self.count as f64).clamp(self.min, self.max),
            Aggregation::Mean => f64::NAN,
            Aggregation::Min => self.min,
            Aggregation::Max => self.max,
            Aggregation::Last => self.last,
            Aggregation::Sum => self.sum,
        };
        // A sum can overflow where no reading does.
        if value.is_finite() { value } else { f64::NAN }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_count_for_nothing() {
        let mut cell = Cell::EMPTY;
        for value in [f64::NAN, 4.0, f64::NAN, 1.0, 2.5, f64::NAN] {
            cell.add(value);
        }
        use Aggregation::*;
        let all = [Mean, Min, Max, Last, Sum].map(|aggregation| cell.value(aggregation));
        assert_eq!(all, [2.5, 1.0, 4.0, 2.5, 7.5]);
        assert!(Cell::EMPTY.value(Sum).is_nan(), "nothing adds up to nothing, not to zero");
    }
}
