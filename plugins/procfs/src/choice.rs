//! Chooses the processes or programs that become instances.

use std::cmp::Reverse;
use std::collections::BTreeSet;

/// A process or program that may become an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) id: String,
    /// The name of the program, or of the watched pattern.
    pub(crate) name: String,
    /// Resident memory, in pages.
    pub(crate) size: u64,
    /// Start time and pid of the oldest process.
    pub(crate) age: (u64, u32),
    pub(crate) is_watched: bool,
}

/// The candidates to list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) chosen: Vec<Candidate>,
    /// The number of candidates beyond the limit.
    pub(crate) left_out: usize,
}

/// Chooses candidates, and remembers its last choice.
#[derive(Debug, Default)]
pub(crate) struct Chooser {
    listed: BTreeSet<String>,
}

// === impl Chooser ===

impl Chooser {
    /// Chooses the watched candidates, oldest first, then the `top` largest ones, largest first; `most` in all.
    ///
    /// A candidate that was one of the largest keeps its place until another one is larger by a quarter, so that two of
    /// similar size do not alternate.
    pub(crate) fn choose(&mut self, candidates: Vec<Candidate>, top: usize, most: usize) -> Choice {
        let mut largest: Vec<&Candidate> = candidates.iter().collect();
        largest.sort_by_key(|each| {
            let is_listed = self.listed.contains(&each.id);
            let size = if is_listed { each.size.saturating_add(each.size / 4) } else { each.size };
            (Reverse(size), each.age)
        });
        largest.truncate(top);
        let by_size: BTreeSet<String> = largest.iter().map(|each| each.id.clone()).collect();
        largest.sort_by_key(|each| (Reverse(each.size), each.age));
        let mut chosen: Vec<&Candidate> = candidates.iter().filter(|each| each.is_watched).collect();
        chosen.sort_by_key(|each| each.age);
        chosen.extend(largest.into_iter().filter(|each| !each.is_watched));
        let left_out = chosen.len().saturating_sub(most);
        chosen.truncate(most);
        let chosen = chosen.into_iter().cloned().collect();
        self.listed = by_size;
        Choice { chosen, left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: &str, size: u64) -> Candidate {
        Candidate { id: id.to_owned(), name: id.to_owned(), size, age: (size, 1), is_watched: false }
    }

    fn watched(id: &str, size: u64, started: u64) -> Candidate {
        Candidate { age: (started, 1), is_watched: true, ..of(id, size) }
    }

    fn ids(choice: Choice) -> Vec<String> {
        choice.chosen.into_iter().map(|each| each.id).collect()
    }

    #[test]
    fn the_largest_are_listed_largest_first() {
        let mut chooser = Chooser::default();
        let candidates = vec![of("a", 10), of("b", 30), of("c", 20)];
        assert_eq!(ids(chooser.choose(candidates, 2, 64)), ["b", "c"]);
    }

    #[test]
    fn the_five_largest_are_five_and_one_stays_until_another_is_larger_by_a_quarter() {
        let mut chooser = Chooser::default();
        assert_eq!(ids(chooser.choose(vec![of("a", 40), of("b", 39)], 1, 64)), ["a"]);
        assert_eq!(ids(chooser.choose(vec![of("a", 40), of("b", 49)], 1, 64)), ["a"]);
        assert_eq!(ids(chooser.choose(vec![of("a", 40), of("b", 51)], 1, 64)), ["b"]);
        assert_eq!(ids(chooser.choose(vec![of("a", 52), of("b", 51)], 1, 64)), ["b"]);
    }

    #[test]
    fn watched_ones_come_first_oldest_first_and_add_to_the_largest() {
        let mut chooser = Chooser::default();
        let candidates = vec![of("a", 10), watched("w", 99, 5), of("b", 50), watched("v", 1, 3)];
        assert_eq!(ids(chooser.choose(candidates, 2, 64)), ["v", "w", "b"], "one of the two largest is watched");
    }

    #[test]
    fn beyond_the_bound_some_are_left_out_and_counted() {
        let mut chooser = Chooser::default();
        let candidates = vec![watched("u", 1, 1), watched("v", 1, 2), watched("w", 1, 3), of("a", 99)];
        let choice = chooser.choose(candidates, 1, 2);
        assert_eq!(choice.left_out, 2);
        assert_eq!(ids(choice), ["u", "v"]);
    }
}
