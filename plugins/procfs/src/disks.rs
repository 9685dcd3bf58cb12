//! /proc/diskstats: the bytes read from and written to physical disks.

use std::collections::BTreeSet;

pub(crate) const DISKSTATS: &str = "/proc/diskstats";

/// The kernel counts in these whatever the disk's own sectors are (Documentation/admin-guide/iostats.rst).
const SECTOR_BYTES: u64 = 512;

/// Devices that are no disk, or that pass everything on to other devices that are counted.
const NOT_PHYSICAL: [&str; 10] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "bcache", "drbd", "zd"];

/// Bytes since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transfers {
    pub(crate) read: u64,
    pub(crate) written: u64,
}

/// The sum over whole disks; `None` when there is none to be seen, as in many containers.
pub(crate) fn parse(text: &str) -> Option<Transfers> {
    let devices: Vec<_> = text.lines().filter_map(device).collect();
    let names: BTreeSet<&str> = devices.iter().map(|(name, _)| *name).collect();
    let disks = devices.iter().filter(|(name, _)| is_physical(name) && !is_partition(name, &names));
    disks.map(|(_, transfers)| *transfers).reduce(|sum, disk| Transfers {
        read: sum.read.saturating_add(disk.read),
        written: sum.written.saturating_add(disk.written),
    })
}

/// One line: major, minor, name, reads (count, merged, sectors, ms), writes (the same), and more.
fn device(line: &str) -> Option<(&str, Transfers)> {
    let mut words = line.split_whitespace().skip(2);
    let name = words.next()?;
    let mut columns = words.map(str::parse::<u64>);
    let read = columns.nth(2)?.ok()?.saturating_mul(SECTOR_BYTES);
    let written = columns.nth(3)?.ok()?.saturating_mul(SECTOR_BYTES);
    Some((name, Transfers { read, written }))
}

fn is_physical(name: &str) -> bool {
    // nvme0c1n1 is one path to nvme0n1.
    let nvme_path = name.strip_prefix("nvme").is_some_and(|rest| rest.contains('c'));
    !nvme_path && !NOT_PHYSICAL.iter().any(|prefix| name.starts_with(prefix))
}

/// The kernel names a partition after its disk and a number, with a `p` between when the disk's own name ends in a
/// digit: sda1, nvme0n1p1. So nvme0n10 is no partition of nvme0n1.
fn is_partition(name: &str, names: &BTreeSet<&str>) -> bool {
    let disk_or_p = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if disk_or_p.len() == name.len() {
        return false;
    }
    let disk_ending_in_digit = disk_or_p.strip_suffix('p').filter(|disk| disk.ends_with(|c: char| c.is_ascii_digit()));
    names.contains(disk_ending_in_digit.unwrap_or(disk_or_p))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_disks_count_once_and_neither_their_partitions_nor_what_is_stacked_on_them() {
        let transfers = parse(include_str!("../testdata/diskstats")).unwrap();
        // sda, sdb, nvme0n1, nvme0n10 and mmcblk0
        assert_eq!(
            transfers,
            Transfers { read: (1000 + 200 + 30 + 4 + 8) * 512, written: (2000 + 400 + 60 + 8 + 16) * 512 }
        );
    }

    #[test]
    fn a_partition_whose_disk_is_not_listed_counts_by_itself() {
        let text = " 202       1 xvda1 10 0 80 5 20 0 160 9 0 10 14\n";
        assert_eq!(parse(text), Some(Transfers { read: 80 * 512, written: 160 * 512 }));
    }

    #[test]
    fn without_a_physical_disk_there_is_no_number_rather_than_zero() {
        for text in
            ["", "   7       0 loop0 1 0 8 0 0 0 0 0 0 0 0\n", "   8       0 sda 1 0 x 0 1 0 8 0\n", "8 0 sda 1 2\n"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn counters_at_their_end_do_not_overflow() {
        let most = u64::MAX;
        let text = format!("8 0 sda {most} {most} {most} {most} {most} {most} {most}\n8 16 sdb 1 0 1 0 1 0 1\n");
        assert_eq!(parse(&text), Some(Transfers { read: most, written: most }));
    }
}
