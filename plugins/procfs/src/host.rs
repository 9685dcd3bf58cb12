//! The host's own row.

use crate::config::Settings;
use crate::mounts::{self, Mount};
use crate::row::Row;
use crate::shared::Shared;
use crate::{clock, cpu, disks, memory, net, process};
use dropsonde_guest::Failure;

/// The id of the host's instance.
pub(crate) const ID: &str = "host";

/// Reads the host. A file that cannot be read leaves its fields without a signal; a host of which nothing can be read
/// is a failure, a refusal before any other.
pub(crate) fn row(settings: &Settings, shared: &mut Shared) -> Result<Row, Failure> {
    let mut row = Row::default();
    let results = [
        shared.text(cpu::STAT).map(|text| row.cpu_seconds = cpu::parse_busy_seconds(text)),
        shared.text(memory::MEMINFO).map(|text| {
            let memory = memory::parse(text);
            row.memory_used_mb = memory.used_mb;
            row.swap_used_mb = memory.swap_used_mb;
            row.swap_limit_mb = memory.swap_limit_mb;
        }),
        shared.text(net::DEV).map(|text| {
            let traffic = net::parse(text);
            row.network_in_bytes = traffic.map(|traffic| traffic.received as f64);
            row.network_out_bytes = traffic.map(|traffic| traffic.sent as f64);
        }),
        shared.text(clock::LOADAVG).map(|text| [row.load_1m, row.load_5m, row.load_15m] = clock::parse_loadavg(text)),
        shared.uptime().map(|uptime| row.uptime_seconds = uptime),
        shared.text(disks::DISKSTATS).map(|text| {
            let transfers = disks::parse(text);
            row.disk_read_bytes = transfers.map(|transfers| transfers.read as f64);
            row.disk_written_bytes = transfers.map(|transfers| transfers.written as f64);
        }),
        process::pids().map(|pids| row.processes = Some(pids.len() as f64)),
    ];
    let mut failures: Vec<Failure> = results.into_iter().filter_map(Result::err).collect();
    if let Some(root) = settings.mounts.iter().find(|mount| !Mount::is_instance(mount)) {
        failures.extend(mounts::fill_space(&mut row, &root.path).err());
    }
    row.memory_limit_mb = shared.memory_limit_mb();
    if row == Row::default() { Err(worst(failures)) } else { Ok(row) }
}

fn worst(failures: Vec<Failure>) -> Failure {
    let denied = failures.iter().position(|failure| matches!(failure, Failure::Denied(_)));
    let nothing = || Failure::unavailable("no file in /proc could be understood");
    failures.into_iter().nth(denied.unwrap_or(0)).unwrap_or_else(nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host_with_only(loadavg: Result<&'static str, Failure>) -> Shared {
        let missing = |path| (path, Err(Failure::unavailable("not found")));
        let mut texts = vec![missing(cpu::STAT), missing(memory::MEMINFO), missing(net::DEV), missing(clock::UPTIME)];
        texts.extend(memory::LIMITS.map(missing));
        texts.extend([missing(disks::DISKSTATS), (clock::LOADAVG, loadavg)]);
        Shared::given(texts)
    }

    #[test]
    fn one_file_is_enough_for_a_reading() {
        let row = row(&Settings::default(), &mut host_with_only(Ok("1.5 2.5 3.5 1/100 4242\n"))).unwrap();
        let loads = Row { load_1m: Some(1.5), load_5m: Some(2.5), load_15m: Some(3.5), ..Row::default() };
        assert_eq!(Row { processes: None, ..row }, loads);
    }

    #[test]
    fn a_refusal_explains_an_empty_reading_better_than_a_missing_file() {
        let denied = Failure::Denied("/proc/loadavg: not granted".to_owned());
        assert_eq!(worst(vec![Failure::unavailable("not found"), denied.clone()]), denied);
        assert_eq!(worst(vec![Failure::unavailable("not found")]), Failure::unavailable("not found"));
        assert!(matches!(worst(Vec::new()), Failure::Unavailable(_)));
    }
}
