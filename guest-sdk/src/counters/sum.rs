use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;

/// A running total over parts that come and go: the CPUs, interfaces or disks of a machine, the processes of a program.
///
/// A plain sum is not a counter: it falls when a part goes, and jumps when a part comes that has counted for days. This
/// total grows by what each part counted between two updates in which the part was present and did not fall. A part
/// that comes, goes or falls adds nothing in that update. Only in the very first update do the parts' whole values
/// count, so that the total starts at the plain sum. The total never falls.
///
/// Saved with [`state`](crate::state), the total continues in a new instance of the plugin (after a trap, a reload or a
/// restart of the host). Save it after every update: then everything that a part counted until the last update is in
/// the total, and stays there if the part goes while the plugin does not run. Also save something that distinguishes
/// one boot of the machine from the next, such as `/proc/sys/kernel/random/boot_id`, and begin with a new sum when it
/// changes.
///
/// ```
/// use dropsonde_guest::counters::SumOfCounters;
///
/// let mut received = SumOfCounters::default();
/// assert_eq!(received.update([("eth0", 1000_u64), ("wlan0", 50)]), 1050);
/// assert_eq!(received.update([("eth0", 1100)]), 1150, "wlan0 went: the total does not fall");
/// assert_eq!(received.update([("eth0", 1100), ("wlan0", 70)]), 1150, "it is back: the total does not jump");
/// assert_eq!(received.update([("eth0", 1100), ("wlan0", 90)]), 1170);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound(
    serialize = "K: Serialize, V: Serialize",
    deserialize = "K: Deserialize<'de> + Ord, V: Deserialize<'de> + CounterValue"
))]
pub struct SumOfCounters<K, V = u64> {
    /// None before the first update.
    total: Option<V>,
    /// The parts' values at the last update.
    #[serde(serialize_with = "as_pairs", deserialize_with = "from_pairs")]
    parts: BTreeMap<K, V>,
}

/// The number type of a counter: `u64`, or `f64` for seconds and the like.
pub trait CounterValue: Copy + PartialOrd + Default {
    /// Returns whether a counter can have this value: a finite number not below zero.
    fn is_possible(self) -> bool;

    /// Returns the increase since `before`; `None` if the value fell.
    fn since(self, before: Self) -> Option<Self>;

    /// Returns the sum, at most the largest possible value.
    fn plus(self, other: Self) -> Self;
}

// === impl SumOfCounters ===

impl<K, V> Default for SumOfCounters<K, V> {
    fn default() -> Self {
        Self { total: None, parts: BTreeMap::new() }
    }
}

impl<K: Ord, V: CounterValue> SumOfCounters<K, V> {
    /// Takes the current values of the parts and returns the total. A part with an impossible value (below zero, not a
    /// number) counts as absent.
    pub fn update(&mut self, parts: impl IntoIterator<Item = (K, V)>) -> V {
        let parts: BTreeMap<K, V> = parts.into_iter().filter(|(_, value)| value.is_possible()).collect();
        let total = match self.total {
            None => parts.values().fold(V::default(), |sum, value| sum.plus(*value)),
            Some(total) => {
                let grown = parts.iter().filter_map(|(key, value)| value.since(*self.parts.get(key)?));
                grown.fold(total, V::plus)
            }
        };
        self.total = Some(total);
        self.parts = parts;
        total
    }

    /// Sets the value that a part had at the last update. Only what the part counts beyond it counts in the next
    /// update.
    ///
    /// For a part that is known to have begun since then, use 0: all of its value counts. To leave out an interval that
    /// cannot be true, use the part's current value.
    pub fn begin_at(&mut self, key: K, value: V) {
        if value.is_possible() {
            self.parts.insert(key, value);
        }
    }

    /// Forgets the parts and keeps the total, so the next update adds nothing. Use it if there are too many parts to
    /// save.
    pub fn forget_parts(&mut self) {
        self.parts.clear();
    }

    /// Returns the total of the last update, if there was one.
    pub fn total(&self) -> Option<V> {
        self.total
    }

    /// Returns a part's value in the last update, if it was present.
    pub fn part(&self, key: &K) -> Option<V> {
        self.parts.get(key).copied()
    }

    /// Returns the parts of the last update.
    pub fn parts(&self) -> impl Iterator<Item = (&K, V)> {
        self.parts.iter().map(|(key, value)| (key, *value))
    }
}

/// Serializes the parts as pairs, because the keys of a JSON object must be text.
fn as_pairs<K: Serialize, V: Serialize, S: Serializer>(
    parts: &BTreeMap<K, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(parts)
}

fn from_pairs<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de> + CounterValue,
    D: Deserializer<'de>,
{
    let pairs = Vec::<(K, V)>::deserialize(deserializer)?;
    Ok(pairs.into_iter().filter(|(_, value)| value.is_possible()).collect())
}

// === impl CounterValue ===

impl CounterValue for u64 {
    fn is_possible(self) -> bool {
        true
    }

    fn since(self, before: Self) -> Option<Self> {
        self.checked_sub(before)
    }

    fn plus(self, other: Self) -> Self {
        self.saturating_add(other)
    }
}

impl CounterValue for f64 {
    fn is_possible(self) -> bool {
        self.is_finite() && self >= 0.0
    }

    fn since(self, before: Self) -> Option<Self> {
        (self >= before).then_some(self - before)
    }

    fn plus(self, other: Self) -> Self {
        (self + other).min(Self::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_total_is_the_plain_sum() {
        let mut sum = SumOfCounters::default();
        assert_eq!(sum.total(), None);
        assert_eq!(sum.update([("a", 3_u64), ("b", 4)]), 7);
        assert_eq!((sum.total(), sum.part(&"b"), sum.part(&"c")), (Some(7), Some(4), None));
    }

    #[test]
    fn a_part_that_falls_adds_nothing_until_it_grows_again() {
        let mut sum = SumOfCounters::default();
        sum.update([("steal", 1_000_000_u64), ("user", 10)]);
        assert_eq!(sum.update([("steal", 999_000), ("user", 13)]), 1_000_013);
        assert_eq!(sum.update([("steal", 999_005), ("user", 13)]), 1_000_018);
    }

    #[test]
    fn a_part_that_began_since_the_last_update_counts_whole_when_that_is_said() {
        let mut sum = SumOfCounters::default();
        sum.update([(1, 100_u64)]);
        sum.begin_at(2, 0);
        assert_eq!(sum.update([(1, 100), (2, 5), (3, 7)]), 105, "of the third nobody knows since when it counts");
    }

    #[test]
    fn an_interval_that_cannot_be_true_is_left_out_and_the_next_one_counts() {
        let mut sum = SumOfCounters::default();
        sum.update([("a", 1_u64)]);
        sum.begin_at("a", u64::MAX - 10);
        assert_eq!(sum.update([("a", u64::MAX - 10)]), 1);
        assert_eq!(sum.update([("a", u64::MAX)]), 11);
    }

    #[test]
    fn without_its_parts_it_keeps_the_total_and_goes_on_from_what_is_there() {
        let mut sum = SumOfCounters::default();
        sum.update([("a", 5_u64)]);
        sum.forget_parts();
        assert_eq!(sum.update([("a", 9)]), 5);
        assert_eq!(sum.update([("a", 10)]), 6);
    }

    #[test]
    fn counters_at_their_end_do_not_overflow() {
        let mut sum = SumOfCounters::default();
        assert_eq!(sum.update([(1, u64::MAX), (2, u64::MAX)]), u64::MAX);
        let mut sum = SumOfCounters::default();
        assert_eq!(sum.update([(1, f64::MAX), (2, f64::MAX)]), f64::MAX);
    }

    #[test]
    fn what_is_no_count_is_a_part_that_is_not_there() {
        let mut sum = SumOfCounters::default();
        assert_eq!(sum.update([(1, 1.5), (2, f64::NAN), (3, -4.0), (4, f64::INFINITY)]), 1.5);
        assert_eq!(sum.update([(1, f64::NAN)]), 1.5);
        assert_eq!(sum.update([(1, 9.0)]), 1.5, "it is back");
    }

    /// Machines whose parts come, go, count, fall and are replaced.
    fn machines() -> impl Strategy<Value = Vec<BTreeMap<u8, u64>>> {
        let values = prop_oneof![8 => 0..1000_u64, 1 => any::<u64>()];
        prop::collection::vec(prop::collection::btree_map(0..6_u8, values, 0..6), 1..30)
    }

    /// Returns the right total: the first sum, and what each pair of neighbours adds.
    fn expected(machines: &[BTreeMap<u8, u64>]) -> u64 {
        let first = machines[0].values().fold(0, |sum: u64, value| sum.saturating_add(*value));
        let grown = machines.windows(2).flat_map(|pair| {
            pair[1].iter().filter_map(|(key, now)| pair[0].get(key).and_then(|before| now.checked_sub(*before)))
        });
        grown.fold(first, u64::saturating_add)
    }

    proptest! {
        #[test]
        fn it_is_the_growth_of_those_there_both_times_and_never_falls(machines in machines()) {
            let mut sum = SumOfCounters::default();
            for (nth, machine) in machines.iter().enumerate() {
                let before = sum.total().unwrap_or(0);
                let total = sum.update(machine.clone());
                prop_assert!(total >= before);
                prop_assert_eq!(total, expected(&machines[..=nth]));
            }
        }

        #[test]
        fn parts_that_stay_and_count_make_the_plain_sum(
            start in prop::collection::vec(0..1000_u64, 1..6),
            steps in prop::collection::vec(prop::collection::vec(0..50_u64, 6), 0..20),
        ) {
            let mut values = start;
            let mut sum = SumOfCounters::default();
            sum.update(values.iter().copied().enumerate());
            for step in &steps {
                values.iter_mut().zip(step).for_each(|(value, step)| *value += step);
                prop_assert_eq!(sum.update(values.iter().copied().enumerate()), values.iter().sum::<u64>());
            }
        }

        #[test]
        fn a_new_instance_that_loads_what_was_saved_gives_the_same(machines in machines(), cut in any::<prop::sample::Index>()) {
            let cut = cut.index(machines.len());
            let (before, after) = machines.split_at(cut);
            let mut sum = SumOfCounters::default();
            before.iter().for_each(|machine| { sum.update(machine.clone()); });
            let saved = serde_json::to_vec(&sum).unwrap();
            let mut other: SumOfCounters<u8> = serde_json::from_slice(&saved).unwrap();
            prop_assert_eq!(&other, &sum);
            for machine in after {
                prop_assert_eq!(other.update(machine.clone()), sum.update(machine.clone()));
            }
        }

        #[test]
        fn no_numbers_make_it_fall(updates in prop::collection::vec(prop::collection::vec((0..4_u8, any::<f64>()), 0..6), 1..20)) {
            let mut sum = SumOfCounters::default();
            let mut before = 0.0;
            for parts in updates {
                let total = sum.update(parts);
                prop_assert!(total >= before && total.is_finite());
                before = total;
            }
        }
    }
}
