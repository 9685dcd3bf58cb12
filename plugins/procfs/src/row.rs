//! The fields, and the values of one instance.

use crate::pace::STEP;
use dropsonde_guest::{Aggregation, Field};

/// The readings of one instance. `None`: the field has no meaning for the instance, or could not be read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Row {
    pub(crate) cpu_seconds: Option<f64>,
    pub(crate) memory_used_mb: Option<f64>,
    pub(crate) memory_limit_mb: Option<f64>,
    pub(crate) network_in_bytes: Option<f64>,
    pub(crate) network_out_bytes: Option<f64>,
    pub(crate) load_1m: Option<f64>,
    pub(crate) load_5m: Option<f64>,
    pub(crate) load_15m: Option<f64>,
    pub(crate) swap_used_mb: Option<f64>,
    pub(crate) swap_limit_mb: Option<f64>,
    pub(crate) uptime_seconds: Option<f64>,
    pub(crate) disk_used_mb: Option<f64>,
    pub(crate) disk_limit_mb: Option<f64>,
    pub(crate) disk_read_bytes: Option<f64>,
    pub(crate) disk_written_bytes: Option<f64>,
    pub(crate) processes: Option<f64>,
    pub(crate) threads: Option<f64>,
    pub(crate) disk_available_mb: Option<f64>,
}

/// A field with its place in a row. Both are in one definition, so that they cannot differ.
struct Column {
    name: &'static str,
    help: &'static str,
    unit: &'static str,
    /// The name of the running total behind a rate, and the units of the field per unit of the total.
    total: Option<(&'static str, f64)>,
    aggregation: Aggregation,
    precision: f64,
    value: ReadColumn,
}

type ReadColumn = fn(&Row) -> Option<f64>;

const COLUMNS: [Column; 18] = [
    Column {
        unit: "percent",
        total: Some(("cpu_seconds_total", 100.0)),
        precision: STEP,
        ..gauge(
            "cpu_percent",
            "CPU time used; 100 means all CPUs of the host are busy, or, for a program or process, one CPU",
            |row| row.cpu_seconds,
        )
    },
    Column {
        precision: 0.1,
        ..mib(
            "memory_used_mb",
            "Memory in use (not available) on the host or in its container, or resident memory of the program or process",
            |row| row.memory_used_mb,
        )
    },
    limit("memory_limit_mb", "Memory of the host, or the limit of its container if that is less", |row| {
        row.memory_limit_mb
    }),
    rate(
        "network_in_bytes_per_sec",
        "Bytes received on all interfaces that lead out of the host, or on the interface",
        "network_in_bytes_total",
        |row| row.network_in_bytes,
    ),
    rate(
        "network_out_bytes_per_sec",
        "Bytes sent on all interfaces that lead out of the host, or on the interface",
        "network_out_bytes_total",
        |row| row.network_out_bytes,
    ),
    Column { precision: 0.01, ..gauge("load_1m", "1-minute load average", |row| row.load_1m) },
    Column { precision: 0.01, ..gauge("load_5m", "5-minute load average", |row| row.load_5m) },
    Column { precision: 0.01, ..gauge("load_15m", "15-minute load average", |row| row.load_15m) },
    Column { precision: 0.1, ..mib("swap_used_mb", "Swap in use", |row| row.swap_used_mb) },
    limit("swap_limit_mb", "Total swap", |row| row.swap_limit_mb),
    Column {
        unit: "seconds",
        aggregation: Aggregation::Last,
        ..gauge(
            "uptime_seconds",
            "Time since the host booted, or since the process or the oldest process of the program started",
            |row| row.uptime_seconds,
        )
    },
    mib("disk_used_mb", "Disk space in use, without the space reserved for root", |row| row.disk_used_mb),
    limit("disk_limit_mb", "Size of the file system", |row| row.disk_limit_mb),
    rate(
        "disk_read_bytes_per_sec",
        "Bytes read from all physical disks, or from the disk",
        "disk_read_bytes_total",
        |row| row.disk_read_bytes,
    ),
    rate(
        "disk_write_bytes_per_sec",
        "Bytes written to all physical disks, or to the disk",
        "disk_written_bytes_total",
        |row| row.disk_written_bytes,
    ),
    gauge("processes", "Processes on the host, including kernel threads, or of the program", |row| row.processes),
    gauge("threads", "Threads of the program or process", |row| row.threads),
    mib("disk_available_mb", "Disk space that unprivileged users can still use", |row| row.disk_available_mb),
];

/// Returns the fields in their order.
pub(crate) fn fields() -> Vec<Field> {
    COLUMNS.iter().map(Column::field).collect()
}

// === impl Row ===

impl Row {
    /// Returns the values in the order of [`fields`].
    pub(crate) fn values(&self) -> Vec<f64> {
        let value = |column: &Column| (column.value)(self).filter(|value| value.is_finite()).unwrap_or(f64::NAN);
        COLUMNS.iter().map(value).collect()
    }
}

// === impl Column ===

impl Column {
    fn field(&self) -> Field {
        let field = match self.total {
            Some((total, scale)) => Field::rate(self.name, self.help, total).scale(scale),
            None => Field::gauge(self.name, self.help),
        };
        field.unit(self.unit).aggregation(self.aggregation).precision(self.precision)
    }
}

const fn gauge(name: &'static str, help: &'static str, value: ReadColumn) -> Column {
    Column { name, help, unit: "", total: None, aggregation: Aggregation::Mean, precision: 1.0, value }
}

const fn mib(name: &'static str, help: &'static str, value: ReadColumn) -> Column {
    Column { unit: "MiB", ..gauge(name, help, value) }
}

/// Returns a column for the total size of something. A mean of two sizes was never true, so the last size counts.
const fn limit(name: &'static str, help: &'static str, value: ReadColumn) -> Column {
    Column { aggregation: Aggregation::Last, ..mib(name, help, value) }
}

/// Returns a column for bytes per second, which the host derives from their total.
const fn rate(name: &'static str, help: &'static str, total: &'static str, value: ReadColumn) -> Column {
    Column { unit: "bytes/s", total: Some((total, 1.0)), ..gauge(name, help, value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_every_sampler_shares_come_first() {
        let names: Vec<_> = fields().into_iter().map(|field| field.name).collect();
        assert_eq!(
            names,
            [
                "cpu_percent",
                "memory_used_mb",
                "memory_limit_mb",
                "network_in_bytes_per_sec",
                "network_out_bytes_per_sec",
                "load_1m",
                "load_5m",
                "load_15m",
                "swap_used_mb",
                "swap_limit_mb",
                "uptime_seconds",
                "disk_used_mb",
                "disk_limit_mb",
                "disk_read_bytes_per_sec",
                "disk_write_bytes_per_sec",
                "processes",
                "threads",
                "disk_available_mb",
            ]
        );
    }

    #[test]
    fn cpu_is_a_percentage_derived_from_a_total_in_seconds() {
        let expected = Field::rate(
            "cpu_percent",
            "CPU time used; 100 means all CPUs of the host are busy, or, for a program or process, one CPU",
            "cpu_seconds_total",
        );
        assert_eq!(fields()[0], expected.scale(100.0).unit("percent").precision(0.0001));
    }

    #[test]
    fn what_has_no_meaning_has_no_signal() {
        let row = Row { load_1m: Some(0.5), uptime_seconds: Some(f64::INFINITY), ..Row::default() };
        let values = row.values();
        assert_eq!(values.len(), fields().len());
        assert_eq!(values.iter().filter(|value| value.is_finite()).collect::<Vec<_>>(), [&0.5]);
    }
}
