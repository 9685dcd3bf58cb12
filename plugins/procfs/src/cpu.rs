//! /proc/stat: the time the CPUs were busy.

use crate::clock::ticks_to_seconds;

pub(crate) const STAT: &str = "/proc/stat";

/// Seconds of CPU time used since boot, divided by the number of CPUs: it grows by 1 a second when all are busy.
///
/// Busy is all but idle and iowait. Guest time is left out because the kernel counts it in user time already, and
/// old kernels do not have the later columns (proc_stat(5)).
pub(crate) fn parse_busy_seconds(text: &str) -> Option<f64> {
    let total = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let columns: Vec<u64> = total.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _idle, since_2_6 @ ..] = columns.as_slice() else { return None };
    let [irq, softirq, steal] = [1, 2, 3].map(|column| since_2_6.get(column).copied().unwrap_or(0));
    let busy = [*user, *nice, *system, irq, softirq, steal].into_iter().fold(0, u64::saturating_add);
    let cpus = text.lines().filter(|line| is_one_cpu(line)).count().max(1);
    Some(ticks_to_seconds(busy) / cpus as f64)
}

fn is_one_cpu(line: &str) -> bool {
    line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_shared_among_ten_cpus_on_a_kernel_without_guest_columns() {
        let text = include_str!("../testdata/stat-10-cpus-without-guest");
        // user 4685 + nice 150 + system 1120 + irq 20 + softirq 25 + steal 0 = 6000 ticks, a tenth of them each
        assert_eq!(parse_busy_seconds(text), Some(6.0));
    }

    #[test]
    fn waiting_for_disks_is_not_busy_and_guests_are_not_counted_twice() {
        let text = "cpu  1000 200 300 99999 5000 10 20 70 800 100\ncpu0 1000 200 300 99999 5000 10 20 70 800 100\n";
        assert_eq!(parse_busy_seconds(text), Some(16.0));
    }

    #[test]
    fn four_columns_are_enough() {
        assert_eq!(parse_busy_seconds("cpu  100 0 100 500\ncpu0 100 0 100 500\n"), Some(2.0));
    }

    #[test]
    fn what_is_not_a_cpu_line_gives_nothing() {
        for text in ["", "cpu", "cpu \n", "cpu  1 2 3\n", "cpu  1 2 x 4\n", "cpu0 1 2 3 4\n", "intr 1 2 3 4\n"] {
            assert_eq!(parse_busy_seconds(text), None, "{text:?}");
        }
    }

    #[test]
    fn counters_at_their_end_do_not_overflow() {
        let most = u64::MAX;
        assert!(parse_busy_seconds(&format!("cpu  {most} {most} {most} {most}\n")).is_some());
    }
}
