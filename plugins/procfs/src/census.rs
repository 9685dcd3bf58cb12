//! The processes of this machine, and the program that each one runs.

use crate::choice::Candidate;
use crate::config::WatchPattern;
use crate::names::program_id;
use crate::process::{self, ProcessId, number};
use dropsonde_guest::{Failure, files};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Reads of a small /proc file per millisecond of CPU time. At 50 µs each, these reads take half of it.
const READS_PER_MS: usize = 10;

/// Least reads per call, so that a call with a tiny budget makes progress.
const LEAST_READS: usize = 50;

/// Names of /proc to list per millisecond of CPU time. At 2.5 µs each, they take half of it.
const NAMES_PER_MS: usize = 200;

/// Most names in one page of /proc.
const PAGE: u32 = 4096;

/// Most programs that are remembered as narrowed: far more than there are watched patterns.
const MOST_NARROWED: usize = 1024;

/// The number of files and names that one call may still read and list.
#[derive(Debug)]
pub(crate) struct Allowance {
    pub(crate) reads: usize,
    names: usize,
}

/// The properties of a process when it was examined last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) start_ticks: u64,
    pub(crate) comm: String,
    /// The id of the process' program.
    pub(crate) program: String,
    pub(crate) resident_pages: u64,
    /// For each watched pattern, whether the command line matches.
    pub(crate) matches: Vec<bool>,
}

/// The known processes of the machine.
///
/// A machine may have more processes than one call's budget allows to list or to examine. Then each call continues
/// where the last one stopped, and a new process is found some calls later.
#[derive(Debug, Default)]
pub(crate) struct Census {
    /// Processes by pid. `None`: the process has no memory, because it is a kernel thread or has ended.
    known: BTreeMap<u32, Option<Process>>,
    /// Processes of the last complete listing that are not examined yet. `None` before the first complete listing.
    new: Option<VecDeque<u32>>,
    /// The part of the current listing that is done, and the position at which it continues.
    listing: Vec<u32>,
    from: u64,
    /// Calls that the current listing took so far, or that the last one took.
    calls: usize,
    /// The pid at which the next re-examination begins.
    turn: u32,
    /// Programs of which a watched pattern has chosen some processes. Their other processes do not belong to the
    /// instance.
    narrowed: BTreeSet<String>,
}

// === impl Allowance ===

impl Allowance {
    pub(crate) fn of(budget_ms: u32) -> Self {
        let budget = usize::try_from(budget_ms).unwrap_or(usize::MAX);
        let reads = READS_PER_MS.saturating_mul(budget).max(LEAST_READS);
        Self { reads, names: NAMES_PER_MS.saturating_mul(budget).max(PAGE as usize) }
    }

    /// Splits off half of the remaining reads.
    pub(crate) fn half(&mut self) -> Self {
        let half = self.reads / 2;
        self.reads -= half;
        Self { reads: half, names: 0 }
    }

    /// Adds the unused reads of a half.
    pub(crate) fn give_back(&mut self, rest: &Self) {
        self.reads += rest.reads;
    }

    /// Takes `reads` reads. Returns false if fewer are left.
    pub(crate) fn take(&mut self, reads: usize) -> bool {
        let left = self.reads.checked_sub(reads);
        self.reads = left.unwrap_or(self.reads);
        left.is_some()
    }
}

// === impl Census ===

impl Census {
    /// Lists processes, as far as the allowance permits. Returns their number if that completed a listing.
    pub(crate) fn list(&mut self, allowance: &mut Allowance) -> Result<Option<usize>, Failure> {
        self.calls = if self.from == 0 { 1 } else { self.calls + 1 };
        while allowance.names > 0 {
            let page = files::entries_from(process::PROC, self.from, PAGE)?;
            allowance.names = allowance.names.saturating_sub(page.entries.len().max(1));
            self.listing.extend(page.entries.iter().filter_map(|entry| number::<u32>(&entry.name)));
            match page.next {
                Some(next) => self.from = next,
                None => {
                    let there = std::mem::take(&mut self.listing);
                    self.from = 0;
                    return Ok(Some(self.are_there(there)));
                }
            }
        }
        Ok(None)
    }

    /// Takes a complete listing, and forgets all other processes. Both lists are sorted, so each is passed once: there
    /// may be a hundred thousand processes.
    fn are_there(&mut self, mut there: Vec<u32>) -> usize {
        there.sort_unstable();
        there.dedup();
        let mut rest = there.iter().copied().peekable();
        self.known.retain(|pid, _| {
            while rest.next_if(|other| other < pid).is_some() {}
            rest.next_if_eq(pid).is_some()
        });
        let mut known = self.known.keys().copied().peekable();
        let is_new = |pid: &u32| {
            while known.next_if(|other| other < pid).is_some() {}
            known.next_if_eq(pid).is_none()
        };
        let count = there.len();
        self.new = Some(there.into_iter().filter(is_new).collect());
        count
    }

    /// Examines new processes, as far as the allowance permits; each takes `reads` reads.
    pub(crate) fn look_at_new(
        &mut self,
        allowance: &mut Allowance,
        reads: usize,
        mut look: impl FnMut(u32) -> Option<Process>,
    ) {
        let Some(new) = &mut self.new else { return };
        while !new.is_empty() && allowance.take(reads) {
            let Some(pid) = new.pop_front() else { return };
            self.known.insert(pid, look(pid));
        }
    }

    /// Examines known processes again, starting where the last call ended: processes grow, and become other programs.
    pub(crate) fn look_again(
        &mut self,
        allowance: &mut Allowance,
        reads: usize,
        mut look: impl FnMut(u32) -> Option<Process>,
    ) {
        let in_turn = self.known.range(self.turn..).chain(self.known.range(..self.turn));
        let allowed = allowance.reads.checked_div(reads).unwrap_or(0);
        let pids: Vec<u32> = in_turn.map(|(pid, _)| *pid).take(allowed).collect();
        for pid in pids {
            allowance.take(reads);
            self.known.insert(pid, look(pid));
            self.turn = pid.saturating_add(1);
        }
    }

    /// Returns the number of processes that are not examined yet; `None` before the first complete listing.
    pub(crate) fn unknown(&self) -> Option<usize> {
        self.new.as_ref().map(VecDeque::len)
    }

    /// Returns the processes of an instance, sorted by pid.
    pub(crate) fn members(&mut self, id: &str, watch: &[WatchPattern]) -> Vec<ProcessId> {
        if let Some(nth) = watch.iter().position(|watch| watch.name.as_deref() == Some(id)) {
            return self.chosen(|process| process.matches.get(nth) == Some(&true));
        }
        let (mut watched, mut others) = (Vec::new(), Vec::new());
        for (member, process) in self.with_memory().filter(|(_, process)| process.program == id) {
            let group = if process.is_watched(watch) { &mut watched } else { &mut others };
            group.push(member);
        }
        if !watched.is_empty() {
            self.narrow(id);
        }
        if !watched.is_empty() || self.narrowed.contains(id) { watched } else { others }
    }

    /// Updates the name of a process. Returns whether the process still runs the same program.
    pub(crate) fn is_still(&mut self, pid: u32, comm: &str) -> bool {
        let Some(Some(process)) = self.known.get_mut(&pid) else { return false };
        if process.comm == comm {
            return true;
        }
        let program = program_id(comm);
        let is_still = process.program == program;
        (process.comm, process.program) = (comm.to_owned(), program);
        is_still
    }

    /// Returns whether a listing takes more than one call.
    pub(crate) fn takes_several_calls(&self) -> bool {
        self.calls > 1
    }

    /// Returns each process as a candidate of its own.
    pub(crate) fn processes(&self, watch: &[WatchPattern]) -> Vec<Candidate> {
        let candidate = |(id, process): (ProcessId, &Process)| Candidate {
            id: id.to_string_for(&process.comm),
            name: process.comm.clone(),
            size: process.resident_pages,
            age: (id.start_ticks, id.pid),
            is_watched: process.is_watched(watch) || process.is_named(watch),
        };
        self.with_memory().map(candidate).collect()
    }

    /// Returns the processes grouped by program, and by watched pattern if that has a name.
    pub(crate) fn programs(&mut self, watch: &[WatchPattern]) -> Vec<Candidate> {
        let mut groups: BTreeMap<(&str, bool), Candidate> = BTreeMap::new();
        for (id, process) in self.with_memory() {
            let names = watch.iter().zip(&process.matches).filter(|(_, matches)| **matches);
            let names = names.filter_map(|(watch, _)| watch.name.as_deref()).map(|name| (name, name, true));
            let program = (process.program.as_str(), process.comm.as_str(), process.is_watched(watch));
            for (group, name, is_watched) in names.chain([program]) {
                let age = (id.start_ticks, id.pid);
                let candidate = groups.entry((group, is_watched)).or_insert_with(|| Candidate {
                    id: group.to_owned(),
                    name: name.to_owned(),
                    size: 0,
                    age,
                    is_watched,
                });
                candidate.size = candidate.size.saturating_add(process.resident_pages);
                candidate.age = candidate.age.min(age);
            }
        }
        let watched: Vec<String> =
            groups.keys().filter(|(_, is_watched)| *is_watched).map(|(id, _)| (*id).to_owned()).collect();
        let candidates: Vec<Candidate> = groups.into_values().collect();
        watched.iter().for_each(|id| self.narrow(id));
        let is_named = |id: &str| watch.iter().any(|watch| watch.name.as_deref() == Some(id));
        let is_instance = |candidate: &Candidate| {
            let id = candidate.id.as_str();
            candidate.is_watched || !(self.narrowed.contains(id) || is_named(id))
        };
        candidates.into_iter().filter(is_instance).collect()
    }

    fn narrow(&mut self, id: &str) {
        if self.narrowed.len() < MOST_NARROWED && !self.narrowed.contains(id) {
            self.narrowed.insert(id.to_owned());
        }
    }

    fn chosen(&self, is_chosen: impl Fn(&Process) -> bool) -> Vec<ProcessId> {
        self.with_memory().filter(|(_, process)| is_chosen(process)).map(|(id, _)| id).collect()
    }

    fn with_memory(&self) -> impl Iterator<Item = (ProcessId, &Process)> {
        self.known.iter().filter_map(|(pid, process)| {
            let process = process.as_ref()?;
            Some((ProcessId { pid: *pid, start_ticks: process.start_ticks }, process))
        })
    }
}

// === impl Process ===

impl Process {
    /// Returns whether a pattern without a name matches.
    fn is_watched(&self, watch: &[WatchPattern]) -> bool {
        watch.iter().zip(&self.matches).any(|(watch, matches)| *matches && watch.name.is_none())
    }

    /// Returns whether a pattern with a name matches.
    fn is_named(&self, watch: &[WatchPattern]) -> bool {
        watch.iter().zip(&self.matches).any(|(watch, matches)| *matches && watch.name.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex_lite::Regex;

    fn process(comm: &str, resident_pages: u64, matches: &[bool]) -> Process {
        let (comm, program) = (comm.to_owned(), program_id(comm));
        Process { start_ticks: 7, comm, program, resident_pages, matches: matches.to_vec() }
    }

    fn watch(names: &[Option<&str>]) -> Vec<WatchPattern> {
        let watch =
            |name: &Option<&str>| WatchPattern { name: name.map(str::to_owned), pattern: Regex::new("x").unwrap() };
        names.iter().map(watch).collect()
    }

    fn census(processes: &[(u32, Process)]) -> Census {
        let mut census = Census::default();
        see(&mut census, processes);
        census
    }

    fn see(census: &mut Census, processes: &[(u32, Process)]) {
        census.are_there(processes.iter().map(|(pid, _)| *pid).collect());
        let look = |pid| processes.iter().find(|(other, _)| *other == pid).map(|(_, process)| process.clone());
        census.look_at_new(&mut Allowance::of(1000), 1, look);
    }

    fn pids(census: &mut Census, id: &str, watch: &[WatchPattern]) -> Vec<u32> {
        census.members(id, watch).into_iter().map(|id| id.pid).collect()
    }

    /// Returns the id and size of each candidate, and whether it is watched.
    fn shown(candidates: &[Candidate]) -> Vec<(&str, u64, bool)> {
        candidates.iter().map(|each| (each.id.as_str(), each.size, each.is_watched)).collect()
    }

    #[test]
    fn processes_of_one_name_are_one_program() {
        let mut census =
            census(&[(1, process("nginx", 10, &[])), (2, process("nginx", 5, &[])), (3, process("sh", 1, &[]))]);
        let programs = census.programs(&[]);
        assert_eq!(shown(&programs), [("nginx", 15, false), ("sh", 1, false)]);
        assert_eq!(programs[0].name, "nginx");
        assert_eq!(pids(&mut census, "nginx", &[]), [1, 2]);
        assert!(pids(&mut census, "apache", &[]).is_empty());
    }

    #[test]
    fn a_watched_pattern_chooses_the_processes_of_its_program_that_match() {
        let watch = watch(&[None]);
        let mut census = census(&[(1, process("python", 10, &[true])), (2, process("python", 99, &[false]))]);
        assert_eq!(shown(&census.programs(&watch)), [("python", 10, true)]);
        assert_eq!(pids(&mut census, "python", &watch), [1]);
        see(&mut census, &[(2, process("python", 99, &[false]))]);
        assert!(pids(&mut census, "python", &watch).is_empty(), "an id does not come to mean other processes");
        assert_eq!(shown(&census.programs(&watch)), []);
    }

    #[test]
    fn a_pattern_with_a_name_is_an_instance_of_its_own() {
        let watch = watch(&[Some("web"), Some("all")]);
        let processes = [(1, process("nginx", 10, &[true, true])), (2, process("php", 5, &[true, false]))];
        let mut census = census(&processes);
        let expected = [("all", 10, true), ("nginx", 10, false), ("php", 5, false), ("web", 15, true)];
        assert_eq!(shown(&census.programs(&watch)), expected);
        assert_eq!(pids(&mut census, "web", &watch), [1, 2]);
        assert_eq!(pids(&mut census, "nginx", &watch), [1]);
    }

    #[test]
    fn a_name_given_to_a_pattern_is_not_the_programs_of_that_name() {
        let watch = watch(&[Some("web")]);
        let mut census = census(&[(1, process("nginx", 10, &[true])), (2, process("web", 99, &[false]))]);
        assert_eq!(shown(&census.programs(&watch)), [("nginx", 10, false), ("web", 10, true)]);
        assert_eq!(pids(&mut census, "web", &watch), [1]);
    }

    #[test]
    fn every_process_can_be_an_instance_by_itself() {
        let census = census(&[(1, process("sh", 10, &[true])), (2, process("sh", 5, &[false]))]);
        assert_eq!(shown(&census.processes(&watch(&[None]))), [("sh-1-7", 10, true), ("sh-2-7", 5, false)]);
    }

    #[test]
    fn a_process_that_became_another_program_belongs_to_that_one() {
        let mut census = census(&[(1, process("sh", 10, &[]))]);
        assert!(census.is_still(1, "sh") && !census.is_still(1, "gcc"));
        assert_eq!((pids(&mut census, "sh", &[]), pids(&mut census, "gcc", &[])), (vec![], vec![1]));
    }

    #[test]
    fn with_more_processes_than_are_allowed_all_are_looked_at_in_turn() {
        let mut census = Census::default();
        assert_eq!(census.unknown(), None);
        census.are_there((1..=120).collect());
        let mut looked = Vec::new();
        let mut turn = |census: &mut Census| {
            let mut allowance = Allowance::of(0);
            let mut look = |pid| {
                looked.push(pid);
                Some(process("x", 1, &[]))
            };
            census.look_at_new(&mut allowance, 1, &mut look);
            census.look_again(&mut allowance, 1, &mut look);
            census.unknown()
        };
        assert_eq!([turn(&mut census), turn(&mut census), turn(&mut census)], [Some(70), Some(20), Some(0)]);
        assert_eq!(looked[..120], (1..=120).collect::<Vec<_>>());
        assert_eq!(looked[120..], (1..=30).collect::<Vec<_>>(), "what is left is looked at again");
    }

    #[test]
    fn a_listing_that_takes_several_calls_ends_with_all_of_them() {
        let mut census = Census::default();
        let few = || Allowance { reads: 0, names: 1 };
        // The real processes of this machine, one page per call.
        let mut count = census.list(&mut few()).unwrap();
        while count.is_none() {
            count = census.list(&mut few()).unwrap();
        }
        assert!(count > Some(0));
        assert!(census.new.unwrap().contains(&std::process::id()));
    }
}
