//! The memory of the surrounding container: the limit and usage of its control groups.

use crate::memory::{Memory, to_mib};
use dropsonde_guest::files::{self, FileError};

/// The control groups of this process.
pub(crate) const OWN: &str = "/proc/self/cgroup";

/// The files of control groups to read, as globs: those of the root, and of the groups that a container is nested in.
pub(crate) const NEEDED: [&str; 8] = [
    "/sys/fs/cgroup/**/memory.max",
    "/sys/fs/cgroup/**/memory.current",
    "/sys/fs/cgroup/**/memory.stat",
    "/sys/fs/cgroup/**/memory.swap.max",
    "/sys/fs/cgroup/**/memory.swap.current",
    "/sys/fs/cgroup/**/memory.limit_in_bytes",
    "/sys/fs/cgroup/**/memory.usage_in_bytes",
    OWN,
];

/// Version 1 writes "no limit" as the largest number of whole pages, which depends on the page size.
const UNLIMITED_BYTES: u64 = 1 << 62;

/// Most nested groups that are examined. Container runtimes make a handful.
const DEEPEST: usize = 16;

/// The file names of one of the two versions of control groups.
struct Version {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// The name in `memory.stat` of the page cache that the kernel drops when memory is needed.
    inactive: &'static str,
}

const V2: Version =
    Version { root: "/sys/fs/cgroup", limit: "memory.max", used: "memory.current", inactive: "inactive_file" };
const V1: Version = Version {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    inactive: "total_inactive_file",
};

/// Returns the memory of the surrounding container with the smallest limit, if that limit is less than the machine's
/// memory. Swap is the machine's, unless the same group limits it.
pub(crate) fn container(machine: Memory) -> Option<Memory> {
    container_by(machine, &|path| files::read_to_string(path))
}

type Read<'a> = &'a dyn Fn(&str) -> Result<String, FileError>;

fn container_by(machine: Memory, read: Read<'_>) -> Option<Memory> {
    let own = read(OWN).unwrap_or_default();
    let limits =
        [(&V2, own_path(&own, "")), (&V1, own_path(&own, "memory"))].into_iter().flat_map(|(version, path)| {
            let groups = groups(version.root, path.unwrap_or_default());
            groups.into_iter().filter_map(move |group| Some((version, version.limit_mb(&group, read)?, group)))
        });
    let (version, limit_mb, group) = limits.reduce(|least, other| if other.1 < least.1 { other } else { least })?;
    if machine.limit_mb.is_some_and(|machine| machine <= limit_mb) {
        return None;
    }
    let (swap_used_mb, swap_limit_mb) = swap(&group, machine, read);
    Some(Memory { used_mb: version.used_mb(&group, read), limit_mb: Some(limit_mb), swap_used_mb, swap_limit_mb })
}

/// Returns the path after `HIERARCHY:CONTROLLERS:`. In version 2 the controllers are empty.
fn own_path<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|each| each == controller).then_some(path)
    })
}

/// Returns the root, and the groups on the way to this process that belong to containers.
///
/// A systemd unit is not a container: its limit is that of a service, and says nothing about the machine. A unit counts
/// only if a container runs in it; then all groups above it count too.
fn groups(root: &str, path: &str) -> Vec<String> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).take(DEEPEST).collect();
    let is_plain = !segments.iter().any(|segment| matches!(*segment, "." | ".."));
    let innermost = segments.iter().rposition(|segment| is_container(segment)).filter(|_| is_plain);
    let mut group = root.to_owned();
    let mut groups = vec![group.clone()];
    for segment in segments.iter().take(innermost.map_or(0, |innermost| innermost + 1)) {
        group.push('/');
        group.push_str(segment);
        groups.push(group.clone());
    }
    groups
}

fn is_container(segment: &str) -> bool {
    const RUNTIMES: [&str; 10] =
        ["docker", "libpod", "cri-", "crio", "containerd", "kubepods", "lxc", "machine-", "nspawn", "buildkit"];
    let is_unit = [".service", ".slice", ".scope", ".socket", ".mount"].iter().any(|kind| segment.ends_with(kind));
    !is_unit || RUNTIMES.iter().any(|runtime| segment.contains(runtime))
}

/// Returns the used and the allowed swap, in MiB.
fn swap(group: &str, machine: Memory, read: Read<'_>) -> (Option<f64>, Option<f64>) {
    let bytes = |name: &str| read(&format!("{group}/{name}")).ok().and_then(|text| parse_bytes(&text)).map(to_mib);
    match (bytes("memory.swap.max"), bytes("memory.swap.current"), machine.swap_limit_mb) {
        (Some(limit), Some(used), Some(machine)) if limit < machine => (Some(used), Some(limit)),
        _ => (machine.swap_used_mb, machine.swap_limit_mb),
    }
}

/// Parses a number of bytes; `None` if there is no limit.
fn parse_bytes(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED_BYTES)
}

// === impl Version ===

impl Version {
    fn limit_mb(&self, group: &str, read: Read<'_>) -> Option<f64> {
        parse_bytes(&read(&format!("{group}/{}", self.limit)).ok()?).map(to_mib)
    }

    /// Returns the used memory that cannot be dropped at once. If the size of the page cache is unknown, returns all
    /// used memory.
    fn used_mb(&self, group: &str, read: Read<'_>) -> Option<f64> {
        let used = parse_bytes(&read(&format!("{group}/{}", self.used)).ok()?)?;
        let stat = read(&format!("{group}/memory.stat")).unwrap_or_default();
        let inactive = stat.lines().find_map(|line| line.strip_prefix(self.inactive)?.trim().parse().ok());
        Some(to_mib(inactive.and_then(|inactive| used.checked_sub(inactive)).unwrap_or(used)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    const MACHINE: Memory =
        Memory { used_mb: Some(4000.0), limit_mb: Some(8192.0), swap_used_mb: Some(0.0), swap_limit_mb: Some(1024.0) };

    fn of(files: &[(&str, &str)]) -> Option<Memory> {
        let files: BTreeMap<&str, &str> = files.iter().copied().collect();
        container_by(MACHINE, &|path| {
            files.get(path).map(|text| (*text).to_owned()).ok_or_else(|| FileError::NotFound(path.to_owned()))
        })
    }

    fn used_and_limit(files: &[(&str, &str)]) -> Option<(Option<f64>, Option<f64>)> {
        of(files).map(|memory| (memory.used_mb, memory.limit_mb))
    }

    #[test]
    fn a_container_of_version_2_has_its_own_memory_and_the_machines_swap() {
        let memory = of(&[
            ("/sys/fs/cgroup/memory.max", "134217728\n"),
            ("/sys/fs/cgroup/memory.current", "52428800\n"),
            ("/sys/fs/cgroup/memory.stat", "anon 31457280\nfile 20971520\ninactive_file 10485760\n"),
        ]);
        assert_eq!(memory, Some(Memory { used_mb: Some(40.0), limit_mb: Some(128.0), ..MACHINE }));
    }

    #[test]
    fn a_container_of_version_1_has_its_own_memory() {
        let memory = used_and_limit(&[
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "104857600\n"),
            ("/sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 52428800\n"),
        ]);
        assert_eq!(memory, Some((Some(50.0), Some(256.0))));
    }

    #[test]
    fn no_limit_is_written_differently_by_each_version_and_leaves_the_machine() {
        for limit in ["max\n", "9223372036854771712\n", "9223372036854710272\n", "17179869184\n", ""] {
            for path in ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"] {
                assert_eq!(of(&[(path, limit)]), None, "{path} {limit}");
            }
        }
    }

    #[test]
    fn a_container_in_groups_of_the_machine_has_the_smallest_limit_on_the_way_to_it() {
        let pod = "/sys/fs/cgroup/kubepods.slice/kubepods-pod1.slice";
        let own = "/kubepods.slice/kubepods-pod1.slice/cri-containerd-ab12.scope";
        let files = [
            (OWN.to_owned(), format!("0::{own}\n")),
            (format!("/sys/fs/cgroup{own}/memory.max"), "max\n".to_owned()),
            (format!("/sys/fs/cgroup{own}/memory.current"), "1048576\n".to_owned()),
            (format!("{pod}/memory.max"), "536870912\n".to_owned()),
            (format!("{pod}/memory.current"), "209715200\n".to_owned()),
            ("/sys/fs/cgroup/kubepods.slice/memory.max".to_owned(), "4294967296\n".to_owned()),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        assert_eq!(used_and_limit(&files), Some((Some(200.0), Some(512.0))));
    }

    #[test]
    fn a_container_of_version_1_is_found_under_its_own_path() {
        let group = "/sys/fs/cgroup/memory/docker/4f3a";
        let files = [
            (OWN.to_owned(), "5:cpu,cpuacct:/docker/4f3a\n4:memory:/docker/4f3a\n".to_owned()),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned(), "9223372036854771712\n".to_owned()),
            (format!("{group}/memory.limit_in_bytes"), "67108864\n".to_owned()),
            (format!("{group}/memory.usage_in_bytes"), "33554432\n".to_owned()),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
        assert_eq!(used_and_limit(&files), Some((Some(32.0), Some(64.0))));
    }

    #[test]
    fn the_limit_of_our_own_service_is_not_the_machines() {
        let files = [(OWN, "0::/system.slice/dropsonde.service\n")];
        let service = "/sys/fs/cgroup/system.slice/dropsonde.service/memory.max";
        assert_eq!(
            of(&[files[0], (service, "268435456\n"), ("/sys/fs/cgroup/system.slice/memory.max", "1048576\n")]),
            None
        );
        let groups = groups("/g", "/lxc.payload.web/system.slice/dropsonde.service");
        assert_eq!(groups, ["/g", "/g/lxc.payload.web"], "a service in a container");
    }

    #[test]
    fn a_container_whose_use_cannot_be_read_has_a_limit_and_no_use() {
        let memory = used_and_limit(&[("/sys/fs/cgroup/memory.max", "134217728\n")]);
        assert_eq!(memory, Some((None, Some(128.0))));
        let impossible = used_and_limit(&[
            ("/sys/fs/cgroup/memory.max", "134217728\n"),
            ("/sys/fs/cgroup/memory.current", "1048576\n"),
            ("/sys/fs/cgroup/memory.stat", "inactive_file 2097152\n"),
        ]);
        assert_eq!(impossible, Some((Some(1.0), Some(128.0))), "more cache than memory");
    }

    #[test]
    fn swap_is_the_containers_where_its_group_limits_it() {
        let memory = of(&[
            ("/sys/fs/cgroup/memory.max", "134217728\n"),
            ("/sys/fs/cgroup/memory.swap.max", "67108864\n"),
            ("/sys/fs/cgroup/memory.swap.current", "1048576\n"),
        ]);
        let swap = memory.map(|memory| (memory.swap_used_mb, memory.swap_limit_mb));
        assert_eq!(swap, Some((Some(1.0), Some(64.0))));
    }

    #[test]
    fn a_path_out_of_the_control_groups_is_not_followed() {
        assert_eq!(groups("/g", "/docker/../../etc"), ["/g"]);
        assert_eq!(groups("/g", ""), ["/g"]);
    }
}
