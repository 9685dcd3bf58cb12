//! Running totals over parts that come and go, kept through traps, reloads and restarts of the host.

use crate::clock::Moment;
use crate::cpu::CpuTime;
use crate::pace::Pace;
use crate::process::ProcessId;
use dropsonde_guest::counters::SumOfCounters;
use dropsonde_guest::{Instance, log, state};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The file that identifies a boot of the machine.
pub(crate) const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Most bytes to save: the host keeps 64 KiB.
const MOST_SAVED: usize = 64 << 10;

/// Most programs to remember: those that are listed now, and those that may come again.
const MOST_PROGRAMS: usize = 512;

/// The saved totals of the machine and its programs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct SavedTotals {
    boot: String,
    cpu: CpuTime,
    received: SumOfCounters<String>,
    sent: SumOfCounters<String>,
    read: SumOfCounters<String>,
    written: SumOfCounters<String>,
    programs: BTreeMap<String, ProgramTime>,
}

/// The CPU time of a program's processes, including those that ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct ProgramTime {
    /// Ticks by pid and start time.
    ticks: SumOfCounters<(u32, u64)>,
    pace: Pace,
    /// The number of the call that measured the program last: the program that was not measured for the longest time is
    /// forgotten first.
    measured: u64,
}

/// All totals.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    saved: SavedTotals,
    /// The bytes of the last save.
    bytes: Vec<u8>,
    is_loaded: bool,
    /// Whether the host refused the last save.
    is_refused: bool,
    calls: u64,
    /// Totals of single processes, whose time needs no sum.
    processes: BTreeMap<ProcessId, (Pace, f64, u64)>,
}

// === impl Totals ===

impl Totals {
    /// Loads the totals that an earlier instance saved, unless the machine was booted since. `boot` is empty if nothing
    /// identifies the boot.
    pub(crate) fn begin_call(&mut self, boot: &str) {
        self.calls += 1;
        if std::mem::replace(&mut self.is_loaded, true) {
            return;
        }
        let bytes = state::load().unwrap_or_default();
        match serde_json::from_slice::<SavedTotals>(&bytes) {
            Ok(saved) if saved.boot == boot => {
                self.calls = self.calls.max(saved.programs.values().map(|each| each.measured + 1).max().unwrap_or(0));
                (self.saved, self.bytes) = (saved, bytes);
            }
            Ok(_) => {}
            Err(_) if bytes.is_empty() => {}
            Err(error) => log::warn(format!("cannot read the saved totals, which begin anew: {error}")),
        }
        self.saved.boot = boot.to_owned();
    }

    /// Saves the totals if they changed.
    pub(crate) fn end_call(&mut self) {
        let calls = self.calls;
        // Keeps processes that were requested within the last ten calls.
        self.processes.retain(|_, (_, _, measured)| *measured + 10 > calls);
        while self.saved.programs.len() > MOST_PROGRAMS {
            let oldest = self.saved.programs.iter().min_by_key(|(_, program)| program.measured);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
            self.saved.programs.remove(&oldest);
        }
        let bytes = self.saved.to_bytes();
        if bytes == self.bytes {
            return;
        }
        match state::save(&bytes) {
            Ok(()) => (self.bytes, self.is_refused) = (bytes, false),
            Err(why) if !self.is_refused => {
                log::warn(format!("cannot save the totals: {why}"));
                self.is_refused = true;
            }
            Err(_) => {}
        }
    }

    /// Returns the programs of the last measurement, possibly by an earlier instance.
    pub(crate) fn measured_last(&self) -> Vec<Instance> {
        let programs = &self.saved.programs;
        let last = programs.values().map(|program| program.measured).max();
        let measured = programs.iter().filter(|(_, program)| Some(program.measured) == last);
        measured.map(|(id, _)| Instance::new(id).label("kind", "program").label("program", id)).collect()
    }

    pub(crate) fn cpu(&mut self) -> &mut CpuTime {
        &mut self.saved.cpu
    }

    /// Returns the bytes received and sent, over these interfaces.
    pub(crate) fn traffic(&mut self, interfaces: &[(&str, crate::net::Traffic)]) -> (u64, u64) {
        let named = |value: fn(&crate::net::Traffic) -> u64| {
            interfaces.iter().map(move |(name, traffic)| ((*name).to_owned(), value(traffic)))
        };
        let received = self.saved.received.update(named(|traffic| traffic.received));
        (received, self.saved.sent.update(named(|traffic| traffic.sent)))
    }

    /// Returns the bytes read and written, over these disks.
    pub(crate) fn transfers(&mut self, disks: &[(&str, crate::disks::Transfers)]) -> (u64, u64) {
        let named = |value: fn(&crate::disks::Transfers) -> u64| {
            disks.iter().map(move |(name, transfers)| ((*name).to_owned(), value(transfers)))
        };
        let read = self.saved.read.update(named(|transfers| transfers.read));
        (read, self.saved.written.update(named(|transfers| transfers.written)))
    }

    /// Returns the CPU seconds of a program with these processes. A process that started since the last call counts in
    /// full.
    pub(crate) fn of_program(&mut self, id: &str, ticks: &[(ProcessId, u64)], now: Moment, cpus: Option<f64>) -> f64 {
        let program = self.saved.programs.entry(id.to_owned()).or_default();
        program.measured = self.calls;
        program.update(ticks, now, cpus)
    }

    /// Returns the CPU seconds to show for a process that has used `seconds`.
    pub(crate) fn of_process(&mut self, id: ProcessId, seconds: f64, now: Moment, cpus: Option<f64>) -> f64 {
        let calls = self.calls;
        let (pace, before, measured) =
            self.processes.entry(id).or_insert_with(|| (Pace::start(seconds, now), seconds, calls));
        let total = pace.advance(seconds - *before, now, cpus);
        (*before, *measured) = (seconds, calls);
        total
    }
}

// === impl ProgramTime ===

impl ProgramTime {
    fn update(&mut self, ticks: &[(ProcessId, u64)], now: Moment, cpus: Option<f64>) -> f64 {
        let keyed = ticks.iter().map(|(id, ticks)| ((id.pid, id.start_ticks), *ticks));
        let Some(before) = self.ticks.total() else {
            let total = self.ticks.update(keyed);
            self.pace = Pace::start(crate::clock::ticks_to_seconds(total), now);
            return self.pace.seconds();
        };
        if let Some((since, now)) = self.pace.at().uptime.zip(now.uptime) {
            for (id, _) in ticks {
                let started = crate::clock::ticks_to_seconds(id.start_ticks);
                let key = (id.pid, id.start_ticks);
                if started >= since && started <= now + 1.0 && self.ticks.part(&key).is_none() {
                    self.ticks.begin_at(key, 0);
                }
            }
        }
        let grown = self.ticks.update(keyed).saturating_sub(before);
        self.pace.advance(crate::clock::ticks_to_seconds(grown), now, cpus)
    }
}

// === impl SavedTotals ===

impl SavedTotals {
    /// Returns the bytes to save, at most [`MOST_SAVED`]. If everything does not fit, parts are left out: then a total
    /// misses what its parts count until the next call. As a last resort, the programs that were not measured for the
    /// longest time are left out.
    fn to_bytes(&self) -> Vec<u8> {
        let whole = serde_json::to_vec(self).unwrap_or_default();
        if whole.len() <= MOST_SAVED {
            return whole;
        }
        let mut less = self.clone();
        less.programs.values_mut().for_each(|program| program.ticks.forget_parts());
        let without_processes = serde_json::to_vec(&less).unwrap_or_default();
        if without_processes.len() <= MOST_SAVED {
            return without_processes;
        }
        less.cpu.forget_parts();
        for sum in [&mut less.received, &mut less.sent, &mut less.read, &mut less.written] {
            sum.forget_parts();
        }
        loop {
            let bytes = serde_json::to_vec(&less).unwrap_or_default();
            let oldest = less.programs.iter().min_by_key(|(_, program)| program.measured).map(|(name, _)| name.clone());
            match oldest {
                Some(oldest) if bytes.len() > MOST_SAVED => _ = less.programs.remove(&oldest),
                _ => return bytes,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu;
    use crate::net::Traffic;
    use dropsonde_guest::Tick;

    fn at(seconds: u64) -> Moment {
        let tick = Tick { at_ms: 0, monotonic_ns: seconds * 1_000_000_000, budget_ms: 100, interval_ms: 10_000 };
        Moment::of(&tick, Some(seconds as f64))
    }

    fn process(pid: u32, started: u64, ticks: u64) -> (ProcessId, u64) {
        (ProcessId { pid, start_ticks: started * 100 }, ticks)
    }

    fn begin(boot: &str) -> Totals {
        let mut totals = Totals::default();
        totals.begin_call(boot);
        totals
    }

    #[test]
    fn time_of_processes_that_ended_stays_and_new_ones_count_whole() {
        let mut totals = begin("");
        let mut time = |processes: &[(ProcessId, u64)], now| totals.of_program("gcc", processes, at(now), Some(8.0));
        assert_eq!(time(&[process(1, 5, 200), process(2, 6, 100)], 1000), 3.0);
        assert_eq!(time(&[process(1, 5, 300), process(3, 1004, 150)], 1010), 5.5);
        assert_eq!(time(&[], 1020), 5.5);
        assert_eq!(time(&[process(4, 1025, 50)], 1030), 6.0);
        assert_eq!(time(&[process(4, 1025, 60), process(9, 3, 9999)], 1040), 6.1, "one that was there before");
        assert_eq!(time(&[process(4, 1025, 60), process(8, 99_999, 9999)], 1050), 6.1, "one of the future");
    }

    #[test]
    fn a_program_uses_no_more_than_all_cpus() {
        let mut totals = begin("");
        assert_eq!(totals.of_program("x", &[process(1, 5, 0)], at(1000), Some(2.0)), 0.0);
        assert_eq!(totals.of_program("x", &[process(1, 5, 2010)], at(1010), Some(2.0)), 20.0);
    }

    #[test]
    fn a_process_uses_no_more_than_all_cpus_and_starts_with_what_it_used() {
        let mut totals = begin("");
        let id = ProcessId { pid: 1, start_ticks: 5 };
        assert_eq!(totals.of_process(id, 7.5, at(0), Some(1.0)), 7.5);
        assert_eq!(totals.of_process(id, 17.52, at(10), Some(1.0)), 17.5);
        assert_eq!(totals.of_process(id, 17.52, at(20), Some(1.0)), 17.52);
    }

    #[test]
    fn a_part_that_goes_while_the_plugin_does_not_run_makes_no_total_fall_or_jump() {
        let eth0 = |received| ("eth0", Traffic { received, sent: 0 });
        let wlan0 = |received| ("wlan0", Traffic { received, sent: 0 });
        let mut totals = begin("boot-1");
        totals.traffic(&[eth0(1000), wlan0(500)]);
        totals.end_call();
        totals.begin_call("boot-1");
        assert_eq!(totals.traffic(&[eth0(1100), wlan0(90_500)]), (91_600, 0));
        totals.end_call();
        // The plugin is loaded again, without wlan0.
        let mut totals = begin("boot-1");
        assert_eq!(totals.traffic(&[eth0(1150)]), (91_650, 0));
        totals.end_call();
        let mut totals = begin("boot-1");
        assert_eq!(totals.traffic(&[eth0(1150), wlan0(90_500)]), (91_650, 0));
        // The machine was booted again.
        totals.end_call();
        let mut totals = begin("boot-2");
        assert_eq!(totals.traffic(&[eth0(7)]), (7, 0));
    }

    #[test]
    fn a_program_goes_on_after_a_restart_with_the_processes_that_are_left() {
        let mut totals = begin("b");
        totals.of_program("web", &[process(1, 5, 1000), process(2, 6, 9000)], at(1000), Some(2.0));
        totals.end_call();
        let mut totals = begin("b");
        assert_eq!(totals.of_program("web", &[process(1, 5, 1100)], at(1010), Some(2.0)), 101.0);
    }

    #[test]
    fn a_new_instance_knows_which_programs_were_measured_last() {
        let mut totals = begin("b");
        totals.of_program("cron", &[process(1, 5, 1)], at(1000), None);
        totals.begin_call("b");
        totals.of_program("web", &[process(2, 5, 1)], at(1010), None);
        totals.end_call();
        let expected = Instance::new("web").label("kind", "program").label("program", "web");
        assert_eq!(begin("b").measured_last(), [expected]);
        assert_eq!(begin("other").measured_last(), []);
    }

    #[test]
    fn bytes_that_are_no_totals_begin_anew() {
        state::save(b"{\"boot\":").unwrap();
        assert_eq!(begin("b").traffic(&[("eth0", Traffic { received: 5, sent: 6 })]), (5, 6));
    }

    #[test]
    fn what_is_saved_fits_however_many_processes_and_cpus_there_are() {
        let mut totals = begin("b");
        let processes: Vec<_> = (0..50_000).map(|pid| process(pid, 5, 100)).collect();
        totals.of_program("many", &processes, at(10), Some(2.0));
        let stat = |user: u64| (0..4096).map(|cpu| format!("cpu{cpu} {user} 1 1 1 1 1 1 1\n")).collect::<String>();
        totals.cpu().update(&cpu::parse(&stat(1000)), at(10));
        totals.end_call();
        assert!(state::load().unwrap().len() <= MOST_SAVED);
        let mut totals = begin("b");
        assert_eq!(totals.of_program("many", &processes, at(20), Some(2.0)), 50_000.0);
        assert_eq!(totals.cpu().update(&cpu::parse(&stat(1000)), at(20)), Some(10.05));
    }

    #[test]
    fn programs_that_are_not_measured_any_more_are_forgotten_beyond_a_bound() {
        let mut totals = begin("b");
        for nth in 0..MOST_PROGRAMS + 10 {
            totals.begin_call("b");
            totals.of_program(&format!("p{nth}"), &[process(1, 5, 100)], at(10), None);
        }
        totals.end_call();
        assert_eq!(totals.saved.programs.len(), MOST_PROGRAMS);
        assert!(!totals.saved.programs.contains_key("p9") && totals.saved.programs.contains_key("p10"));
    }
}
