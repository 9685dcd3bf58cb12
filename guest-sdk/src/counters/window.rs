use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counts events in a sliding window. The window has a count for each step of time, and forgets the counts of steps
/// that it has passed.
///
/// The window consists of `steps` steps and ends with the current one. It takes memory only for steps in which
/// something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Saved", into = "Saved")]
pub struct Window {
    step_ms: u64,
    steps: u64,
    /// Counts by step; steps are numbered from 1970.
    counts: BTreeMap<u64, u64>,
}

/// A saved window. Someone may have changed it, so it is not trusted.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Saved {
    step_ms: u64,
    steps: u64,
    counts: Vec<(u64, u64)>,
}

/// Most steps of a window: more than any window here needs, and few enough for memory.
const MOST_STEPS: u64 = 10_000;

impl Window {
    /// Returns an empty window of `steps` steps of `step_ms` milliseconds; at least one step of one millisecond.
    pub fn new(step_ms: u64, steps: u64) -> Self {
        Self { step_ms: step_ms.max(1), steps: steps.clamp(1, MOST_STEPS), counts: BTreeMap::new() }
    }

    /// Counts `count` events at `at_ms`. A late event counts in its own step. An event before the window does not
    /// count. An event in the future counts as happening now.
    pub fn add(&mut self, count: u64, at_ms: u64, now_ms: u64) {
        let first = self.first(now_ms);
        if self.counts.first_key_value().is_some_and(|(oldest, _)| *oldest < first) {
            self.counts = self.counts.split_off(&first);
        }
        let step = at_ms.min(now_ms) / self.step_ms;
        if step >= first && count > 0 {
            let counted = self.counts.entry(step).or_default();
            *counted = counted.saturating_add(count);
            // After the clock went back, there are steps in the future.
            while self.counts.len() as u64 > self.steps {
                self.counts.pop_last();
            }
        }
    }

    /// Returns the number of events in the window that ends now.
    pub fn sum(&self, now_ms: u64) -> u64 {
        let within = self.counts.range(self.first(now_ms)..=now_ms / self.step_ms);
        within.fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
    }

    fn first(&self, now_ms: u64) -> u64 {
        (now_ms / self.step_ms).saturating_add(1).saturating_sub(self.steps)
    }
}

impl From<Saved> for Window {
    fn from(Saved { step_ms, steps, counts }: Saved) -> Self {
        let window = Self::new(step_ms, steps);
        let most = usize::try_from(window.steps).unwrap_or(usize::MAX);
        Self { counts: counts.into_iter().take(most).collect(), ..window }
    }
}

impl From<Window> for Saved {
    fn from(Window { step_ms, steps, counts }: Window) -> Self {
        Self { step_ms, steps, counts: counts.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: u64 = 1_700_000_000_000;

    #[test]
    fn what_the_window_has_passed_is_no_longer_in_it() {
        let mut window = Window::new(1000, 60);
        window.add(5, START, START);
        assert_eq!(window.sum(START + 59_000), 5);
        assert_eq!(window.sum(START + 60_000), 0);
    }

    #[test]
    fn a_late_event_lands_in_its_own_second() {
        let mut window = Window::new(1000, 60);
        window.add(1, START - 50_000, START);
        assert_eq!((window.sum(START), window.sum(START + 9_000), window.sum(START + 10_000)), (1, 1, 0));
        window.add(1, START - 60_000, START);
        assert_eq!(window.sum(START), 1, "too late for the window");
    }

    #[test]
    fn an_event_of_the_future_happens_now() {
        let mut window = Window::new(1000, 60);
        window.add(1, u64::MAX, START);
        assert_eq!((window.sum(START), window.sum(START + 60_000)), (1, 0));
    }

    proptest! {
        /// Compares the window with a list of all events, for any order of events and any clock.
        #[test]
        fn it_counts_what_a_list_of_all_events_would(
            events in prop::collection::vec((0_u64..200_000, 0_u64..3_000, 1_u64..5), 0..200),
            (step_ms, steps) in (1_u64..2_000, 1_u64..100),
        ) {
            let (mut window, mut all, mut now) = (Window::new(step_ms, steps), Vec::new(), 100_000_u64);
            for (at, later, count) in events {
                now += later;
                window.add(count, at, now);
                all.push((at.min(now), count));
                let first = (now / step_ms + 1).saturating_sub(steps);
                let expected: u64 = all.iter().filter(|(at, _)| at / step_ms >= first).map(|(_, count)| count).sum();
                // An event that was too late when it came stays out: it was before the window then, and so it is now.
                prop_assert_eq!(window.sum(now), expected);
                let saved = serde_json::to_string(&window).unwrap();
                prop_assert_eq!(&serde_json::from_str::<Window>(&saved).unwrap(), &window);
            }
        }

        #[test]
        fn nothing_makes_it_panic_or_grow(
            events in prop::collection::vec((any::<u64>(), any::<u64>(), any::<u64>()), 0..200),
            (step_ms, steps) in (any::<u64>(), any::<u64>()),
        ) {
            let mut window = Window::new(step_ms, steps);
            for (count, at, now) in events {
                window.add(count, at, now);
                window.sum(at);
                prop_assert!(window.counts.len() as u64 <= window.steps);
            }
        }
    }
}
