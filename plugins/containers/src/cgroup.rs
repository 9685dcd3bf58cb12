//! Usage of containers and units from cgroups, version 2, and version 1 where only that exists.

use crate::names::{CgroupName, container, unit};
use crate::row::Usage;
use dropsonde_guest::files::{self, EntryKind, FileError};

/// Where cgroups are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// The deepest cgroups that are looked at, counted from the root.
const DEPTH: usize = 8;

/// Most cgroups that are looked at.
const MOST_LOOKED_AT: usize = 20_000;

/// A limit of memory above this is none: version 1 has a number even where there is no limit.
const UNLIMITED_BYTES: f64 = 9.0e18;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CgroupVersion {
    One,
    Two,
}

/// A cgroup that is an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup {
    pub(crate) name: CgroupName,
    /// The path below the root, or below a controller; it begins with `/`.
    path: String,
}

/// Returns the version of the mounted cgroups.
pub(crate) fn version() -> Result<CgroupVersion, FileError> {
    match files::read(&format!("{ROOT}/cgroup.controllers")) {
        Ok(_) => Ok(CgroupVersion::Two),
        Err(FileError::NotFound(_)) => Ok(CgroupVersion::One),
        Err(error) => Err(error),
    }
}

/// Finds containers, and units that a pattern matches.
pub(crate) fn find(version: CgroupVersion, units: &[String]) -> Result<Vec<Cgroup>, FileError> {
    let root = match version {
        CgroupVersion::One => format!("{ROOT}/memory"),
        CgroupVersion::Two => ROOT.to_owned(),
    };
    let mut found: Vec<Cgroup> = Vec::new();
    let mut left = vec![(String::new(), 0)];
    let mut looked_at = 0;
    while let Some((path, depth)) = left.pop() {
        looked_at += 1;
        if looked_at > MOST_LOOKED_AT {
            break;
        }
        let entries = match files::entries(&format!("{root}{path}")) {
            Ok(entries) => entries,
            // It ended in the meantime.
            Err(FileError::NotFound(_)) if depth > 0 => continue,
            Err(error) => return Err(error),
        };
        let parent = path.rsplit('/').next().unwrap_or_default();
        for entry in entries.into_iter().filter(|entry| entry.kind == EntryKind::Directory) {
            let inner = format!("{path}/{}", entry.name);
            let name = container(&entry.name, parent).or_else(|| unit(&entry.name, units));
            // Podman keeps a container's processes in a cgroup of its own, below that of the container.
            let is_container = name.as_ref().is_some_and(|name| name.engine != "systemd");
            found.extend(name.map(|name| Cgroup { name, path: inner.clone() }));
            if depth < DEPTH && !is_container {
                left.push((inner, depth + 1));
            }
        }
    }
    found.sort_by(|a, b| (&a.name.id, &a.path).cmp(&(&b.name.id, &b.path)));
    found.dedup_by(|next, before| next.name.id == before.name.id);
    Ok(found)
}

// === impl Cgroup ===

impl Cgroup {
    /// Reads the usage. Fails if the cgroup no longer exists.
    pub(crate) fn usage(&self, version: CgroupVersion) -> Result<Usage, FileError> {
        match version {
            CgroupVersion::One => self.usage_of_version_1(),
            CgroupVersion::Two => self.usage_of_version_2(),
        }
    }

    fn usage_of_version_2(&self) -> Result<Usage, FileError> {
        let read = |file: &str| files::read_to_string(&format!("{ROOT}{}/{file}", self.path));
        let cpu = read("cpu.stat")?;
        let known = |file: &str| read(file).unwrap_or_default();
        let number = |file: &str| first_number(&known(file));
        let memory = used(number("memory.current"), keyed(&known("memory.stat"), "inactive_file"));
        let io = known("io.stat");
        Ok(Usage {
            cpu_seconds: keyed(&cpu, "usage_usec") / 1e6,
            cpu_limit: quota(&known("cpu.max")),
            memory_bytes: memory,
            memory_limit_bytes: number("memory.max"),
            read_bytes: io_sum(&io, "rbytes="),
            written_bytes: io_sum(&io, "wbytes="),
            processes: number("pids.current"),
            ..Usage::default()
        })
    }

    fn usage_of_version_1(&self) -> Result<Usage, FileError> {
        let read =
            |controller: &str, file: &str| files::read_to_string(&format!("{ROOT}/{controller}{}/{file}", self.path));
        let memory = read("memory", "memory.usage_in_bytes")?;
        let known = |controller: &str, file: &str| read(controller, file).unwrap_or_default();
        let number = |controller: &str, file: &str| first_number(&known(controller, file));
        let limit = number("memory", "memory.limit_in_bytes");
        let io = known("blkio", "blkio.throttle.io_service_bytes");
        let quota = number("cpu", "cpu.cfs_quota_us") / number("cpu", "cpu.cfs_period_us");
        Ok(Usage {
            cpu_seconds: number("cpuacct", "cpuacct.usage") / 1e9,
            cpu_limit: if quota > 0.0 { quota } else { f64::NAN },
            memory_bytes: used(first_number(&memory), keyed(&known("memory", "memory.stat"), "total_inactive_file")),
            memory_limit_bytes: if limit < UNLIMITED_BYTES { limit } else { f64::NAN },
            read_bytes: operation_sum(&io, "Read"),
            written_bytes: operation_sum(&io, "Write"),
            processes: number("pids", "pids.current"),
            ..Usage::default()
        })
    }
}

/// Returns the number that a file begins with; NaN if it has none, such as `max`.
fn first_number(text: &str) -> f64 {
    text.split_whitespace()
        .next()
        .and_then(|word| word.parse().ok())
        .filter(|n: &f64| n.is_finite())
        .unwrap_or(f64::NAN)
}

/// Returns the number behind a word at the beginning of a line; NaN without such a line.
fn keyed(text: &str, key: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    line.map_or(f64::NAN, first_number)
}

/// Returns the memory without page cache that can be dropped.
fn used(bytes: f64, cache: f64) -> f64 {
    if cache < bytes { bytes - cache } else { bytes }
}

/// Returns the cores of `cpu.max`: `QUOTA PERIOD`. NaN: no limit.
fn quota(text: &str) -> f64 {
    let mut words = text.split_whitespace().map(|word| word.parse::<f64>().unwrap_or(f64::NAN));
    let (quota, period) = (words.next().unwrap_or(f64::NAN), words.next().unwrap_or(f64::NAN));
    quota / period
}

/// Returns the sum of a key's numbers in `io.stat`, one line per device. NaN without any line.
fn io_sum(text: &str, key: &str) -> f64 {
    let numbers = text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<f64>().ok());
    numbers.fold(f64::NAN, |sum, number| if sum.is_nan() { number } else { sum + number })
}

/// Returns the sum of an operation's numbers in a file of version 1: `MAJOR:MINOR OPERATION NUMBER`.
fn operation_sum(text: &str, operation: &str) -> f64 {
    let numbers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == operation).then(|| words.next()?.parse::<f64>().ok()).flatten()
    });
    numbers.fold(f64::NAN, |sum, number| if sum.is_nan() { number } else { sum + number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_cgroups_are_read() {
        assert_eq!(keyed("usage_usec 1500000\nuser_usec 1\n", "usage_usec"), 1_500_000.0);
        assert_eq!((quota("50000 100000\n"), first_number("42\n")), (0.5, 42.0));
        assert!(quota("max 100000\n").is_nan() && first_number("max\n").is_nan() && first_number("").is_nan());
        let io = "8:0 rbytes=10 wbytes=20 rios=1\n254:0 rbytes=5 wbytes=0\n";
        assert_eq!((io_sum(io, "rbytes="), io_sum(io, "wbytes=")), (15.0, 20.0));
        assert!(io_sum("", "rbytes=").is_nan());
        let old = "8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n9:0 Read 1\nTotal 31\n";
        assert_eq!((operation_sum(old, "Read"), operation_sum(old, "Write")), (11.0, 20.0));
        assert_eq!((used(10.0, 4.0), used(10.0, f64::NAN), used(3.0, 4.0)), (6.0, 10.0, 3.0));
    }
}
