use std::ops::Range;

/// A window of time, or parts of it that all have the same length and distance. Whoever reads samples may get more than
/// those in the parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Windows {
    whole: Range<i64>,
    /// The start of the first part, in milliseconds.
    first_ms: i64,
    length_ms: i64,
    step_ms: i64,
}

impl Windows {
    /// Returns a single window.
    pub fn one(window: Range<i64>) -> Self {
        Self { first_ms: window.start, whole: window, length_ms: i64::MAX, step_ms: i64::MAX }
    }

    /// Returns parts of a window: the first begins with the window, and each other one `step_ms` after the one before.
    pub fn every(step_ms: i64, length_ms: i64, window: Range<i64>) -> Self {
        if length_ms >= step_ms || length_ms <= 0 {
            return Self::one(window);
        }
        Self { first_ms: window.start, whole: window, length_ms, step_ms }
    }

    /// Returns the window that all parts are in.
    pub fn whole(&self) -> &Range<i64> {
        &self.whole
    }

    /// Returns the parts of these windows that are in `window`.
    pub(crate) fn within(&self, window: &Range<i64>) -> Self {
        let whole = self.whole.start.max(window.start)..self.whole.end.min(window.end);
        Self { whole, ..self.clone() }
    }

    pub(crate) fn contains(&self, at_ms: i64) -> bool {
        self.whole.contains(&at_ms) && self.since_start(at_ms) < self.length_ms
    }

    /// Returns the shortest window that has all wanted times from `first_ms` to `last_ms`. It is empty if there are none.
    pub(crate) fn around(&self, first_ms: i64, last_ms: i64) -> Range<i64> {
        let mut start = self.whole.start.max(first_ms);
        let mut last = self.whole.end.saturating_sub(1).min(last_ms);
        let after = self.since_start(start);
        if after >= self.length_ms {
            start = start.saturating_add(self.step_ms - after);
        }
        let beyond = self.since_start(last) - (self.length_ms - 1);
        if beyond > 0 {
            last = last.saturating_sub(beyond);
        }
        start..last.saturating_add(1)
    }

    /// Returns about how many of some rows are wanted.
    pub(crate) fn share_of(&self, rows: usize) -> usize {
        (rows as f64 * (self.length_ms as f64 / self.step_ms as f64)).ceil() as usize
    }

    /// Returns how long before a time a part began.
    fn since_start(&self, at_ms: i64) -> i64 {
        at_ms.saturating_sub(self.first_ms).rem_euclid(self.step_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_window_wants_all_its_times() {
        let all = Windows::one(i64::MIN..i64::MAX);
        assert!(all.contains(i64::MIN) && all.contains(0) && all.contains(i64::MAX - 1));
        assert_eq!(all.around(-5, 7), -5..8);
        assert_eq!(Windows::one(10..20).around(0, 100), 10..20);
        assert!(Windows::one(10..20).around(20, 30).is_empty());
    }

    proptest! {
        #[test]
        fn the_window_around_times_is_the_shortest_that_has_those_wanted(
            start in -100_i64..100, length in 0_i64..50, step in 1_i64..50, span in 0_i64..300,
            first in -150_i64..300, more in 0_i64..100,
        ) {
            let windows = Windows::every(step, length, start..start + span);
            let is_wanted = |at_ms: &i64| windows.contains(*at_ms);
            let last = first + more;
            let around = windows.around(first, last);
            let wanted: Vec<i64> = (first..=last).filter(is_wanted).collect();
            match (wanted.first(), wanted.last()) {
                (Some(first), Some(last)) => prop_assert_eq!(around, *first..*last + 1),
                _ => prop_assert!(around.is_empty(), "{:?}", around),
            }
            if length > 0 && length < step {
                for at_ms in start..start + span {
                    prop_assert_eq!(windows.contains(at_ms), (at_ms - start) % step < length);
                }
            }
        }
    }
}
