//! An instance of a made-up service.

use crate::shape::{Total, noise, period, wave};
use dropsonde_guest::{Aggregation, Field};

/// The number of fields.
pub(crate) const FIELDS: usize = 8;

/// The time of day changes little in an hour, so that a demonstration moves: a wave of ten minutes.
const SLOW: f64 = 600.0;

const HOUR: f64 = 3600.0;

#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub(crate) id: String,
    pub(crate) workload: String,
    seed: u64,
    phase: f64,
    requests: Total,
    received: Total,
    sent: Total,
    /// Whether the instance is silent for five minutes of each hour.
    has_gaps: bool,
}

pub(crate) fn fields() -> Vec<Field> {
    vec![
        Field::gauge("cpu_percent", "CPU time in use, in percent of one core").unit("percent").precision(0.01),
        Field::gauge("memory_used_mb", "Memory in use").unit("MiB").precision(1.0),
        Field::rate("network_in_bytes_per_sec", "Received bytes per second", "network_in_bytes_total")
            .unit("bytes/s")
            .precision(1.0),
        Field::rate("network_out_bytes_per_sec", "Sent bytes per second", "network_out_bytes_total")
            .unit("bytes/s")
            .precision(1.0),
        Field::rate("requests_per_sec", "Requests per second", "requests_total").precision(1.0),
        Field::gauge("latency_p95_ms", "Time within which 95 of 100 requests were answered")
            .unit("ms")
            .aggregation(Aggregation::Max)
            .precision(0.01),
        Field::gauge("error_rate", "Percentage of requests that failed").unit("percent").precision(0.01),
        Field::gauge("queue_length", "Requests that wait").aggregation(Aggregation::Max).precision(1.0),
    ]
}

// === impl Service ===

impl Service {
    pub(crate) fn new(seed: u64, nth: u32, workload: &str) -> Self {
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(u64::from(nth));
        let phase = noise(seed, 0);
        // A life of three to five hours: a reset is a restart.
        let life = (3.0 + 2.0 * noise(seed, 1)) * HOUR;
        let mean = 20.0 + 180.0 * noise(seed, 2);
        let total = |mean| Total { mean, swing: 0.6, seconds: SLOW, phase, life, born: phase * life };
        Self {
            id: format!("{workload}-{nth}"),
            workload: workload.to_owned(),
            seed,
            phase,
            requests: total(mean),
            received: total(mean * 900.0),
            sent: total(mean * 14_000.0),
            has_gaps: nth % 10 == 9,
        }
    }

    /// Returns the values of the fields at a time; NaN if there are none.
    pub(crate) fn values(&self, at: f64) -> [f64; FIELDS] {
        let minute = period(at + self.phase * HOUR, 60.0) % 60;
        if self.has_gaps && (20..25).contains(&minute) {
            return [f64::NAN; FIELDS];
        }
        let jitter = |nth: u64| noise(self.seed, period(at, 1.0).wrapping_mul(8).wrapping_add(nth)) - 0.5;
        let load = 0.5 + 0.3 * wave(at, SLOW, self.phase) + 0.1 * wave(at, 90.0, self.phase);
        // A spike of a minute each hour.
        let spike = if minute == 40 { 1.0 } else { 0.0 };
        let cpu = (100.0 * load + 8.0 * jitter(1) + 25.0 * spike).clamp(0.0, 100.0);
        // Memory grows until it is collected.
        let grown = (at / 1800.0 + self.phase).fract();
        let memory = 180.0 + 60.0 * noise(self.seed, 3) + 140.0 * grown;
        let latency = 12.0 + 18.0 * load * load + 4.0 * jitter(2) + 160.0 * spike;
        let errors = (0.3 + 0.4 * jitter(3) + 6.0 * spike).max(0.0);
        // The queue changes in steps.
        let queue = (12.0 * load * noise(self.seed, period(at, 30.0))).floor() + 40.0 * spike;
        [cpu, memory, self.received.at(at), self.sent.at(at), self.requests.at(at), latency, errors, queue]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: f64 = 1_800_000_000.0;

    #[test]
    fn values_are_plausible_at_every_second_of_an_hour() {
        assert_eq!(fields().len(), FIELDS);
        let service = Service::new(1, 0, "web");
        for second in 0..3600 {
            let [cpu, memory, _, _, requests, latency, errors, queue] = service.values(START + f64::from(second));
            assert!((0.0..=100.0).contains(&cpu) && (180.0..400.0).contains(&memory), "{cpu} {memory}");
            assert!(requests >= 0.0 && (5.0..250.0).contains(&latency), "{requests} {latency}");
            assert!((0.0..10.0).contains(&errors) && (0.0..60.0).contains(&queue), "{errors} {queue}");
        }
    }

    #[test]
    fn each_hour_has_a_spike_and_some_instances_have_gaps() {
        let minutes = |nth: u32, wanted: fn(&[f64; FIELDS]) -> bool| {
            let service = Service::new(1, nth, "web");
            (0..3600).filter(|second| wanted(&service.values(START + f64::from(*second)))).count() / 60
        };
        assert_eq!(minutes(0, |values| values[5] > 100.0), 1);
        assert_eq!((minutes(0, |values| values[0].is_nan()), minutes(9, |values| values[0].is_nan())), (0, 5));
    }
}
