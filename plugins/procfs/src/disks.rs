//! Parses /proc/diskstats and reads /sys/block: the bytes read from and written to physical disks.

use crate::sysfs::{Folder, Known};
use dropsonde_guest::files;
use std::collections::{BTreeMap, BTreeSet};

pub(crate) const DISKSTATS: &str = "/proc/diskstats";

/// The files in /sys to read, as globs. /sys/block has symlinks to the real places of devices, which for NVMe are not
/// in a folder `block`.
pub(crate) const NEEDED: [&str; 9] = [
    "/sys/block/*",
    "/sys/block/*/slaves",
    "/sys/block/*/hidden",
    "/sys/devices/**/block/*",
    "/sys/devices/**/block/*/slaves",
    "/sys/devices/**/block/*/hidden",
    "/sys/devices/**/nvme*/nvme*",
    "/sys/devices/**/nvme*/nvme*/slaves",
    "/sys/devices/**/nvme*/nvme*/hidden",
];

/// The kernel counts in sectors of this size, whatever the disk's own sectors are
/// (Documentation/admin-guide/iostats.rst).
const SECTOR_BYTES: u64 = 512;

/// Prefixes of devices that are not disks, or that pass everything on to other devices, which are counted.
const NOT_PHYSICAL: [&str; 10] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "bcache", "drbd", "zd"];

/// Prefixes of drives with removable media. They have a `device`, but do not count as disks.
const REMOVABLE: [&str; 2] = ["sr", "fd"];

/// Bytes since boot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Transfers {
    pub(crate) read: u64,
    pub(crate) written: u64,
}

/// The properties of a block device in /sys.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BlockDevice {
    has_device: bool,
    /// Whether it is made of other devices.
    has_slaves: bool,
    is_hidden: bool,
}

/// Parses the block devices of a machine, by name.
pub(crate) fn parse(text: &str) -> BTreeMap<&str, Transfers> {
    text.lines().filter_map(device).collect()
}

/// Parses one line: major, minor, name, reads (count, merged, sectors, ms), writes (the same), and more.
fn device(line: &str) -> Option<(&str, Transfers)> {
    let mut words = line.split_whitespace().skip(2);
    let name = words.next()?;
    let mut columns = words.map(str::parse::<u64>);
    let read = columns.nth(2)?.ok()?.saturating_mul(SECTOR_BYTES);
    let written = columns.nth(3)?.ok()?.saturating_mul(SECTOR_BYTES);
    Some((name, Transfers { read, written }))
}

/// Reads the properties of one device from /sys. `None` also for a partition, which is in its disk's folder.
pub(crate) fn ask(name: &str) -> Option<BlockDevice> {
    // A machine has dozens of these, and none of them is a disk.
    if ["loop", "ram"].iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let path = format!("/sys/block/{name}");
    let folder = Folder::list(&path)?;
    let has_slaves =
        folder.has("slaves") && Folder::list(&format!("{path}/slaves")).is_some_and(|made| !made.is_empty());
    let hidden = || files::read_to_string(&format!("{path}/hidden")).unwrap_or_default();
    let is_hidden = folder.has("hidden") && hidden().trim() == "1";
    Some(BlockDevice { has_device: folder.has("device"), has_slaves, is_hidden })
}

/// Returns the devices to count, so that each byte that reaches a physical disk is counted once.
///
/// With /sys, a disk is a device that has a `device` and is not made of other devices. Without /sys, and for a disk
/// without a `device` (from the network), the name decides. If a disk is reached by several paths, either the disk
/// counts the traffic or its paths do.
pub(crate) fn physical<'a>(devices: &BTreeMap<&'a str, Transfers>, known: &Known<BlockDevice>) -> BTreeSet<&'a str> {
    let is_disk = |name: &str| match known.get(name) {
        Some(block) if block.has_slaves || block.is_hidden => false,
        Some(block) if block.has_device => !REMOVABLE.iter().any(|prefix| name.starts_with(prefix)),
        _ => is_physical(name) && !is_partition(name, devices),
    };
    let moved_nothing = |name: &str| devices.get(name).is_none_or(|moved| *moved == Transfers::default());
    let counts = |name: &str| match disk_of_path(name) {
        Some(disk) => moved_nothing(&disk),
        None => is_disk(name) && !(moved_nothing(name) && has_paths(name, devices)),
    };
    devices.keys().copied().filter(|name| counts(name)).collect()
}

/// Returns the bytes that one device moved. For a disk that leaves counting to its paths, returns the sum over the
/// paths.
pub(crate) fn of(name: &str, devices: &BTreeMap<&str, Transfers>) -> Option<Transfers> {
    let own = devices.get(name).copied()?;
    if own != Transfers::default() {
        return Some(own);
    }
    let paths = devices.iter().filter(|(path, _)| disk_of_path(path).as_deref() == Some(name));
    Some(paths.fold(own, |sum, (_, moved)| Transfers {
        read: sum.read.saturating_add(moved.read),
        written: sum.written.saturating_add(moved.written),
    }))
}

/// Returns whether one of the counted devices is a path to the disk.
pub(crate) fn has_counted_paths(name: &str, counted: &BTreeSet<&str>) -> bool {
    counted.iter().any(|path| disk_of_path(path).as_deref() == Some(name))
}

/// Returns the disk of a path: nvme0c1n1 is a path to nvme0n1.
pub(crate) fn disk_of_path(name: &str) -> Option<String> {
    let (subsystem, rest) = name.strip_prefix("nvme")?.split_once('c')?;
    let (controller, namespace) = rest.split_once('n')?;
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    [subsystem, controller, namespace].into_iter().all(is_number).then(|| format!("nvme{subsystem}n{namespace}"))
}

fn has_paths(name: &str, devices: &BTreeMap<&str, Transfers>) -> bool {
    devices.keys().any(|path| disk_of_path(path).as_deref() == Some(name))
}

fn is_physical(name: &str) -> bool {
    !NOT_PHYSICAL.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns whether a name is that of a partition of a listed disk. The kernel names a partition after its disk and a
/// number, with a `p` between if the disk's name ends in a digit: sda1, nvme0n1p1. So nvme0n10 is not a partition of
/// nvme0n1.
fn is_partition(name: &str, devices: &BTreeMap<&str, Transfers>) -> bool {
    let disk_or_p = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if disk_or_p.len() == name.len() {
        return false;
    }
    let disk_ending_in_digit = disk_or_p.strip_suffix('p').filter(|disk| disk.ends_with(|c: char| c.is_ascii_digit()));
    devices.contains_key(disk_ending_in_digit.unwrap_or(disk_or_p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(text: &str) -> Vec<&str> {
        physical(&parse(text), &Known::default()).into_iter().collect()
    }

    fn line(name: &str, read: u64, written: u64) -> String {
        format!("8 0 {name} 1 0 {read} 0 1 0 {written} 0 0 0 0\n")
    }

    fn seen(blocks: &[(&str, BlockDevice)]) -> Vec<String> {
        let text: String = blocks.iter().map(|(name, _)| line(name, 1, 1)).collect();
        let devices = parse(&text);
        let mut known = Known::default();
        known.refresh(&devices.keys().copied().collect(), |name| {
            blocks.iter().find(|(other, _)| *other == name).map(|(_, block)| *block)
        });
        physical(&devices, &known).into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn by_name_whole_disks_count_and_neither_partitions_nor_what_is_stacked_on_them() {
        let text = include_str!("../testdata/diskstats");
        assert_eq!(named(text), ["mmcblk0", "nvme0n1", "nvme0n10", "sda", "sdb"]);
        assert_eq!(parse(text)["sda"], Transfers { read: 1000 * 512, written: 2000 * 512 });
    }

    #[test]
    fn a_partition_whose_disk_is_not_listed_counts_by_itself() {
        assert_eq!(named(&line("xvda1", 80, 160)), ["xvda1"]);
    }

    #[test]
    fn a_line_that_is_no_device_is_passed_over() {
        for text in ["", "8 0 sda 1 0 x 0 1 0 8 0\n", "8 0 sda 1 2\n"] {
            assert_eq!(parse(text), BTreeMap::new(), "{text:?}");
        }
        let most = u64::MAX;
        assert_eq!(parse(&line("sda", most, most))["sda"], Transfers { read: most, written: most });
    }

    #[test]
    fn a_disk_on_several_paths_counts_at_the_disk_or_at_its_paths_but_not_at_both() {
        let silent = line("nvme0c0n1", 20, 40) + &line("nvme0c1n1", 1, 2) + &line("nvme0n1", 0, 0);
        assert_eq!(named(&silent), ["nvme0c0n1", "nvme0c1n1"]);
        assert_eq!(of("nvme0n1", &parse(&silent)), Some(Transfers { read: 21 * 512, written: 42 * 512 }));
        let both = line("nvme0c0n1", 20, 40) + &line("nvme0n1", 20, 40);
        assert_eq!(named(&both), ["nvme0n1"]);
        assert_eq!(of("nvme0n1", &parse(&both)), Some(Transfers { read: 20 * 512, written: 40 * 512 }));
        assert_eq!(named(&line("nvme0c0n1", 20, 40)), ["nvme0c0n1"], "the disk is not listed");
        assert_eq!(named(&line("nvme0n1", 0, 0)), ["nvme0n1"], "one that was never used");
        assert_eq!(of("sda", &parse(&both)), None);
    }

    #[test]
    fn sysfs_tells_disks_from_what_is_made_of_them_whatever_it_is_called() {
        let disk = BlockDevice { has_device: true, ..BlockDevice::default() };
        let made = BlockDevice { has_slaves: true, ..BlockDevice::default() };
        let blocks = [
            ("vda", disk),
            ("cas1-1", made),
            ("sdx", made),
            ("mdfast", disk),
            ("sr0", disk),
            ("sdy", BlockDevice { is_hidden: true, ..disk }),
            ("zram0", BlockDevice::default()),
            ("nbd0", BlockDevice::default()),
        ];
        assert_eq!(seen(&blocks), ["mdfast", "nbd0", "vda"]);
    }
}
