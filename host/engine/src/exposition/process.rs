//! The metrics of this process that client libraries of Prometheus have, under their names.

use super::computed::{family, series};
use prometheus::proto::{MetricFamily, MetricType};
use std::fs;
use std::sync::OnceLock;

/// Returns the families that can be read: outside of Linux, or without /proc, there are none.
pub(super) fn families() -> Vec<MetricFamily> {
    let Some(process) = Process::read() else { return Vec::new() };
    let gauge = MetricType::GAUGE;
    let all = [
        (
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds.",
            MetricType::COUNTER,
            Some(process.cpu_seconds),
        ),
        ("process_resident_memory_bytes", "Resident memory size in bytes.", gauge, Some(process.resident_bytes)),
        ("process_virtual_memory_bytes", "Virtual memory size in bytes.", gauge, Some(process.virtual_bytes)),
        ("process_threads", "Number of OS threads in the process.", gauge, Some(process.threads)),
        ("process_open_fds", "Number of open file descriptors.", gauge, open_files()),
        ("process_max_fds", "Maximum number of open file descriptors.", gauge, most_files()),
        (
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds.",
            gauge,
            booted_at().map(|booted| booted + process.started_after_boot),
        ),
    ];
    let read = all.into_iter().filter_map(|(name, help, kind, value)| {
        let is_counter = kind == MetricType::COUNTER;
        Some(family(name.to_owned(), help, kind, vec![series(is_counter, value?, &[])]))
    });
    read.collect()
}

/// Numbers from /proc/self/stat.
#[derive(Debug, PartialEq)]
struct Process {
    cpu_seconds: f64,
    threads: f64,
    started_after_boot: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Process {
    fn read() -> Option<Self> {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        Self::parse(&fs::read_to_string("/proc/self/stat").ok()?, ticks, rustix::param::page_size() as f64)
    }

    /// Parses the line. The name of the program, in parentheses, may contain anything.
    fn parse(stat: &str, ticks_per_second: f64, page: f64) -> Option<Self> {
        let (_, rest) = stat.rsplit_once(')')?;
        let words: Vec<f64> = rest.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
        // The first of them is the fourth of the line.
        let nth = |nth: usize| words.get(nth - 4).copied();
        Some(Self {
            cpu_seconds: (nth(14)? + nth(15)?) / ticks_per_second,
            threads: nth(20)?,
            started_after_boot: nth(22)? / ticks_per_second,
            virtual_bytes: nth(23)?,
            resident_bytes: nth(24)? * page,
        })
    }
}

fn open_files() -> Option<f64> {
    use std::os::unix::fs::MetadataExt as _;
    // Since Linux 6.2 the size is the number.
    match fs::metadata("/proc/self/fd").ok()?.size() {
        0 => Some(fs::read_dir("/proc/self/fd").ok()?.count() as f64),
        open => Some(open as f64),
    }
}

fn most_files() -> Option<f64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current.map(|most| most as f64)
}

/// Returns when the machine was booted, in seconds since 1970. It is read once: the kernel moves it with the clock.
fn booted_at() -> Option<f64> {
    static BOOTED: OnceLock<Option<f64>> = OnceLock::new();
    let read = || {
        let stat = fs::read_to_string("/proc/stat").ok()?;
        stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
    };
    *BOOTED.get_or_init(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_process_is_read_whatever_its_name_is() {
        let line =
            "7 (a) R 1) S 1 7 7 0 -1 4194560 5 0 0 0 150 50 0 0 20 0 9 0 3000 1048576 25 18446744073709551615 1 1\n";
        let read = Process::parse(line, 100.0, 4096.0).unwrap();
        let expected = Process {
            cpu_seconds: 2.0,
            threads: 9.0,
            started_after_boot: 30.0,
            virtual_bytes: 1_048_576.0,
            resident_bytes: 102_400.0,
        };
        assert_eq!(read, expected);
        assert_eq!(Process::parse("7 (a) S 1 2", 100.0, 4096.0), None);
    }

    #[test]
    fn this_process_has_all_of_them() {
        let names: Vec<_> = families().iter().map(|family| family.name().to_owned()).collect();
        assert_eq!(names.len(), 7, "{names:?}");
    }
}
