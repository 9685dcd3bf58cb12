//! The memory that this process may have. By default, pools of bytes are sized by it.

use rustix::process::{Resource, getrlimit};
use std::fs;
use std::path::Path;
use std::thread::available_parallelism;

/// Returns the default size of a pool, in bytes: an eighth of the `available` bytes, at least 32 MiB and at most 256
/// MiB.
pub fn default_pool_bytes(available: usize) -> usize {
    const LEAST: usize = 32 << 20;
    const MOST: usize = 256 << 20;
    (available / 8).clamp(LEAST, MOST)
}

/// Returns the default size of all unfinished answers, in bytes: an eighth of the `available` bytes, at least 32 MiB and
/// at most 1 GiB.
pub fn default_answer_bytes(available: usize) -> usize {
    const LEAST: usize = 32 << 20;
    const MOST: usize = 1 << 30;
    (available / 8).clamp(LEAST, MOST)
}

/// Returns the bytes of memory that this process may have: the least of the machine's memory, the limits of the
/// process's cgroups, and a quarter of its limit of address space. The other three quarters are for code, stacks, and
/// the address space that plugins reserve.
pub fn available() -> usize {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = groups.lines().filter_map(|group| least_of_group(Path::new("/sys/fs/cgroup"), group));
    let least = machine.into_iter().chain(groups).chain(address_space().map(|bytes| bytes / 4)).min();
    least.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(usize::MAX)
}

/// Returns the limit of this process's address space (`ulimit -v`), in bytes; none if there is no limit.
pub fn address_space() -> Option<u64> {
    getrlimit(Resource::As).current
}

/// Returns the address space that this process has mapped now, in bytes.
pub fn mapped() -> Option<u64> {
    of_line(&fs::read_to_string("/proc/self/status").ok()?, "VmSize:")
}

/// Returns the memory that this process occupies, in bytes.
pub fn resident() -> Option<u64> {
    of_line(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Makes the C library's allocator keep less free memory than by default. Called before there are threads.
///
/// By default there are eight arenas for every processor, and each keeps holes between pieces that stay. With 100 000
/// instances that come and go, a third of the memory was holes. Each arena also reserves 64 MiB of address space, which
/// counts where that is limited. Besides, once a large piece was freed, the default places further large pieces among
/// the small ones.
#[cfg(target_env = "gnu")]
pub fn limit_arenas() {
    /// One arena for the main thread, and one for all other threads.
    const FEWEST: usize = 2;
    /// A piece of at least so many bytes is mapped by itself, and goes back to the kernel when it is freed.
    const LARGE: i32 = 1 << 20;
    /// Bytes that may stay free at the end of an arena.
    const SPARE: i32 = 8 << 20;
    let processors =
        if address_space().is_some() { FEWEST } else { available_parallelism().map_or(FEWEST, usize::from) };
    let arenas = i32::try_from(processors.max(FEWEST)).unwrap_or(i32::MAX);
    set(libc::M_ARENA_MAX, arenas);
    set(libc::M_MMAP_THRESHOLD, LARGE);
    set(libc::M_TRIM_THRESHOLD, SPARE);
}

#[cfg(not(target_env = "gnu"))]
pub fn limit_arenas() {}

/// Gives free memory of the C library's allocator back to the kernel, also the holes between pieces that stay.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "malloc_trim is a function of the C library; it takes a number")]
pub fn trim() {
    // SAFETY: malloc_trim takes no pointers, and locks each arena while it works on it.
    unsafe {
        // The result only says whether any memory was given back.
        let _ = libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
pub fn trim() {}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "mallopt is a function of the C library; it takes two numbers")]
fn set(parameter: libc::c_int, value: i32) {
    // SAFETY: mallopt takes no pointers, and changes a setting of the allocator under the allocator's own lock.
    unsafe {
        // If it fails, the process only uses more memory.
        let _ = libc::mallopt(parameter, value);
    }
}

/// Returns `MemTotal` of /proc/meminfo, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    of_line(meminfo, "MemTotal:")
}

/// Returns the bytes that the line of a name states in kilobytes.
fn of_line(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns the least limit of memory, in bytes, of a group in /proc/self/cgroup and of the groups above it, for either
/// version of cgroups.
fn least_of_group(root: &Path, group: &str) -> Option<u64> {
    let mut parts = group.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let (root, file) = match controllers {
        "" => (root.to_owned(), "memory.max"),
        "memory" => (root.join("memory"), "memory.limit_in_bytes"),
        _ => return None,
    };
    let own = root.join(path.trim_start_matches('/'));
    // In a container the path may be that of the machine outside. Then the container's own limit is at the root.
    let groups = own.ancestors().take_while(|folder| folder.starts_with(&root));
    groups.filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_pool_is_an_eighth_of_the_memory_within_bounds() {
        assert_eq!([0, 1 << 30, usize::MAX].map(default_pool_bytes), [32 << 20, 128 << 20, 256 << 20]);
    }

    #[test]
    fn memory_is_parsed_from_meminfo() {
        assert_eq!(total("MemTotal:        2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert!(available() > 1 << 20 && mapped().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn the_lowest_memory_limit_of_a_cgroup_and_its_parents_applies() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("system.slice/own.service");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("memory.max"), "max\n").unwrap();
        assert_eq!(least_of_group(root.path(), "0::/system.slice/own.service"), None);
        fs::write(root.path().join("system.slice/memory.max"), "1000\n").unwrap();
        assert_eq!(least_of_group(root.path(), "0::/system.slice/own.service"), Some(1000));
        fs::write(own.join("memory.max"), "10\n").unwrap();
        assert_eq!(least_of_group(root.path(), "0::/system.slice/own.service"), Some(10));
        fs::create_dir(root.path().join("memory")).unwrap();
        fs::write(root.path().join("memory/memory.limit_in_bytes"), "77\n").unwrap();
        assert_eq!(least_of_group(root.path(), "4:memory:/docker/of-the-machine"), Some(77));
        assert_eq!(least_of_group(root.path(), "1:cpu:/"), None);
    }
}
