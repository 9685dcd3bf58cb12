//! What the machine has, as far as this process may use it.

use rustix::process::{Resource, getrlimit};
use std::fs;
use std::path::Path;

/// Bytes of memory, where nothing says how many there are.
const UNKNOWN: u64 = 1 << 30;

/// Bytes of memory: those of the machine, or fewer where a control group or `ulimit -v` allows fewer.
pub(crate) fn memory_bytes() -> u64 {
    let limit = getrlimit(Resource::As).current;
    [machine(), control_group(), limit].into_iter().flatten().min().unwrap_or(UNKNOWN)
}

fn machine() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least that any of the groups this process is in allows.
fn control_group() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let groups = text.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        match controllers {
            "" => Some(("/sys/fs/cgroup", path, "memory.max")),
            _ if controllers.split(',').any(|one| one == "memory") => {
                Some(("/sys/fs/cgroup/memory", path, "memory.limit_in_bytes"))
            }
            _ => None,
        }
    });
    let limits = groups.flat_map(|(root, path, file)| {
        Path::new(path).ancestors().filter_map(move |group| {
            let group = Path::new(root).join(group.strip_prefix("/").unwrap_or(group));
            fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok()
        })
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_some_memory_and_no_more_than_the_machine_has() {
        let bytes = memory_bytes();
        assert!(bytes >= 16 << 20, "{bytes}");
        assert!(machine().is_some_and(|all| bytes <= all));
    }
}
