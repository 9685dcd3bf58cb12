use prometheus::core::Collector;
use prometheus::{
    Error, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, exponential_buckets,
};
use std::collections::HashMap;
use std::time::Duration;

/// The metrics that every service has: its status and health, the messages it handles, its failures, and the
/// destinations it talks to.
///
/// A service is a part of a program that embeds the host, a part of the host itself, or a plugin. The names of these
/// metrics begin with `dropsonde_`.
///
/// ```
/// use dropsonde_engine::metrics::{CoreMetrics, MetricRegistry, ServiceStatus};
///
/// # fn main() -> anyhow::Result<()> {
/// let registry = MetricRegistry::new()?;
/// let metrics = CoreMetrics::register(&registry)?;
/// metrics.status("billing", ServiceStatus::Running);
/// metrics.received("billing", "invoice", 1);
/// metrics.processed("billing", "invoice", "ok", 1);
/// assert_eq!(registry.prometheus().gather().len(), 3);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct CoreMetrics {
    service_status: IntGaugeVec,
    health_status: IntGaugeVec,
    messages_received: IntCounterVec,
    messages_processed: IntCounterVec,
    messages_failed: IntCounterVec,
    messages_published: IntCounterVec,
    panics: IntCounterVec,
    processing_duration_seconds: HistogramVec,
    errors: IntCounterVec,
    remote_connected: IntGaugeVec,
    remote_rtt_seconds: GaugeVec,
    remote_reconnects: IntCounterVec,
    remote_circuit_breaker: IntGaugeVec,
}

/// The name and the help text of a metric. For the host's parts and for plugins it is computed at each scrape.
pub(crate) const SERVICE_STATUS: (&str, &str) =
    ("service_status", "Status of a service: 0 stopped, 1 starting, 2 running, 3 stopping, 4 failed.");
pub(crate) const HEALTH_STATUS: (&str, &str) = ("health_status", "1 when nothing is wrong with a service, else 0.");

/// The status of a service, with its value in `dropsonde_service_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceStatus {
    Stopped = 0,
    Starting = 1,
    Running = 2,
    Stopping = 3,
    Failed = 4,
}

/// The state of a circuit breaker, with its value in `dropsonde_remote_circuit_breaker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Requests are sent.
    Closed = 0,
    /// Too many requests failed: none is sent for a while.
    Open = 1,
    /// One request is sent, to see whether others can be.
    HalfOpen = 2,
}

/// Registers a new collector, and returns it.
pub(super) fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    made: Result<C, Error>,
) -> Result<C, Error> {
    let made = made?;
    registry.register(Box::new(made.clone()))?;
    Ok(made)
}

/// Returns the options of a metric, with the prefix of all the host's own metrics.
pub(super) fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("dropsonde")
}

pub(super) fn histogram_options(name: &str, help: &str, buckets: Vec<f64>) -> HistogramOpts {
    HistogramOpts::from(options(name, help)).buckets(buckets)
}

impl CoreMetrics {
    /// Registers the metrics, which works once for a registry.
    pub fn register(registry: &super::MetricRegistry) -> Result<Self, Error> {
        let registry = registry.prometheus();
        let counter = |name, help, labels: &[&str]| register(registry, IntCounterVec::new(options(name, help), labels));
        let gauge = |name, help, labels: &[&str]| register(registry, IntGaugeVec::new(options(name, help), labels));
        Ok(Self {
            service_status: gauge(SERVICE_STATUS.0, SERVICE_STATUS.1, &["service"])?,
            health_status: gauge(HEALTH_STATUS.0, HEALTH_STATUS.1, &["service"])?,
            messages_received: counter(
                "messages_received_total",
                "Samples, stats and events received, by service and type.",
                &["service", "type"],
            )?,
            messages_processed: counter(
                "messages_processed_total",
                "Samples, stats and events processed, by service, type and status.",
                &["service", "type", "status"],
            )?,
            messages_failed: counter(
                "messages_failed_total",
                "Samples, stats and events that could not be processed, by service and type.",
                &["service", "type"],
            )?,
            messages_published: counter(
                "messages_published_total",
                "Events published to live streams, by service and subject.",
                &["service", "subject"],
            )?,
            panics: counter(
                "panics_total",
                "Panics of the host's own tasks, and traps of plugins, by service.",
                &["service"],
            )?,
            processing_duration_seconds: register(
                registry,
                HistogramVec::new(
                    histogram_options(
                        "processing_duration_seconds",
                        "Duration of the host's own work, by service and operation, in seconds.",
                        exponential_buckets(0.000_1, 4.0, 10)?,
                    ),
                    &["service", "operation"],
                ),
            )?,
            errors: counter("errors_total", "Failures by service and type.", &["service", "type"])?,
            remote_connected: gauge(
                "remote_connected",
                "1 when the last request to a destination went well, else 0.",
                &["destination"],
            )?,
            remote_rtt_seconds: register(
                registry,
                GaugeVec::new(
                    options(
                        "remote_rtt_seconds",
                        "Round-trip time of the last request that a destination answered, in seconds.",
                    ),
                    &["destination"],
                ),
            )?,
            remote_reconnects: counter(
                "remote_reconnects_total",
                "Times a destination answered again after it had failed.",
                &["destination"],
            )?,
            remote_circuit_breaker: gauge(
                "remote_circuit_breaker",
                "Circuit breaker of a destination: 0 closed, 1 open (nothing is sent for a while), 2 half-open (one \
                 request is sent).",
                &["destination"],
            )?,
        })
    }

    pub fn status(&self, service: &str, status: ServiceStatus) {
        self.service_status.with_label_values(&[service]).set(status as i64);
    }

    pub fn health(&self, service: &str, is_well: bool) {
        self.health_status.with_label_values(&[service]).set(i64::from(is_well));
    }

    /// Counts received messages. `kind`: `sample`, `stats`, `event`, or a service's own word.
    pub fn received(&self, service: &str, kind: &str, count: u64) {
        self.messages_received.with_label_values(&[service, kind]).inc_by(count);
    }

    /// Counts processed messages. `status`: `ok`, `failed`, `dropped`, or `gap` if there was nothing to take.
    pub fn processed(&self, service: &str, kind: &str, status: &str, count: u64) {
        self.messages_processed.with_label_values(&[service, kind, status]).inc_by(count);
    }

    /// Returns how many samples of a plugin were stored since the host started.
    pub(crate) fn samples_stored(&self, service: &str) -> u64 {
        self.messages_processed.with_label_values(&[service, "sample", "ok"]).get()
    }

    pub fn failed(&self, service: &str, kind: &str, count: u64) {
        self.messages_failed.with_label_values(&[service, kind]).inc_by(count);
    }

    pub fn published(&self, service: &str, subject: &str, count: u64) {
        self.messages_published.with_label_values(&[service, subject]).inc_by(count);
    }

    /// Counts panics. A count of 0 makes the series appear, so that its first increase is seen.
    pub fn panics(&self, service: &str, count: u64) {
        self.panics.with_label_values(&[service]).inc_by(count);
    }

    /// Records the duration of an operation.
    pub fn took(&self, service: &str, operation: &str, took: Duration) {
        self.processing_duration_seconds.with_label_values(&[service, operation]).observe(took.as_secs_f64());
    }

    /// Counts failures. `kind`: one of a small fixed set of words.
    pub fn errors(&self, service: &str, kind: &str, count: u64) {
        self.errors.with_label_values(&[service, kind]).inc_by(count);
    }

    pub fn remote_connected(&self, destination: &str, is_connected: bool) {
        self.remote_connected.with_label_values(&[destination]).set(i64::from(is_connected));
    }

    pub fn remote_rtt(&self, destination: &str, took: Duration) {
        self.remote_rtt_seconds.with_label_values(&[destination]).set(took.as_secs_f64());
    }

    /// Counts reconnects. A count of 0 makes the series appear, so that its first increase is seen.
    pub fn remote_reconnects(&self, destination: &str, count: u64) {
        self.remote_reconnects.with_label_values(&[destination]).inc_by(count);
    }

    pub fn remote_breaker(&self, destination: &str, breaker: BreakerState) {
        self.remote_circuit_breaker.with_label_values(&[destination]).set(breaker as i64);
    }

    /// Removes the series of a destination that is no longer configured.
    pub fn forget_remote(&self, destination: &str) {
        // Removing fails for a series that the destination never had.
        let _ = self.remote_connected.remove_label_values(&[destination]);
        let _ = self.remote_rtt_seconds.remove_label_values(&[destination]);
        let _ = self.remote_reconnects.remove_label_values(&[destination]);
        let _ = self.remote_circuit_breaker.remove_label_values(&[destination]);
    }

    /// Removes all series of a service that is gone.
    pub fn forget(&self, service: &str) {
        let of_service: [&IntCounterVec; 6] = [
            &self.messages_received,
            &self.messages_processed,
            &self.messages_failed,
            &self.messages_published,
            &self.panics,
            &self.errors,
        ];
        for vector in of_service {
            for labels in series_of(vector, "service", service) {
                let _ = vector.remove(&labels.iter().map(|(key, value)| (&**key, &**value)).collect::<HashMap<_, _>>());
            }
        }
        for vector in [&self.service_status, &self.health_status] {
            // This fails for a series that the service never had.
            let _ = vector.remove_label_values(&[service]);
        }
        for labels in series_of(&self.processing_duration_seconds, "service", service) {
            let labels = labels.iter().map(|(key, value)| (&**key, &**value)).collect::<HashMap<_, _>>();
            let _ = self.processing_duration_seconds.remove(&labels);
        }
    }
}

/// Returns the labels of each series that has a label of this key and value.
pub(super) fn series_of(vector: &impl Collector, key: &str, value: &str) -> Vec<Vec<(String, String)>> {
    let families = vector.collect();
    let series = families.iter().flat_map(|family| family.get_metric());
    let labels = series.map(|series| {
        let labels = series.get_label().iter();
        labels.map(|label| (label.name().to_owned(), label.value().to_owned())).collect::<Vec<_>>()
    });
    labels.filter(|labels| labels.iter().any(|(name, is)| name == key && is == value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::MetricRegistry;

    fn record_everything(metrics: &CoreMetrics, service: &str) {
        metrics.status(service, ServiceStatus::Running);
        metrics.health(service, true);
        metrics.received(service, "sample", 3);
        metrics.processed(service, "sample", "ok", 2);
        metrics.failed(service, "sample", 1);
        metrics.published(service, "usage", 2);
        metrics.panics(service, 1);
        metrics.took(service, "sample", Duration::from_millis(1));
        metrics.errors(service, "trap", 1);
    }

    #[test]
    fn each_method_records_to_its_metric_family() {
        let registry = MetricRegistry::new().unwrap();
        let metrics = CoreMetrics::register(&registry).unwrap();
        assert!(registry.prometheus().gather().is_empty(), "nothing is shown before it happens");
        record_everything(&metrics, "s");
        metrics.remote_connected("otlp", true);
        metrics.remote_rtt("otlp", Duration::from_millis(2));
        metrics.remote_reconnects("otlp", 1);
        metrics.remote_breaker("otlp", BreakerState::HalfOpen);
        let families = registry.prometheus().gather();
        let names: Vec<_> = families.iter().map(|family| family.name().replace("dropsonde_", "")).collect();
        assert_eq!(
            names,
            [
                "errors_total",
                "health_status",
                "messages_failed_total",
                "messages_processed_total",
                "messages_published_total",
                "messages_received_total",
                "panics_total",
                "processing_duration_seconds",
                "remote_circuit_breaker",
                "remote_connected",
                "remote_reconnects_total",
                "remote_rtt_seconds",
                "service_status",
            ]
        );
    }

    #[test]
    fn forget_removes_all_series_of_the_service() {
        let registry = MetricRegistry::new().unwrap();
        let metrics = CoreMetrics::register(&registry).unwrap();
        record_everything(&metrics, "kept");
        record_everything(&metrics, "gone");
        metrics.forget("gone");
        let families = registry.prometheus().gather();
        let series = families.iter().flat_map(|family| family.get_metric());
        assert!(series.flat_map(|series| series.get_label()).all(|label| label.value() != "gone"));
        assert_eq!(families.len(), 9);
    }

    #[test]
    fn core_metrics_can_be_registered_only_once_in_a_registry() {
        let registry = MetricRegistry::new().unwrap();
        assert!(CoreMetrics::register(&registry).is_ok());
        assert!(CoreMetrics::register(&registry).is_err());
    }
}
