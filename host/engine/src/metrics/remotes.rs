use super::RegistrationError;
use super::core::{histogram_options, options, register};
use prometheus::{GaugeVec, HistogramVec, IntCounterVec, IntGaugeVec, Registry};

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
}

impl RemoteMetrics {
    pub(super) fn register(all: &Registry) -> Result<Self, RegistrationError> {
        let by_outcome: &[&str] = &["remote", "outcome"];
        let by_remote: &[&str] = &["remote"];
        let counter = |name, help| register(all, IntCounterVec::new(options(name, help), by_outcome));
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
    }
}
