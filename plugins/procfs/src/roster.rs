//! Which processes become instances.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Reads of a small /proc file that a millisecond of CPU time surely allows: at 50 µs each, half of it.
const READS_PER_MS: usize = 10;

/// With a tiny budget a discovery still gets somewhere.
const LEAST_ROOM: usize = 50;

/// A process that may become an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) pid: u32,
    pub(crate) start_ticks: u64,
    pub(crate) comm: String,
    pub(crate) resident_pages: u64,
    /// Its command line matches.
    pub(crate) watched: bool,
}

/// The processes to list.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) processes: Vec<Candidate>,
    /// How many more there were than were allowed.
    pub(crate) left_out: usize,
}

/// What is known of the machine's processes.
///
/// A machine may have more of them than one call's budget allows to look at: then each discovery looks at the next
/// ones in turn and remembers the others, and a new process is found a few discoveries later.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    known: BTreeMap<u32, Candidate>,
    /// The pid at which the next turn begins.
    next: u32,
    /// Pid and start time of those listed last.
    listed: BTreeSet<(u32, u64)>,
}

/// How many processes one call may look at.
pub(crate) fn room(budget_ms: u32, reads_command_lines: bool) -> usize {
    let reads = READS_PER_MS.saturating_mul(usize::try_from(budget_ms).unwrap_or(usize::MAX));
    let reads_each = if reads_command_lines { 2 } else { 1 };
    (reads / reads_each).max(LEAST_ROOM)
}

// === impl Roster ===

impl Roster {
    /// Forgets who is not among `pids` (ascending) and looks at `room` of them, from where the last turn ended.
    pub(crate) fn refresh(&mut self, pids: &[u32], room: usize, mut look: impl FnMut(u32) -> Option<Candidate>) {
        self.known.retain(|pid, _| pids.binary_search(pid).is_ok());
        let (before, from) = pids.split_at(pids.partition_point(|pid| *pid < self.next));
        for pid in from.iter().chain(before).take(room).copied() {
            match look(pid) {
                Some(candidate) => self.known.insert(pid, candidate),
                None => self.known.remove(&pid),
            };
            self.next = pid.saturating_add(1);
        }
    }

    /// The watched ones, oldest first, then those that are largest by resident memory, `most` in all.
    ///
    /// A process is listed when it comes among the `top` largest and stays until it falls out of the 2 × `top`
    /// largest, so that two of like size do not take turns. There may thus be more than `top`.
    pub(crate) fn choose(&mut self, top: usize, most: usize) -> Choice {
        let mut chosen: Vec<&Candidate> = self.known.values().filter(|process| process.watched).collect();
        chosen.sort_by_key(|process| process.key_by_age());
        let mut largest: Vec<&Candidate> = self.known.values().collect();
        largest.sort_by_key(|process| (Reverse(process.resident_pages), process.key_by_age()));
        for (rank, process) in largest.into_iter().take(top.saturating_mul(2)).enumerate() {
            if !process.watched && (rank < top || self.listed.contains(&process.key())) {
                chosen.push(process);
            }
        }
        let left_out = chosen.len().saturating_sub(most);
        chosen.truncate(most);
        let processes: Vec<Candidate> = chosen.into_iter().cloned().collect();
        self.listed = processes.iter().map(Candidate::key).collect();
        Choice { processes, left_out }
    }
}

// === impl Candidate ===

impl Candidate {
    fn key(&self) -> (u32, u64) {
        (self.pid, self.start_ticks)
    }

    fn key_by_age(&self) -> (u64, u32) {
        (self.start_ticks, self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, resident_pages: u64) -> Candidate {
        Candidate { pid, start_ticks: u64::from(pid) * 10, comm: "x".to_owned(), resident_pages, watched: false }
    }

    fn watched(pid: u32) -> Candidate {
        Candidate { watched: true, ..process(pid, 1) }
    }

    fn see(roster: &mut Roster, processes: &[Candidate]) {
        let pids: Vec<u32> = processes.iter().map(|process| process.pid).collect();
        roster.refresh(&pids, usize::MAX, |pid| processes.iter().find(|process| process.pid == pid).cloned());
    }

    fn pids(choice: &Choice) -> Vec<u32> {
        choice.processes.iter().map(|process| process.pid).collect()
    }

    #[test]
    fn the_largest_are_listed_largest_first() {
        let mut roster = Roster::default();
        see(&mut roster, &[process(1, 10), process(2, 30), process(3, 20)]);
        assert_eq!(pids(&roster.choose(2, 64)), [2, 3]);
    }

    #[test]
    fn a_process_stays_listed_until_it_falls_out_of_twice_as_many() {
        let mut roster = Roster::default();
        see(&mut roster, &[process(1, 50), process(2, 40)]);
        assert_eq!(pids(&roster.choose(1, 64)), [1]);
        see(&mut roster, &[process(1, 50), process(2, 60)]);
        assert_eq!(pids(&roster.choose(1, 64)), [2, 1]);
        see(&mut roster, &[process(1, 50), process(2, 60), process(3, 70)]);
        assert_eq!(pids(&roster.choose(1, 64)), [3, 2]);
        // It does not come back by being second: it has to be first again.
        see(&mut roster, &[process(1, 65), process(2, 60), process(3, 70)]);
        assert_eq!(pids(&roster.choose(1, 64)), [3]);
    }

    #[test]
    fn a_new_process_with_an_old_pid_does_not_inherit_its_place() {
        let mut roster = Roster::default();
        see(&mut roster, &[process(1, 50), process(2, 40)]);
        roster.choose(1, 64);
        see(&mut roster, &[Candidate { start_ticks: 999, ..process(1, 50) }, process(2, 60)]);
        assert_eq!(pids(&roster.choose(1, 64)), [2]);
    }

    #[test]
    fn watched_ones_come_first_oldest_first_and_only_once() {
        let mut roster = Roster::default();
        let old = Candidate { start_ticks: 1, ..watched(9) };
        let large = Candidate { resident_pages: 99, ..watched(5) };
        see(&mut roster, &[process(1, 10), large, process(7, 50), old]);
        assert_eq!(pids(&roster.choose(2, 64)), [9, 5, 7]);
    }

    #[test]
    fn beyond_the_bound_processes_are_left_out_and_counted() {
        let mut roster = Roster::default();
        see(&mut roster, &[watched(1), watched(2), watched(3), process(4, 99)]);
        let choice = roster.choose(1, 2);
        assert_eq!((pids(&choice), choice.left_out), (vec![1, 2], 2));
    }

    #[test]
    fn with_more_processes_than_the_budget_allows_all_are_seen_in_turn() {
        let mut roster = Roster::default();
        let all: Vec<u32> = (1..=5).collect();
        let mut looked = Vec::new();
        for _ in 0..3 {
            roster.refresh(&all, 2, |pid| {
                looked.push(pid);
                Some(process(pid, 1))
            });
        }
        assert_eq!(looked, [1, 2, 3, 4, 5, 1]);
        assert_eq!(roster.known.len(), 5);
        roster.refresh(&[2, 4], 0, |_| None);
        assert_eq!(roster.known.keys().collect::<Vec<_>>(), [&2, &4]);
    }

    #[test]
    fn a_process_that_is_no_longer_wanted_is_forgotten() {
        let mut roster = Roster::default();
        see(&mut roster, &[watched(1)]);
        roster.refresh(&[1], 10, |_| None);
        assert!(pids(&roster.choose(1, 64)).is_empty());
    }

    #[test]
    fn the_room_follows_the_budget() {
        assert_eq!(room(100, false), 1000);
        assert_eq!(room(100, true), 500);
        assert_eq!(room(0, true), LEAST_ROOM);
    }
}
