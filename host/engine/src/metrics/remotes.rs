use super::RegistrationError;
use super::core::{histogram_options, options, register};
use prometheus::core::Collector as _;
use prometheus::proto::Metric;
use prometheus::{CounterVec, GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, Registry};
use std::collections::BTreeMap;

/// Metrics of the servers that this host sends to, by their names.
#[derive(Debug, Clone)]
pub struct RemoteMetrics {
    /// By outcome: `ok`, `failed`.
    pub requests: IntCounterVec,
    /// Alerts that were in a request, by its outcome.
    pub alerts: IntCounterVec,
    pub seconds: HistogramVec,
    pub last_success: GaugeVec,
    /// Alerts that the server should know of and does not.
    pub waiting: IntGaugeVec,
    pub samples: IntCounterVec,
    /// Samples that the server did not take and is not asked to take again, by reason.
    pub samples_dropped: IntCounterVec,
    pub bytes: IntCounterVec,
    pub retries: IntCounterVec,
    /// The age of the oldest sample that was not sent, in seconds.
    pub lag_seconds: GaugeVec,
    /// About how many bytes wait to be sent.
    pub lag_bytes: GaugeVec,
    /// Time whose samples history lost before the server took them, in seconds.
    pub expired_seconds: CounterVec,
}

impl RemoteMetrics {
    pub(super) fn register(all: &Registry) -> Result<Self, RegistrationError> {
        let by_outcome: &[&str] = &["destination", "outcome"];
        let by_remote: &[&str] = &["destination"];
        let by_reason: &[&str] = &["destination", "reason"];
        let counter = |name, help| register(all, IntCounterVec::new(options(name, help), by_outcome));
        let by_destination = |name, help| register(all, IntCounterVec::new(options(name, help), by_remote));
        let gauge = |name, help| register(all, GaugeVec::new(options(name, help), by_remote));
        Ok(Self {
            requests: counter("remote_requests_total", "Requests to another server, by outcome: ok or failed.")?,
            alerts: counter("remote_alerts_total", "Alerts in requests to another server, by outcome of the request.")?,
            seconds: register(
                all,
                HistogramVec::new(
                    histogram_options(
                        "remote_request_seconds",
                        "Duration of requests to another server, in seconds.",
                        prometheus::DEFAULT_BUCKETS.to_vec(),
                    ),
                    by_remote,
                ),
            )?,
            last_success: register(
                all,
                GaugeVec::new(
                    options(
                        "remote_last_success_timestamp_seconds",
                        "Time of the last request that another server took, in seconds since 1970.",
                    ),
                    by_remote,
                ),
            )?,
            waiting: register(
                all,
                IntGaugeVec::new(
                    options("remote_alerts_waiting", "Alerts that another server has not been told of yet."),
                    by_remote,
                ),
            )?,
            samples: by_destination("remote_samples_total", "Samples that another server took.")?,
            samples_dropped: register(
                all,
                IntCounterVec::new(
                    options(
                        "remote_samples_dropped_total",
                        "Samples that another server refused, by reason: the status of its answer, or what was wrong.",
                    ),
                    by_reason,
                ),
            )?,
            bytes: by_destination("remote_sent_bytes_total", "Bytes of samples sent to another server, compressed.")?,
            retries: by_destination("remote_retries_total", "Requests to another server that were sent again.")?,
            lag_seconds: gauge(
                "remote_lag_seconds",
                "Age of the oldest sample that another server has not got yet, in seconds.",
            )?,
            lag_bytes: gauge("remote_lag_bytes", "Bytes that are about to be sent to another server, estimated.")?,
            expired_seconds: register(
                all,
                CounterVec::new(
                    options(
                        "remote_expired_seconds_total",
                        "Time whose samples history lost before another server got them, in seconds.",
                    ),
                    by_remote,
                ),
            )?,
        })
    }

    /// Starts the counters of a server at 0, so that their first increase is seen.
    pub fn know(&self, remote: &str) {
        for outcome in ["ok", "failed"] {
            self.requests.with_label_values(&[remote, outcome]);
            self.alerts.with_label_values(&[remote, outcome]);
        }
        self.waiting.with_label_values(&[remote]).set(0);
    }

    /// Starts the counters of a server that gets samples.
    pub fn know_samples(&self, remote: &str) {
        for outcome in ["ok", "failed"] {
            self.requests.with_label_values(&[remote, outcome]);
        }
        for counter in [&self.samples, &self.bytes, &self.retries] {
            counter.with_label_values(&[remote]);
        }
        self.expired_seconds.with_label_values(&[remote]);
    }

    /// Removes the series of a server that is no longer configured.
    pub fn forget(&self, remote: &str) {
        // Removing fails for a series that the server never had.
        for outcome in ["ok", "failed"] {
            let _ = self.requests.remove_label_values(&[remote, outcome]);
            let _ = self.alerts.remove_label_values(&[remote, outcome]);
        }
        let _ = self.seconds.remove_label_values(&[remote]);
        let _ = self.last_success.remove_label_values(&[remote]);
        let _ = self.waiting.remove_label_values(&[remote]);
        for counter in [&self.samples, &self.bytes, &self.retries] {
            let _ = counter.remove_label_values(&[remote]);
        }
        for gauge in [&self.lag_seconds, &self.lag_bytes] {
            let _ = gauge.remove_label_values(&[remote]);
        }
        let _ = self.expired_seconds.remove_label_values(&[remote]);
        for reason in self.dropped(remote).into_keys() {
            let _ = self.samples_dropped.remove_label_values(&[remote, &reason]);
        }
    }

    /// Returns how many samples of a server were dropped, by reason.
    pub fn dropped(&self, remote: &str) -> BTreeMap<String, u64> {
        let families = self.samples_dropped.collect();
        let metrics = families.iter().flat_map(|family| family.get_metric());
        let value = |metric: &Metric, name: &str| {
            metric.get_label().iter().find(|label| label.name() == name).map(|label| label.value().to_owned())
        };
        metrics
            .filter(|metric| value(metric, "destination").as_deref() == Some(remote))
            .filter_map(|metric| Some((value(metric, "reason")?, metric.get_counter().get_value() as u64)))
            .collect()
    }
}
