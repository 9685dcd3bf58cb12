//! Durable history without a host: records samples, opens the history again as after a restart, and queries it over the
//! known ranges.
//!
//! `cargo run -p dropsonde --example history`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use dropsonde::history::{HistoryRange, HostHistory};
use dropsonde::store::{InstanceId, StoreLimits, StoredField};

const MINUTE_MS: i64 = 60_000;

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let fields =
        || vec![StoredField::gauge("requests_sec"), StoredField::gauge("p99_ms"), StoredField::gauge("error_rate")];
    let open = || HostHistory::open(folder.path(), fields(), MINUTE_MS, &StoreLimits::default());
    let (host, now_ms) = (InstanceId::new("example.org")?, 1_700_000_000_000);

    let history = open()?;
    for minute in (0..90).rev() {
        // This does not wait for the disk. NaN means that there is no reading.
        let p99 = if minute % 30 == 0 { f64::NAN } else { 8.0 };
        history.record(&host, now_ms - minute * MINUTE_MS, &[12.5, p99, 0.1])?;
    }
    history.close();

    let history = open()?;
    println!("{:?}", history.hosts().iter().map(ToString::to_string).collect::<Vec<_>>());
    for range in [HistoryRange::HalfHour, HistoryRange::Hour, HistoryRange::SixHours, HistoryRange::Day] {
        let points = history.query(&host, range, now_ms);
        let rates = points.column("requests_sec").map(|column| column.values.len());
        println!("{}: {} points, {:?} of requests_sec", range.label(), points.at_ms.len(), rates);
    }
    Ok(())
}
