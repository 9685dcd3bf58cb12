//! Sums of numbers of very different sizes, with the digits that each addition loses (Kahan's sum).

/// A sum, and what its additions lost.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sum {
    pub(super) sum: f64,
    pub(super) lost: f64,
}

/// So many numbers are summed in parts.
const MANY: usize = 64;

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
        // What was really added, and what each of the two lost. (Kahan and Neumaier ask which of them is larger; Knuth's
        // form gives the same without a branch.)
        let added = sum - self.sum;
        let lost = self.lost + ((self.sum - (sum - added)) + (number - added));
        Self { sum, lost: if sum.is_infinite() { 0.0 } else { lost } }
    }

    /// Returns the sum of numbers.
    pub(super) fn of(numbers: &[f64]) -> Self {
        let one_by_one = |numbers: &[f64]| numbers.iter().fold(Self::default(), |sum, number| sum.add(*number));
        if numbers.len() < MANY {
            return one_by_one(numbers);
        }
        // Each addition waits for the one before: so four quarters are summed side by side.
        let quarter = numbers.len() / 4;
        let (first, rest) = numbers.split_at(quarter);
        let (second, rest) = rest.split_at(quarter);
        let (third, rest) = rest.split_at(quarter);
        let (fourth, rest) = rest.split_at(quarter);
        let mut sums = [Self::default(); 4];
        for (((a, b), c), d) in first.iter().zip(second).zip(third).zip(fourth) {
            let [of_first, of_second, of_third, of_fourth] = sums;
            sums = [of_first.add(*a), of_second.add(*b), of_third.add(*c), of_fourth.add(*d)];
        }
        let [a, b, c, d] = sums;
        a.plus(b).plus(c).plus(d).plus(one_by_one(rest))
    }

    /// Adds two sums.
    #[inline]
    pub(super) fn plus(self, other: Self) -> Self {
        let both = self.add(other.sum);
        if both.sum.is_infinite() { both } else { Self { lost: both.lost + other.lost, ..both } }
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
