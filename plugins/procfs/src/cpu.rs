//! Parses /proc/stat and computes the busy time of the CPUs.

use crate::clock::{Moment, ticks_to_seconds};
use crate::pace::Pace;
use dropsonde_guest::counters::SumOfCounters;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const STAT: &str = "/proc/stat";

/// The columns of busy time: user, nice, system, irq, softirq, steal. Idle and iowait are not busy; guest time is part
/// of user time already (proc_stat(5)).
const BUSY: [u8; 6] = [0, 1, 2, 5, 6, 7];

/// The number of columns that every kernel has.
const FIRST_COLUMNS: usize = 4;

/// Stands for all CPUs, if only the line for all of them is usable.
const ALL: u32 = u32::MAX;

/// A CPU and one of its columns.
type CpuColumn = (u32, u8);

/// The content of /proc/stat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SystemStat {
    /// Busy ticks by column.
    busy: Vec<(CpuColumn, u64)>,
    /// The number of online CPUs; 1 if the file does not say.
    pub(crate) cpus: usize,
    /// The boot time, in seconds since 1970.
    pub(crate) booted: Option<u64>,
}

/// The CPU time used since boot, divided by the number of CPUs: it grows by 1 per second if all CPUs are busy.
///
/// Each column of each CPU counts separately. So a CPU that goes or comes is not taken for load, and a column that
/// falls is left out. If a column grows by more than time allows, the interval has no value; the column's next rate is
/// used for that interval afterwards.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CpuTime {
    ticks: SumOfCounters<CpuColumn>,
    pace: Option<Pace>,
    at: Moment,
    #[serde(skip)]
    jumps: BTreeMap<CpuColumn, Jump>,
}

/// A column that grew by more than time allows.
#[derive(Debug, Clone, Default, PartialEq)]
struct Jump {
    /// The number of such readings in a row.
    times: u32,
    /// Seconds for which the column was not counted.
    unknown: f64,
}

/// Parses the file. If it has several lines for all CPUs, the one with the largest numbers is used: some containers
/// show a line of zeros before it.
pub(crate) fn parse(text: &str) -> SystemStat {
    let of_one = |line: &str| {
        let (number, columns) = line.strip_prefix("cpu")?.split_once(' ')?;
        Some((number.parse::<u32>().ok().filter(|cpu| *cpu != ALL)?, columns_of(columns)?))
    };
    let one: BTreeMap<u32, Vec<u64>> = text.lines().filter_map(of_one).collect();
    let cpus = one.len().max(1);
    let of_all = text.lines().filter_map(|line| columns_of(line.strip_prefix("cpu ")?));
    let booted = text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok());
    let busy = if one.values().flatten().any(|ticks| *ticks > 0) {
        one.iter().flat_map(|(cpu, columns)| busy(*cpu, columns)).collect()
    } else {
        let sum = |columns: &Vec<u64>| columns.iter().fold(0, |sum: u64, ticks| sum.saturating_add(*ticks));
        of_all.max_by_key(sum).map(|columns| busy(ALL, &columns).collect()).unwrap_or_default()
    };
    SystemStat { busy, cpus, booted }
}

fn columns_of(line: &str) -> Option<Vec<u64>> {
    let columns: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    (columns.len() >= FIRST_COLUMNS).then_some(columns)
}

fn busy(cpu: u32, columns: &[u64]) -> impl Iterator<Item = (CpuColumn, u64)> {
    BUSY.into_iter().filter_map(move |column| Some(((cpu, column), *columns.get(usize::from(column))?)))
}

/// Returns the most ticks that one column of a CPU can grow by in this time.
fn possible(stat: &SystemStat, cpu: u32, seconds: f64) -> f64 {
    let cpus = if cpu == ALL { stat.cpus as f64 } else { 1.0 };
    // The readings may be further apart than the calls, each of which may take a second.
    (seconds * 1.1 + 1.0) * 100.0 * cpus
}

// === impl CpuTime ===

impl CpuTime {
    /// Counts a reading, and returns the total. `None`: there is no value this time.
    pub(crate) fn update(&mut self, stat: &SystemStat, now: Moment) -> Option<f64> {
        if stat.busy.is_empty() {
            return None;
        }
        let elapsed = now.since(&self.at);
        let Some(before) = self.ticks.total() else { return Some(self.first(stat, now)) };
        let (mut is_known, mut stood_in) = (true, 0.0);
        for (column, ticks) in &stat.busy {
            let (Some(elapsed), Some(before)) = (elapsed, self.ticks.part(column)) else { continue };
            let grown = ticks.saturating_sub(before);
            if grown as f64 > possible(stat, column.0, elapsed) {
                self.ticks.begin_at(*column, *ticks);
                let jump = self.jumps.entry(*column).or_default();
                jump.times += 1;
                // A column that jumps every time is ignored: the others go on without it.
                if jump.times == 1 {
                    jump.unknown += elapsed;
                    is_known = false;
                }
            } else if let Some(jump) = self.jumps.remove(column)
                && elapsed > 0.0
            {
                stood_in += grown as f64 * jump.unknown / elapsed;
            }
        }
        let cpus = self.cpus_there_both_times(stat);
        let grown = self.ticks.update(stat.busy.iter().copied()).saturating_sub(before);
        let seconds = (ticks_to_seconds(grown) + stood_in / 100.0) / cpus;
        self.at = now;
        let pace = self.pace.get_or_insert_default();
        if is_known {
            return Some(pace.advance(seconds, now, Some(1.0)));
        }
        pace.owe(seconds);
        None
    }

    /// Begins with the CPU time since boot, without columns that cannot be true.
    fn first(&mut self, stat: &SystemStat, now: Moment) -> f64 {
        let is_possible = |column: &CpuColumn, ticks: u64| {
            now.uptime.is_none_or(|uptime| ticks as f64 <= possible(stat, column.0, uptime))
        };
        let believed = stat.busy.iter().copied().filter(|(column, ticks)| is_possible(column, *ticks));
        let ticks = self.ticks.update(believed);
        let pace = Pace::start(ticks_to_seconds(ticks) / stat.cpus as f64, now);
        self.at = now;
        self.pace.insert(pace).seconds()
    }

    fn cpus_there_both_times(&self, stat: &SystemStat) -> f64 {
        let before: BTreeSet<u32> = self.ticks.parts().map(|((cpu, _), _)| *cpu).collect();
        let both: BTreeSet<u32> =
            stat.busy.iter().map(|((cpu, _), _)| *cpu).filter(|cpu| before.contains(cpu)).collect();
        let cpus = if both.contains(&ALL) { stat.cpus } else { both.len() };
        cpus.max(1) as f64
    }

    /// Forgets the parts. Used if there are too many to save.
    pub(crate) fn forget_parts(&mut self) {
        self.ticks.forget_parts();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_guest::Tick;

    fn at(seconds: u64) -> Moment {
        let tick = Tick { at_ms: 0, monotonic_ns: seconds * 1_000_000_000, budget_ms: 100, interval_ms: 10_000 };
        Moment::of(&tick, None)
    }

    /// Returns the total of each reading, in seconds since the first one. The readings are 10 s apart.
    fn grown(texts: &[&str]) -> Vec<Option<f64>> {
        let mut time = CpuTime::default();
        let totals: Vec<_> = (0..).zip(texts).map(|(nth, text)| time.update(&parse(text), at(nth * 10))).collect();
        let first = totals[0].unwrap();
        totals.iter().map(|total| total.map(|total| ((total - first) * 1e4).round() / 1e4)).collect()
    }

    fn first(text: &str) -> Option<f64> {
        CpuTime::default().update(&parse(text), at(0))
    }

    #[test]
    fn busy_time_is_shared_among_ten_cpus_on_a_kernel_without_guest_columns() {
        let text = include_str!("../testdata/stat-10-cpus-without-guest");
        // user 4685 + nice 150 + system 1120 + irq 20 + softirq 25 + steal 0 = 6000 ticks; a tenth of them per CPU
        assert_eq!(first(text), Some(6.0));
    }

    #[test]
    fn waiting_for_disks_is_not_busy_and_guests_are_not_counted_twice() {
        let text = "cpu  1000 200 300 99999 5000 10 20 70 800 100\ncpu0 1000 200 300 99999 5000 10 20 70 800 100\n";
        assert_eq!(first(text), Some(16.0));
    }

    #[test]
    fn four_columns_are_enough() {
        assert_eq!(first("cpu  100 0 100 500\ncpu0 100 0 100 500\n"), Some(2.0));
    }

    #[test]
    fn what_is_not_a_cpu_line_gives_nothing() {
        for text in ["", "cpu", "cpu \n", "cpu  1 2 3\n", "cpu  1 2 x 4\n", "cpux 1 2 3 4\n", "intr 1 2 3 4\n"] {
            assert_eq!(first(text), None, "{text:?}");
        }
    }

    #[test]
    fn counters_at_their_end_do_not_overflow() {
        let most = u64::MAX;
        let text = format!("cpu  {most} {most} {most} {most}\ncpu0 {most} {most} {most} {most}\n");
        assert!(first(&text).is_some());
        assert_eq!(grown(&[&text, &text]), [Some(0.0), Some(0.0)]);
    }

    #[test]
    fn a_cpu_that_goes_or_comes_is_no_load() {
        let two = "cpu0 1000 0 0 9 9 0 0 0\ncpu1 90000 0 0 9 9 0 0 0\n";
        let one = "cpu0 1100 0 0 9 9 0 0 0\n";
        let again = "cpu0 1200 0 0 9 9 0 0 0\ncpu1 90000 0 0 9 9 0 0 0\n";
        let both = "cpu0 1200 0 0 9 9 0 0 0\ncpu1 90100 0 0 9 9 0 0 0\n";
        // Twice 100 ticks of the one CPU that is present in both readings; then 100 ticks of two CPUs.
        assert_eq!(grown(&[two, one, again, both]), [Some(0.0), Some(1.0), Some(2.0), Some(2.5)]);
    }

    #[test]
    fn a_column_that_falls_is_left_out_and_the_others_count() {
        let steal = |user: u64, steal: u64| format!("cpu0 {user} 0 0 9 9 0 0 {steal}\n");
        let (a, b, c) = (steal(0, 5_000_000), steal(30, 4_000_000), steal(60, 4_000_010));
        assert_eq!(grown(&[&a, &b, &c]), [Some(0.0), Some(0.3), Some(0.7)]);
    }

    #[test]
    fn a_column_that_jumps_gives_no_value_and_its_next_rate_stands_in_for_it() {
        let steal = |user: u64, steal: u64| format!("cpu0 {user} 0 0 9 9 0 0 {steal}\n");
        let (a, b, c) = (steal(0, 0), steal(30, 1_844_674_407_358), steal(60, 1_844_674_407_368));
        // 30 + 30 ticks of user time, and 10 of stolen time in both intervals.
        assert_eq!(grown(&[&a, &b, &c]), [Some(0.0), None, Some(0.8)]);
    }

    #[test]
    fn a_column_that_jumps_every_time_is_left_out() {
        let steal = |nth: u64| format!("cpu0 {} 0 0 9 9 0 0 {}\n", nth * 30, nth * 1_000_000);
        let texts: Vec<String> = (0..5).map(steal).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(grown(&texts), [Some(0.0), None, Some(0.6), Some(0.9), Some(1.2)]);
    }

    #[test]
    fn a_whole_machine_is_never_more_than_wholly_busy() {
        let user = |ticks: u64| format!("cpu0 {ticks} 0 0 9 9 0 0 0\n");
        // The kernel's ticks and the readings are not synchronous.
        let (a, b, c) = (user(0), user(1003), user(1999));
        assert_eq!(grown(&[&a, &b, &c]), [Some(0.0), Some(10.0), Some(19.99)]);
    }

    #[test]
    fn of_two_lines_for_all_the_one_with_numbers_counts_when_there_are_no_others() {
        let text = |user: u64| format!("cpu  0 0 0 0\ncpu  {user} 0 0 500\ncpu0 0 0 0 0\ncpu1 0 0 0 0\n");
        assert_eq!(grown(&[&text(100), &text(300)]), [Some(0.0), Some(1.0)], "of two CPUs");
    }

    #[test]
    fn a_column_beyond_the_uptime_is_not_believed_in_the_first_reading() {
        let mut time = CpuTime::default();
        let now = Moment::after_boot(Some(1000.0));
        let stat = parse("cpu0 5000 0 0 9 9 0 0 1198368772563\n");
        assert_eq!(time.update(&stat, now), Some(50.0));
    }

    #[test]
    fn a_new_instance_goes_on_where_the_last_one_stopped() {
        let mut time = CpuTime::default();
        time.update(&parse("cpu0 1000 0 0 9\n"), at(0));
        time.update(&parse("cpu0 1100 0 0 9\n"), at(10));
        let mut restored: CpuTime = serde_json::from_slice(&serde_json::to_vec(&time).unwrap()).unwrap();
        assert_eq!(restored.update(&parse("cpu0 1300 0 0 9\ncpu1 5 0 0 9\n"), at(1)), Some(13.0));
    }
}
