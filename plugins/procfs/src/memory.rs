//! Parses /proc/meminfo.

pub(crate) const MEMINFO: &str = "/proc/meminfo";

const KIB_PER_MIB: f64 = 1024.0;
const BYTES_PER_MIB: f64 = 1_048_576.0;

/// Memory and swap, in MiB.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Memory {
    pub(crate) used_mb: Option<f64>,
    pub(crate) limit_mb: Option<f64>,
    pub(crate) swap_used_mb: Option<f64>,
    pub(crate) swap_limit_mb: Option<f64>,
}

/// Parses /proc/meminfo. If a value is missing or impossible, only the results that need it are missing.
pub(crate) fn parse(text: &str) -> Memory {
    let kib = |name| kib(text, name);
    let (total, swap_total) = (kib("MemTotal"), kib("SwapTotal"));
    let rest = |total: Option<f64>, part: Option<f64>| {
        let (total, part) = total.zip(part)?;
        (part <= total).then_some((total - part) / KIB_PER_MIB)
    };
    Memory {
        used_mb: rest(total, available(text, total)),
        limit_mb: total.map(|kib| kib / KIB_PER_MIB),
        swap_used_mb: rest(swap_total, kib("SwapFree")),
        swap_limit_mb: swap_total.map(|kib| kib / KIB_PER_MIB),
    }
}

/// Returns the available memory, in KiB. Before Linux 3.14 the kernel has no estimate of it; the sum of free memory,
/// buffers and page cache is used instead. In some containers the estimate is more than all memory. Then buffers and
/// cache are the machine's as well, and only free memory is certain.
fn available(text: &str, total: Option<f64>) -> Option<f64> {
    let is_possible = |kib: &f64| total.is_none_or(|total| *kib <= total);
    let kib = |name| kib(text, name);
    match kib("MemAvailable") {
        Some(available) if is_possible(&available) => Some(available),
        Some(_) => kib("MemFree"),
        None => {
            let free = kib("MemFree")?;
            let with_cache = free + kib("Buffers").unwrap_or(0.0) + kib("Cached").unwrap_or(0.0);
            Some(with_cache).filter(is_possible).or(Some(free))
        }
    }
}

/// Returns the resident memory in /proc/PID/status, in MiB. Kernel threads have none.
pub(crate) fn parse_resident_mb(status: &str) -> Option<f64> {
    Some(kib(status, "VmRSS")? / KIB_PER_MIB)
}

pub(crate) fn to_mib(bytes: u64) -> f64 {
    bytes as f64 / BYTES_PER_MIB
}

/// Returns the value of a line like `MemTotal:       24684100 kB`.
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
    fn without_estimate_buffers_or_cache_there_is_still_what_is_not_free() {
        let used = |lines: &str| parse(&format!("MemTotal: 4096 kB\n{lines}")).used_mb;
        assert_eq!(used("MemFree: 1024 kB\n"), Some(3.0));
        assert_eq!(used("MemFree: 1024 kB\nBuffers: 1024 kB\n"), Some(2.0));
        assert_eq!(used("MemFree: 1024 kB\nCached: 1024 kB\n"), Some(2.0));
        assert_eq!(used("Buffers: 1024 kB\nCached: 1024 kB\n"), None);
    }

    #[test]
    fn more_available_than_there_is_leaves_what_is_not_free() {
        let used = |lines: &str| parse(&format!("MemTotal: 4096 kB\n{lines}")).used_mb;
        assert_eq!(used("MemFree: 1024 kB\nMemAvailable: 8192 kB\nCached: 512 kB\n"), Some(3.0));
        assert_eq!(used("MemFree: 1024 kB\nBuffers: 0 kB\nCached: 8192 kB\n"), Some(3.0), "a cache of others");
        assert_eq!(used("MemAvailable: 8192 kB\n"), None);
        assert_eq!(used("MemFree: 8192 kB\n"), None, "never zero");
    }

    #[test]
    fn more_swap_free_than_there_is_gives_no_value() {
        let memory = parse("SwapTotal: 1024 kB\nSwapFree: 2048 kB\n");
        assert_eq!((memory.swap_used_mb, memory.swap_limit_mb), (None, Some(1.0)));
    }

    #[test]
    fn text_that_is_no_meminfo_gives_nothing() {
        for text in ["", "MemTotal", "MemTotal:", "MemTotal: kB", "MemTotal: -1 kB", "MemTotalled: 1 kB"] {
            assert_eq!(parse(text), Memory::default(), "{text:?}");
        }
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
