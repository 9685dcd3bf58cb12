//! The fields of a container.

use dropsonde_guest::{Aggregation, Field};

/// The number of fields.
pub(crate) const FIELDS: usize = 12;

const MIB: f64 = 1_048_576.0;

/// The usage and the state of a container at a time. NaN: not known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Usage {
    /// CPU time since the container started.
    pub(crate) cpu_seconds: f64,
    /// The CPU time that it may use per second.
    pub(crate) cpu_limit: f64,
    /// Memory without the part of the page cache that can be dropped.
    pub(crate) memory_bytes: f64,
    pub(crate) memory_limit_bytes: f64,
    pub(crate) received_bytes: f64,
    pub(crate) sent_bytes: f64,
    pub(crate) read_bytes: f64,
    pub(crate) written_bytes: f64,
    pub(crate) processes: f64,
    pub(crate) restarts: f64,
    /// 1 or 0.
    pub(crate) healthy: f64,
    pub(crate) uptime_seconds: f64,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            cpu_seconds: f64::NAN,
            cpu_limit: f64::NAN,
            memory_bytes: f64::NAN,
            memory_limit_bytes: f64::NAN,
            received_bytes: f64::NAN,
            sent_bytes: f64::NAN,
            read_bytes: f64::NAN,
            written_bytes: f64::NAN,
            processes: f64::NAN,
            restarts: f64::NAN,
            healthy: f64::NAN,
            uptime_seconds: f64::NAN,
        }
    }
}

/// The CPU time of the reading before, for the share of the limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Before {
    pub(crate) cpu_seconds: f64,
    /// By a clock that never goes back.
    pub(crate) at_seconds: f64,
}

pub(crate) fn fields() -> Vec<Field> {
    let rate = |name: &str, help: &str, total: &str| Field::rate(name, help, total).precision(1.0);
    let bytes = |name: &str, help: &str, total: &str| rate(name, help, total).unit("bytes/s");
    vec![
        Field::rate("cpu_percent", "CPU time in use, in percent of one core", "cpu_seconds_total")
            .scale(100.0)
            .unit("percent")
            .precision(0.0001),
        Field::gauge("cpu_limit_percent", "CPU time in use, in percent of what the container may use")
            .unit("percent")
            .precision(0.01),
        Field::gauge("memory_used_mb", "Memory in use, without page cache that can be dropped")
            .unit("MiB")
            .precision(0.01),
        Field::gauge("memory_limit_mb", "Memory that the container may use").unit("MiB").precision(1.0),
        bytes("network_in_bytes_per_sec", "Bytes received per second", "network_in_bytes_total"),
        bytes("network_out_bytes_per_sec", "Bytes sent per second", "network_out_bytes_total"),
        bytes("disk_read_bytes_per_sec", "Bytes read from disks per second", "disk_read_bytes_total"),
        bytes("disk_write_bytes_per_sec", "Bytes written to disks per second", "disk_written_bytes_total"),
        Field::gauge("processes", "Processes and threads").precision(1.0),
        Field::gauge("restarts", "How often the container was restarted").aggregation(Aggregation::Max).precision(1.0),
        Field::gauge("healthy", "Whether the health check succeeds: 1 or 0")
            .aggregation(Aggregation::Min)
            .precision(1.0),
        Field::gauge("uptime_seconds", "Time since the container started")
            .unit("s")
            .aggregation(Aggregation::Last)
            .precision(1.0),
    ]
}

// === impl Usage ===

impl Usage {
    /// Returns the row of a container. `before`: its reading before; `at_seconds`: the time of this one.
    pub(crate) fn row(&self, before: Option<Before>, at_seconds: f64) -> [f64; FIELDS] {
        let share = before.map_or(f64::NAN, |before| {
            let used = (self.cpu_seconds - before.cpu_seconds) / (at_seconds - before.at_seconds);
            if used >= 0.0 { 100.0 * used / self.cpu_limit } else { f64::NAN }
        });
        [
            self.cpu_seconds,
            share,
            self.memory_bytes / MIB,
            self.memory_limit_bytes / MIB,
            self.received_bytes,
            self.sent_bytes,
            self.read_bytes,
            self.written_bytes,
            self.processes,
            self.restarts,
            self.healthy,
            self.uptime_seconds,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_the_cpu_limit_is_of_the_time_between_two_readings() {
        let usage = Usage { cpu_seconds: 12.0, cpu_limit: 2.0, memory_bytes: 3.0 * MIB, ..Usage::default() };
        let before = |cpu_seconds| Some(Before { cpu_seconds, at_seconds: 100.0 });
        assert_eq!(usage.row(before(10.0), 104.0)[1], 25.0);
        assert!(usage.row(None, 104.0)[1].is_nan() && usage.row(before(13.0), 104.0)[1].is_nan());
        assert_eq!(usage.row(None, 104.0)[2], 3.0);
        assert_eq!(fields().len(), FIELDS);
    }
}
