//! /proc/meminfo, and the memory limit of the container around us.

pub(crate) const MEMINFO: &str = "/proc/meminfo";

/// The limit of the control group that is mounted as the root: version 2, version 1. On a bare machine there is none.
pub(crate) const LIMITS: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// Version 1 writes "no limit" as the largest number of whole pages, which depends on the page size.
const UNLIMITED_BYTES: u64 = 1 << 62;

const KIB_PER_MIB: f64 = 1024.0;
const BYTES_PER_MIB: f64 = 1_048_576.0;

/// The machine's memory, in MiB.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Memory {
    pub(crate) used_mb: Option<f64>,
    pub(crate) limit_mb: Option<f64>,
    pub(crate) swap_used_mb: Option<f64>,
    pub(crate) swap_limit_mb: Option<f64>,
}

/// Reads /proc/meminfo. Used is what is not available; before Linux 3.14 the kernel did not estimate that, and free
/// memory with buffers and page cache stands in for it.
pub(crate) fn parse(text: &str) -> Memory {
    let kib = |name| kib(text, name);
    let total = kib("MemTotal");
    let available = kib("MemAvailable").or_else(|| Some(kib("MemFree")? + kib("Buffers")? + kib("Cached")?));
    let swap_total = kib("SwapTotal");
    let rest = |total: Option<f64>, part: Option<f64>| Some((total? - part?).max(0.0) / KIB_PER_MIB);
    Memory {
        used_mb: rest(total, available),
        limit_mb: total.map(|kib| kib / KIB_PER_MIB),
        swap_used_mb: rest(swap_total, kib("SwapFree")),
        swap_limit_mb: swap_total.map(|kib| kib / KIB_PER_MIB),
    }
}

/// A control group's limit in MiB; `None` when there is none.
pub(crate) fn parse_limit_mb(text: &str) -> Option<f64> {
    let bytes: u64 = text.trim().parse().ok()?;
    (bytes < UNLIMITED_BYTES).then(|| to_mib(bytes))
}

/// Resident memory in /proc/PID/status, in MiB. Kernel threads have none.
pub(crate) fn parse_resident_mb(status: &str) -> Option<f64> {
    Some(kib(status, "VmRSS")? / KIB_PER_MIB)
}

pub(crate) fn to_mib(bytes: u64) -> f64 {
    bytes as f64 / BYTES_PER_MIB
}

/// The value of a line like `MemTotal:       24684100 kB`.
fn kib(text: &str, name: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = value.split_whitespace().next()?.parse().ok()?;
    Some(kib as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_memory_is_what_is_not_available() {
        let memory = parse(
            "MemTotal:        4194304 kB\nMemFree:          102400 kB\nMemAvailable:    3145728 kB\n\
             Buffers:            4540 kB\nCached:           832720 kB\nSwapCached:            0 kB\n\
             SwapTotal:       2097152 kB\nSwapFree:        1572864 kB\n",
        );
        let expected = Memory {
            used_mb: Some(1024.0),
            limit_mb: Some(4096.0),
            swap_used_mb: Some(512.0),
            swap_limit_mb: Some(2048.0),
        };
        assert_eq!(memory, expected);
    }

    #[test]
    fn an_old_kernel_that_does_not_say_what_is_available_has_free_buffers_and_cache() {
        let memory = parse(include_str!("../testdata/meminfo-without-available"));
        // 1026048 − (123904 + 51200 + 442368) KiB
        assert_eq!(memory.used_mb, Some(399.0));
    }

    #[test]
    fn a_machine_without_swap_has_none_of_it() {
        let memory = parse("SwapTotal:             0 kB\nSwapFree:              0 kB\n");
        assert_eq!((memory.swap_used_mb, memory.swap_limit_mb), (Some(0.0), Some(0.0)));
        assert_eq!((memory.used_mb, memory.limit_mb), (None, None));
    }

    #[test]
    fn more_available_than_there_is_means_nothing_is_used() {
        assert_eq!(parse("MemTotal: 1024 kB\nMemAvailable: 2048 kB\n").used_mb, Some(0.0));
    }

    #[test]
    fn text_that_is_no_meminfo_gives_nothing() {
        for text in ["", "MemTotal", "MemTotal:", "MemTotal: kB", "MemTotal: -1 kB", "MemTotalled: 1 kB"] {
            assert_eq!(parse(text), Memory::default(), "{text:?}");
        }
    }

    #[test]
    fn no_limit_is_written_differently_by_each_version_of_control_groups() {
        assert_eq!(parse_limit_mb("max\n"), None);
        assert_eq!(parse_limit_mb("9223372036854771712\n"), None);
        // with pages of 64 KiB
        assert_eq!(parse_limit_mb("9223372036854710272\n"), None);
        assert_eq!(parse_limit_mb("1073741824\n"), Some(1024.0));
        assert_eq!(parse_limit_mb(""), None);
    }

    #[test]
    fn resident_memory_is_that_of_the_status_file() {
        assert_eq!(parse_resident_mb("Name:\tnginx\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\n"), Some(10.0));
        assert_eq!(parse_resident_mb("Name:\tkthreadd\nThreads:\t1\n"), None);
    }

    #[test]
    fn a_process_name_cannot_pretend_to_be_a_line_of_status() {
        // The kernel writes a newline in a name as two characters.
        assert_eq!(parse_resident_mb("Name:\tx\\nVmRSS:\t 99 kB\nVmRSS:\t   1024 kB\n"), Some(1.0));
    }
}
