use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most names that are counted separately; further ones count as `other`.
const MOST_NAMES: usize = 256;

/// Longest name, in bytes. Longer names are cut.
const LONGEST_NAME: usize = 48;

/// Stands for a blank name.
const UNKNOWN: &str = "unknown";

const OTHER: &str = "other";

/// Counts by name. After 256 names, further ones count as `other`; a blank name counts as `unknown`. No count is below
/// zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, i64>", into = "BTreeMap<String, i64>")]
pub struct Tally(BTreeMap<String, i64>);

impl Tally {
    /// Changes the count of a name. A name whose count becomes zero is forgotten. A decrease of an unknown name
    /// decreases `other`.
    pub fn add(&mut self, name: &str, change: i64) {
        let name = known(name);
        let named = self.0.len() - usize::from(self.0.contains_key(OTHER));
        let is_new = change > 0 && named < MOST_NAMES;
        let name = if self.0.contains_key(name) || is_new { name } else { OTHER };
        let count = self.0.get(name).copied().unwrap_or(0).saturating_add(change);
        if count > 0 {
            self.0.insert(name.to_owned(), count);
        } else {
            self.0.remove(name);
        }
    }

    /// Returns all names with a count above zero, sorted by name.
    pub fn counts(&self) -> Vec<(String, i64)> {
        self.0.iter().map(|(name, count)| (name.clone(), *count)).collect()
    }

    pub fn sum(&self) -> i64 {
        self.0.values().fold(0, |sum: i64, count| sum.saturating_add(*count))
    }
}

/// Trims a name and cuts it to the longest length.
fn known(name: &str) -> &str {
    let name = name.trim();
    let name = name.get(..name.floor_char_boundary(LONGEST_NAME)).unwrap_or(name).trim_end();
    if name.is_empty() { UNKNOWN } else { name }
}

impl From<BTreeMap<String, i64>> for Tally {
    fn from(saved: BTreeMap<String, i64>) -> Self {
        let mut tally = Self::default();
        saved.iter().for_each(|(name, count)| tally.add(name, *count));
        tally
    }
}

impl From<Tally> for BTreeMap<String, i64> {
    fn from(tally: Tally) -> Self {
        tally.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_257th_name_is_other_and_a_blank_one_unknown() {
        let mut tally = Tally::default();
        (0..300).for_each(|nth| tally.add(&format!("name-{nth:03}"), 1));
        tally.add("name-000", 1);
        let counts: BTreeMap<_, _> = tally.counts().into_iter().collect();
        assert_eq!((counts.len(), counts["other"], counts["name-000"]), (257, 44, 2));
        let mut tally = Tally::default();
        tally.add("  ", 3);
        assert_eq!(tally.counts(), [("unknown".to_owned(), 3)]);
    }

    #[test]
    fn there_are_never_fewer_than_none() {
        let mut tally = Tally::default();
        tally.add("a", 2);
        tally.add("a", -5);
        tally.add("b", -1);
        assert_eq!((tally.counts(), tally.sum()), (vec![], 0));
        tally.add("a", 1);
        assert_eq!(tally.sum(), 1, "what was missed is not owed");
    }

    proptest! {
        #[test]
        fn of_what_came_and_went_nothing_is_left(order in Just((0..300_u32).collect::<Vec<_>>()).prop_shuffle()) {
            let mut tally = Tally::default();
            (0..300).for_each(|nth| tally.add(&format!("name-{nth}"), 1));
            order.iter().for_each(|nth| tally.add(&format!("name-{nth}"), -1));
            prop_assert_eq!(tally.sum(), 0);
        }

        #[test]
        fn nothing_makes_it_panic_or_grow(changes in prop::collection::vec((".{0,200}", any::<i64>()), 0..600)) {
            let mut tally = Tally::default();
            for (name, change) in &changes {
                tally.add(name, *change);
            }
            prop_assert!(tally.0.len() <= MOST_NAMES + 1);
            prop_assert!(tally.counts().iter().all(|(name, count)| *count > 0 && name.len() <= LONGEST_NAME));
            let saved = serde_json::to_string(&tally).unwrap();
            prop_assert_eq!(serde_json::from_str::<Tally>(&saved).unwrap(), tally);
        }
    }
}
