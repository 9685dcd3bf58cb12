use crate::quantum::{self, Quantum};
use crate::{Aggregation, Schema, StoredField};

/// The summary of a column's values over a time. Gaps do not count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cell {
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) sum: f64,
    pub(crate) last: f64,
    pub(crate) count: u32,
}

impl Cell {
    pub(crate) const EMPTY: Self = Self { min: f64::NAN, max: f64::NAN, sum: 0.0, last: f64::NAN, count: 0 };

    /// Summarises values. It sums whole steps, so the sum is exact in any order as long as it stays below 2⁵³.
    pub(crate) fn of(values: &[f64], quantum: Quantum) -> Self {
        let cell = match quantum {
            Quantum::Exact => return Self::walk(values, |value| value),
            Quantum::Part(parts) => Self::walk(values, |value| quantum::nearest(value * parts)),
            Quantum::Multiple(step) => Self::walk(values, |value| quantum::nearest(value / step)),
        };
        let largest = cell.min.abs().max(cell.max.abs());
        let mut cell = if cell.count == 0 || quantum::rounds(quantum.unrounded(largest)) {
            cell
        } else {
            Self::walk(values, |value| quantum.steps(value))
        };
        cell.sum = quantum.value(cell.sum);
        cell
    }

    #[inline]
    fn walk(values: &[f64], steps: impl Fn(f64) -> f64) -> Self {
        const FEW: usize = 16;
        if values.len() < FEW { Self::one_by_one(values, steps) } else { Self::in_lanes(values, steps) }
    }

    #[inline]
    fn one_by_one(values: &[f64], steps: impl Fn(f64) -> f64) -> Self {
        let mut cell = Self::EMPTY;
        for &value in values {
            if value.is_nan() {
                continue;
            }
            if cell.count == 0 {
                (cell.min, cell.max) = (value, value);
            }
            cell.min = if value < cell.min { value } else { cell.min };
            cell.max = if value > cell.max { value } else { cell.max };
            cell.last = value;
            cell.count += 1;
            cell.sum += steps(value);
        }
        cell
    }

    /// Summarises four values at a time, so that no addition waits for the one before.
    #[inline]
    fn in_lanes(values: &[f64], steps: impl Fn(f64) -> f64) -> Self {
        let (fours, rest) = values.as_chunks::<4>();
        let mut min = [f64::INFINITY; 4];
        let mut max = [f64::NEG_INFINITY; 4];
        let mut sum = [0.0; 4];
        let mut gaps = [0u64; 4];
        let mut last = [f64::NAN; 4];
        last.iter_mut().zip(rest).for_each(|(last, value)| *last = *value);
        for four in fours.iter().chain([&last]) {
            let lanes = min.iter_mut().zip(&mut max).zip(&mut sum).zip(&mut gaps).zip(four);
            for ((((min, max), sum), gaps), &value) in lanes {
                // Comparing with NaN is false.
                *min = if value < *min { value } else { *min };
                *max = if value > *max { value } else { *max };
                let gap = value.is_nan();
                *sum += if gap { 0.0 } else { steps(value) };
                *gaps += u64::from(gap);
            }
        }
        let padding = 4 - rest.len() as u64;
        let count = values.len() as u64 + padding - gaps.iter().sum::<u64>();
        if count == 0 {
            return Self::EMPTY;
        }
        Self {
            min: min.into_iter().fold(f64::INFINITY, f64::min),
            max: max.into_iter().fold(f64::NEG_INFINITY, f64::max),
            sum: sum.into_iter().sum(),
            last: values.iter().copied().rfind(|value| !value.is_nan()).unwrap_or(f64::NAN),
            count: u32::try_from(count).unwrap_or(u32::MAX),
        }
    }

    /// Adds the cell of later values.
    pub(crate) fn add(&mut self, later: &Self) {
        if later.count == 0 {
            return;
        }
        self.min = self.min.min(later.min);
        self.max = self.max.max(later.max);
        self.sum += later.sum;
        self.last = later.last;
        self.count = self.count.saturating_add(later.count);
    }

    /// Returns the aggregated value; NaN if there are no values.
    pub(crate) fn value(&self, aggregation: Aggregation) -> f64 {
        if self.count == 0 {
            return f64::NAN;
        }
        let value = match aggregation {
            // The mean of equal values must be that value; a rounded sum may miss it by a bit.
            Aggregation::Mean if self.sum.is_finite() => (self.sum / f64::from(self.count)).clamp(self.min, self.max),
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

/// A block's cells in a compact form, because there are many. Per field it has the smallest and the largest value and
/// the one that the aggregation needs. The others read as NaN.
#[derive(Debug, Clone)]
pub(crate) struct Cells {
    /// Three values per field: the smallest, the largest, and the last value or the sum.
    values: Box<[f64]>,
    /// The number of values per field; `None` if every row has a value of every field.
    counts: Option<Box<[u32]>>,
}

impl Cells {
    pub(crate) fn of(cells: &[Cell], schema: &Schema, rows: usize) -> Self {
        let third = |cell: &Cell, field: &StoredField| match field.aggregation {
            Aggregation::Last => cell.last,
            _ => cell.sum,
        };
        let values =
            cells.iter().zip(schema.fields()).flat_map(|(cell, field)| [cell.min, cell.max, third(cell, field)]);
        let full = cells.iter().all(|cell| cell.count as usize == rows);
        Self { values: values.collect(), counts: (!full).then(|| cells.iter().map(|cell| cell.count).collect()) }
    }

    /// Returns a field's cell, in a block of `rows` rows.
    pub(crate) fn get(&self, field: usize, schema: &Schema, rows: usize) -> Cell {
        let count = match &self.counts {
            Some(counts) => counts.get(field).copied().unwrap_or(0),
            None => u32::try_from(rows).unwrap_or(u32::MAX),
        };
        let aggregation = schema.fields().get(field).map(|field| field.aggregation);
        match self.values.get(field * 3..field * 3 + 3) {
            Some(&[min, max, last]) if aggregation == Some(Aggregation::Last) => {
                Cell { min, max, sum: f64::NAN, last, count }
            }
            Some(&[min, max, sum]) => Cell { min, max, sum, last: f64::NAN, count },
            _ => Cell::EMPTY,
        }
    }

    /// Returns the most bytes that the cells of a number of fields take.
    pub(crate) fn most_bytes(fields: usize) -> u64 {
        (fields * (3 * size_of::<f64>() + size_of::<u32>())) as u64
    }

    pub(crate) fn bytes(&self) -> usize {
        let counts = self.counts.as_ref().map_or(0, |counts| std::mem::size_of_val(&counts[..]));
        std::mem::size_of_val(&self.values[..]) + counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_do_not_count_in_a_cell() {
        let cell = Cell::of(&[f64::NAN, 4.0, f64::NAN, 1.0, 2.5, f64::NAN], Quantum::Exact);
        use Aggregation::*;
        let all = [Mean, Min, Max, Last, Sum].map(|aggregation| cell.value(aggregation));
        assert_eq!(all, [2.5, 1.0, 4.0, 2.5, 7.5]);
        assert!(Cell::EMPTY.value(Sum).is_nan(), "nothing adds up to nothing, not to zero");
    }

    #[test]
    fn values_summed_in_lanes_equal_values_summed_one_by_one() {
        for quantum in [Quantum::Exact, Quantum::of(0.01), Quantum::of(5.0)] {
            for count in 0..40 {
                let gap = |i: i32| if i % 5 == 3 { f64::NAN } else { f64::from(i * 7 % 11) - 3.0 };
                let values: Vec<f64> = (0..count).map(|i| quantum.keep(gap(i) * 3.7)).collect();
                let cell = Cell::of(&values, quantum);
                let present = || values.iter().copied().filter(|value| !value.is_nan());
                assert_eq!(cell.count as usize, present().count());
                assert!((cell.sum - present().sum::<f64>()).abs() < 1e-9);
                if cell.count > 0 {
                    assert_eq!((cell.min, cell.max), (present().fold(1e9, f64::min), present().fold(-1e9, f64::max)));
                    assert_eq!(Some(cell.last), present().next_back());
                }
            }
        }
        let huge = Cell::of(&[1e300, 3e15 + 1.0, 0.5], Quantum::of(1.0));
        assert_eq!((huge.sum, huge.count), (1e300, 3));
    }

    #[test]
    fn added_cells_equal_the_cell_of_all_their_values() {
        let values: Vec<f64> = (0..1000).map(|i| Quantum::of(0.01).keep(f64::from(i) * 0.37 - 5.0)).collect();
        let mut cell = Cell::EMPTY;
        for part in values.chunks(7) {
            cell.add(&Cell::of(part, Quantum::of(0.01)));
        }
        let all = Cell::of(&values, Quantum::of(0.01));
        assert_eq!((cell.min, cell.max, cell.last, cell.count), (all.min, all.max, all.last, all.count));
        assert!((cell.sum - all.sum).abs() < 1e-9 * all.sum);
        cell.add(&Cell::EMPTY);
        assert_eq!(cell.count, 1000);
    }
}
