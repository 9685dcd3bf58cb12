//! The rows of the host, of its interfaces and of its disks.

use crate::config::Settings;
use crate::disks::{self, BlockDevice};
use crate::mounts::{self, Mount};
use crate::names::sanitised;
use crate::net::{self, Link};
use crate::row::Row;
use crate::shared::TickFiles;
use crate::sysfs::Known;
use crate::totals::Totals;
use crate::{clock, cpu, memory};
use dropsonde_guest::{Failure, Instance};
use std::collections::BTreeSet;

/// The id of the host's instance.
pub(crate) const ID: &str = "host";

const INTERFACE: &str = "interface-";
const DISK: &str = "disk-";

/// Most interfaces that become instances, and most disks.
const MOST_DEVICES: usize = 256;

/// The properties of this machine's devices in /sys.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    links: Known<Link>,
    blocks: Known<BlockDevice>,
}

/// Reads the host. If a file cannot be read, its fields have no value. If no file can be read, the result is a failure,
/// and a denial comes before any other failure. `processes` is the number of processes, if it is known this time.
pub(crate) fn row(
    settings: &Settings,
    shared: &mut TickFiles,
    devices: &mut Devices,
    totals: &mut Totals,
    processes: Result<Option<usize>, Failure>,
) -> Result<Row, Failure> {
    let mut row = Row::default();
    let (moment, stat) = (shared.moment(), shared.stat());
    row.cpu_seconds = stat.and_then(|stat| totals.cpu().update(&stat, moment));
    let memory = shared.memory();
    row.memory_used_mb = memory.used_mb;
    row.memory_limit_mb = memory.limit_mb;
    row.swap_used_mb = memory.swap_used_mb;
    row.swap_limit_mb = memory.swap_limit_mb;
    let results = [
        shared.text(cpu::STAT).map(drop),
        shared.text(memory::MEMINFO).map(drop),
        shared.text(net::DEV).map(|text| {
            if let Some(interfaces) = net::parse(text) {
                let counted = devices.leading_out(&interfaces);
                let (received, sent) = totals.traffic(&counted);
                (row.network_in_bytes, row.network_out_bytes) = (Some(received as f64), Some(sent as f64));
            }
        }),
        shared.text(clock::LOADAVG).map(|text| [row.load_1m, row.load_5m, row.load_15m] = clock::parse_loadavg(text)),
        shared.uptime().map(|uptime| row.uptime_seconds = uptime),
        shared.text(disks::DISKSTATS).map(|text| {
            let disks = devices.physical(&disks::parse(text));
            // Without a visible physical disk, as in many containers, there is no value, rather than zero.
            if !disks.is_empty() {
                let (read, written) = totals.transfers(&disks);
                (row.disk_read_bytes, row.disk_written_bytes) = (Some(read as f64), Some(written as f64));
            }
        }),
        processes.map(|processes| row.processes = processes.map(|processes| processes as f64)),
    ];
    let mut failures: Vec<Failure> = results.into_iter().filter_map(Result::err).collect();
    if let Some(root) = settings.mounts.iter().find(|mount| !Mount::is_instance(mount)) {
        failures.extend(mounts::fill_space(&mut row, &root.path).err());
    }
    if row == Row::default() { Err(worst(failures)) } else { Ok(row) }
}

fn worst(failures: Vec<Failure>) -> Failure {
    let denied = failures.iter().position(|failure| matches!(failure, Failure::Denied(_)));
    let nothing = || Failure::unavailable("no file in /proc could be understood");
    failures.into_iter().nth(denied.unwrap_or(0)).unwrap_or_else(nothing)
}

/// Returns the configured interfaces that exist.
pub(crate) fn interfaces(
    settings: &Settings,
    shared: &mut TickFiles,
    devices: &mut Devices,
) -> Result<Vec<Instance>, Failure> {
    if settings.interfaces.is_empty() {
        return Ok(Vec::new());
    }
    let interfaces = net::parse(shared.text(net::DEV)?).unwrap_or_default();
    let physical: BTreeSet<&str> = devices.leading_out(&interfaces).into_iter().map(|(name, _)| name).collect();
    let names = interfaces.keys().filter(|name| settings.interfaces.have(name, physical.contains(*name)));
    Ok(names.take(MOST_DEVICES).map(|name| instance(INTERFACE, "interface", name)).collect())
}

/// Returns the configured disks that exist.
pub(crate) fn disks(
    settings: &Settings,
    shared: &mut TickFiles,
    devices: &mut Devices,
) -> Result<Vec<Instance>, Failure> {
    if settings.disks.is_empty() {
        return Ok(Vec::new());
    }
    let disks = disks::parse(shared.text(disks::DISKSTATS)?);
    let physical: BTreeSet<&str> = devices.physical(&disks).into_iter().map(|(name, _)| name).collect();
    // A disk with several paths is one disk, whichever of them counts.
    let is_disk = |name: &str| physical.contains(name) || disks::has_counted_paths(name, &physical);
    let is_one = |name: &&&str| settings.disks.have(name, is_disk(name) && disks::disk_of_path(name).is_none());
    Ok(disks.keys().filter(is_one).take(MOST_DEVICES).map(|name| instance(DISK, "disk", name)).collect())
}

fn instance(prefix: &str, kind: &str, name: &str) -> Instance {
    Instance::new(format!("{prefix}{}", sanitised(name))).label("kind", kind).label(kind, name)
}

/// Returns the row of an interface or disk; `None` if the id belongs to another kind of instance.
pub(crate) fn device_row(id: &str, shared: &mut TickFiles) -> Option<Result<Row, Failure>> {
    if let Some(wanted) = id.strip_prefix(INTERFACE) {
        return Some(shared.text(net::DEV).and_then(|text| {
            let interfaces = net::parse(text).unwrap_or_default();
            let traffic = interfaces.into_iter().find(|(name, _)| sanitised(name) == wanted);
            let (_, traffic) = traffic.ok_or(Failure::Gone)?;
            let (received, sent) = (Some(traffic.received as f64), Some(traffic.sent as f64));
            Ok(Row { network_in_bytes: received, network_out_bytes: sent, ..Row::default() })
        }));
    }
    let wanted = id.strip_prefix(DISK)?;
    Some(shared.text(disks::DISKSTATS).and_then(|text| {
        let disks = disks::parse(text);
        let name = disks.keys().find(|name| sanitised(name) == wanted).ok_or(Failure::Gone)?;
        let moved = disks::of(name, &disks).ok_or(Failure::Gone)?;
        let (read, written) = (Some(moved.read as f64), Some(moved.written as f64));
        Ok(Row { disk_read_bytes: read, disk_written_bytes: written, ..Row::default() })
    }))
}

// === impl Devices ===

impl Devices {
    /// Returns the interfaces at which packets enter and leave the machine.
    fn leading_out<'a>(
        &mut self,
        interfaces: &std::collections::BTreeMap<&'a str, net::Traffic>,
    ) -> Vec<(&'a str, net::Traffic)> {
        let names = interfaces.keys().copied().collect();
        self.links.refresh(&names, net::ask);
        let counted = net::leading_out(&names, &self.links);
        interfaces.iter().filter(|(name, _)| counted.contains(*name)).map(|(name, moved)| (*name, *moved)).collect()
    }

    /// Returns the devices at which data reaches a disk.
    fn physical<'a>(
        &mut self,
        disks: &std::collections::BTreeMap<&'a str, disks::Transfers>,
    ) -> Vec<(&'a str, disks::Transfers)> {
        self.blocks.refresh(&disks.keys().copied().collect(), disks::ask);
        let counted = disks::physical(disks, &self.blocks);
        disks.iter().filter(|(name, _)| counted.contains(*name)).map(|(name, moved)| (*name, *moved)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(texts: &[(&'static str, &'static str)]) -> TickFiles {
        let paths = [cpu::STAT, memory::MEMINFO, net::DEV, clock::UPTIME, disks::DISKSTATS, clock::LOADAVG];
        TickFiles::given(paths.into_iter().map(|path| {
            let text = texts.iter().find(|(given, _)| *given == path).map(|(_, text)| *text);
            (path, text.ok_or_else(|| Failure::unavailable("not found")))
        }))
    }

    fn read(shared: &mut TickFiles) -> Result<Row, Failure> {
        let settings = Settings { mounts: Vec::new(), ..Settings::default() };
        row(&settings, shared, &mut Devices::default(), &mut Totals::default(), Ok(None))
    }

    #[test]
    fn one_file_is_enough_for_a_reading() {
        let row = read(&mut given(&[(clock::LOADAVG, "1.5 2.5 3.5 1/100 4242\n")])).unwrap();
        let loads = Row { load_1m: Some(1.5), load_5m: Some(2.5), load_15m: Some(3.5), ..Row::default() };
        assert_eq!(Row { memory_limit_mb: None, memory_used_mb: None, ..row }, loads);
    }

    #[test]
    fn a_refusal_explains_an_empty_reading_better_than_a_missing_file() {
        let denied = Failure::Denied("/proc/loadavg: not granted".to_owned());
        assert_eq!(worst(vec![Failure::unavailable("not found"), denied.clone()]), denied);
        assert_eq!(worst(vec![Failure::unavailable("not found")]), Failure::unavailable("not found"));
        assert!(matches!(worst(Vec::new()), Failure::Unavailable(_)));
    }

    #[test]
    fn a_machine_with_only_a_loopback_moves_nothing() {
        let row = read(&mut given(&[(net::DEV, "    lo: 999 1 0 0 0 0 0 0 999 1 0 0 0 0 0 0\n")])).unwrap();
        assert_eq!((row.network_in_bytes, row.network_out_bytes), (Some(0.0), Some(0.0)));
    }

    #[test]
    fn without_a_physical_disk_there_is_no_number_rather_than_zero() {
        let shared = &mut given(&[(disks::DISKSTATS, "7 0 loop0 1 0 8 0 0 0 0 0 0 0 0\n"), (clock::LOADAVG, "1 1 1")]);
        let row = read(shared).unwrap();
        assert_eq!((row.disk_read_bytes, row.disk_written_bytes), (None, None));
    }

    #[test]
    fn an_interface_and_a_disk_have_their_own_rows_until_they_are_gone() {
        let dev = "eth0: 5 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0\n";
        let shared = &mut given(&[(net::DEV, dev), (disks::DISKSTATS, "8 0 sda 1 0 2 0 1 0 4 0 0 0 0\n")]);
        let row = device_row("interface-eth0", shared).unwrap().unwrap();
        assert_eq!((row.network_in_bytes, row.network_out_bytes), (Some(5.0), Some(7.0)));
        let row = device_row("disk-sda", shared).unwrap().unwrap();
        assert_eq!((row.disk_read_bytes, row.disk_written_bytes), (Some(1024.0), Some(2048.0)));
        assert_eq!(device_row("interface-eth1", shared), Some(Err(Failure::Gone)));
        assert_eq!(device_row("disk-sdb", shared), Some(Err(Failure::Gone)));
        assert_eq!(device_row("nginx", shared), None);
    }
}
