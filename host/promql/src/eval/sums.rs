//! Sums of numbers of very different sizes, with the digits that each addition loses (Kahan's sum, improved by
//! Neumaier).

/// A sum, and what its additions lost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sum {
    pub(super) sum: f64,
    pub(super) lost: f64,
}

/// The mean of numbers. It is their sum divided by their number, as long as the sum is finite; else each number changes
/// the mean.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mean {
    sum: Sum,
    count: f64,
    is_incremental: bool,
}

impl Sum {
    #[inline]
    pub(super) fn add(self, number: f64) -> Self {
        let sum = self.sum + number;
        let lost = if sum.is_infinite() {
            0.0
        } else if self.sum.abs() >= number.abs() {
            self.lost + ((self.sum - sum) + number)
        } else {
            self.lost + ((number - sum) + self.sum)
        };
        Self { sum, lost }
    }

    /// Adds two sums.
    #[inline]
    pub(super) fn plus(self, other: Self) -> Self {
        let mut both = self.add(other.sum);
        if !both.sum.is_infinite() {
            both.lost += other.lost;
        }
        both
    }

    #[inline]
    pub(super) fn total(self) -> f64 {
        if self.sum.is_infinite() { self.sum } else { self.sum + self.lost }
    }
}

impl Mean {
    pub(super) fn add(&mut self, number: f64) {
        self.count += 1.0;
        if self.count == 1.0 {
            self.sum = Sum { sum: number, lost: 0.0 };
            return;
        }
        if !self.is_incremental {
            let sum = self.sum.add(number);
            if !sum.sum.is_infinite() {
                self.sum = sum;
                return;
            }
            self.is_incremental = true;
            let before = self.count - 1.0;
            self.sum = Sum { sum: self.sum.sum / before, lost: self.sum.lost / before };
        }
        let share = (self.count - 1.0) / self.count;
        let before = Sum { sum: share * self.sum.sum, lost: share * self.sum.lost };
        self.sum = before.add(number / self.count);
    }

    pub(super) fn value(&self) -> f64 {
        if self.is_incremental {
            self.sum.sum + self.sum.lost
        } else {
            self.sum.sum / self.count + self.sum.lost / self.count
        }
    }
}
