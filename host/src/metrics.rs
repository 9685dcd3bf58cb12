//! What the host counts about itself.

use prometheus::core::Collector as _;
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    exponential_buckets,
};

/// The host's own metrics, in a registry of their own: two hosts in one process share nothing.
#[derive(Debug, Clone)]
pub struct HostMetrics {
    pub registry: Registry,
    /// 0 stopped, 1 starting, 2 running, 3 stopping, 4 failed.
    pub service_status: IntGaugeVec,
    pub errors: IntCounterVec,
    pub panics: IntCounterVec,
    pub samples_dropped: IntCounterVec,
    /// By plugin and what it was: `event`.
    pub messages_received: IntCounterVec,
    /// And what became of it: `ok`, `failed`.
    pub messages_processed: IntCounterVec,
    pub messages_failed: IntCounterVec,
    pub sessions_active: IntGauge,
    pub http_requests: IntCounterVec,
    pub http_request_seconds: HistogramVec,
    pub plugin_call_seconds: HistogramVec,
    pub plugin_polls_missed: IntCounterVec,
    pub plugin_memory_bytes: IntGaugeVec,
    pub plugin_cpu_seconds: prometheus::CounterVec,
    pub plugins_uploaded: IntCounter,
    pub plugin_restores_succeeded: IntCounter,
    pub plugin_restores_failed: IntCounter,
    /// `io`.
    pub audit_entries_dropped: IntCounterVec,
    pub workers_spawned: IntCounter,
    /// `graceful`, `crashed`, `idle_timeout`.
    pub workers_stopped: IntCounterVec,
    pub build_seconds: HistogramVec,
    pub cold_start_seconds: HistogramVec,
    pub build_info: GaugeVec,
    pub start_time_seconds: Gauge,
    /// What the thread that keeps history needs for a step: sealing, writing, merging.
    pub flush_seconds: prometheus::Histogram,
}

/// As `dropsonde_service_status` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceStatus {
    Stopped = 0,
    Starting = 1,
    Running = 2,
    Stopping = 3,
    Failed = 4,
}

impl HostMetrics {
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new_custom(Some("dropsonde".to_owned()), None)?;
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let histogram = |name: &str, help: &str, labels: &[&str], buckets: Vec<f64>| {
            let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let sessions_active = IntGauge::new("sessions_active", "Open streams.")?;
        registry.register(Box::new(sessions_active.clone()))?;
        let plugin_cpu_seconds = prometheus::CounterVec::new(
            Opts::new("plugin_cpu_seconds_total", "CPU time spent in a plugin."),
            &["plugin"],
        )?;
        registry.register(Box::new(plugin_cpu_seconds.clone()))?;
        let build_info =
            GaugeVec::new(Opts::new("build_info", "Always 1; the version is in the label."), &["version"])?;
        registry.register(Box::new(build_info.clone()))?;
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let start_time_seconds = Gauge::new("start_time_seconds", "When the host started, in seconds since 1970.")?;
        registry.register(Box::new(start_time_seconds.clone()))?;
        let processing = HistogramOpts::new("processing_duration_seconds", "Time for a piece of work, by what it was.")
            .buckets(exponential_buckets(0.000_1, 4.0, 10)?);
        let processing_seconds = HistogramVec::new(processing, &["service", "operation"])?;
        registry.register(Box::new(processing_seconds.clone()))?;
        let plain = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        let workers_spawned = plain("workers_spawned_total", "Instances of plugins that were made.")?;
        let audit_entries_dropped = counter(
            "audit_entries_dropped_total",
            "Lines of the audit log that were not written, and why.",
            &["reason"],
        )?;
        audit_entries_dropped.with_label_values(&["io"]);
        let workers_stopped =
            counter("workers_stopped_total", "Instances of plugins that ended, and why.", &["reason"])?;
        for reason in ["graceful", "crashed", "idle_timeout"] {
            workers_stopped.with_label_values(&[reason]);
        }
        Ok(Self {
            plugins_uploaded: plain("plugins_uploaded_total", "Components that came through the API.")?,
            plugin_restores_succeeded: plain(
                "plugin_restores_succeeded_total",
                "Plugins brought back as they last ran well, as a newer version did not work.",
            )?,
            plugin_restores_failed: plain(
                "plugin_restores_failed_total",
                "Plugins that could not be brought back as they last ran well.",
            )?,
            audit_entries_dropped,
            workers_spawned,
            workers_stopped,
            flush_seconds: processing_seconds.with_label_values(&["history", "flush"]),
            service_status: gauge(
                "service_status",
                "0 stopped, 1 starting, 2 running, 3 stopping, 4 failed.",
                &["service"],
            )?,
            errors: counter(
                "errors_total",
                "Calls, rows and requests that failed, by what and why.",
                &["service", "type"],
            )?,
            panics: counter("panics_total", "Plugins that trapped.", &["service"])?,
            messages_received: counter(
                "messages_received_total",
                "Events that came in, by plugin and type.",
                &["service", "type"],
            )?,
            messages_processed: counter(
                "messages_processed_total",
                "Events that were handed to a plugin, by what became of them.",
                &["service", "type", "status"],
            )?,
            messages_failed: counter(
                "messages_failed_total",
                "Events a plugin was handed and did not take.",
                &["service", "type"],
            )?,
            samples_dropped: counter(
                "samples_dropped_total",
                "Samples and rows that were not kept, and why.",
                &["reason"],
            )?,
            http_requests: counter(
                "http_requests_total",
                "HTTP requests by route and class of status.",
                &["route", "status"],
            )?,
            http_request_seconds: histogram(
                "http_request_seconds",
                "Time to answer; streams are not in it.",
                &["route", "status"],
                prometheus::DEFAULT_BUCKETS.to_vec(),
            )?,
            // From a warm call on one instance to a deadline of seconds.
            plugin_call_seconds: histogram(
                "plugin_call_seconds",
                "Wall time of one call of a plugin's sample.",
                &["plugin"],
                exponential_buckets(0.000_01, 4.0, 10)?,
            )?,
            plugin_polls_missed: counter(
                "plugin_polls_missed_total",
                "Ticks skipped because they came too late.",
                &["plugin"],
            )?,
            plugin_memory_bytes: gauge("plugin_memory_bytes", "A plugin's linear memories and tables.", &["plugin"])?,
            plugin_cpu_seconds,
            build_seconds: histogram(
                "build_seconds",
                "Time to compile a component, or to take it from the cache.",
                &["plugin"],
                exponential_buckets(0.005, 2.0, 12)?,
            )?,
            cold_start_seconds: histogram(
                "cold_start_seconds",
                "Time from a compiled component to a worker that is ready.",
                &["plugin"],
                exponential_buckets(0.001, 2.0, 12)?,
            )?,
            sessions_active,
            build_info,
            start_time_seconds,
            registry,
        })
    }

    /// Removes the series of a plugin that is no more.
    pub fn forget_plugin(&self, name: &str) {
        // What it never had is not there to be removed.
        let _ = self.plugin_call_seconds.remove_label_values(&[name]);
        let _ = self.plugin_polls_missed.remove_label_values(&[name]);
        let _ = self.plugin_memory_bytes.remove_label_values(&[name]);
        let _ = self.plugin_cpu_seconds.remove_label_values(&[name]);
        let _ = self.build_seconds.remove_label_values(&[name]);
        let _ = self.cold_start_seconds.remove_label_values(&[name]);
        let _ = self.panics.remove_label_values(&[name]);
        let _ = self.messages_received.remove_label_values(&[name, "event"]);
        let _ = self.messages_failed.remove_label_values(&[name, "event"]);
        for status in ["ok", "failed"] {
            let _ = self.messages_processed.remove_label_values(&[name, "event", status]);
        }
        for family in self.errors.collect() {
            for series in family.get_metric() {
                let value = |key: &str| series.get_label().iter().find(|label| label.name() == key);
                if let (Some(service), Some(kind)) = (value("service"), value("type"))
                    && service.value() == name
                {
                    let _ = self.errors.remove_label_values(&[name, kind.value()]);
                }
            }
        }
    }

    pub fn set_status(&self, service: &str, status: ServiceStatus) {
        self.service_status.with_label_values(&[service]).set(status as i64);
    }
}

/// `2xx`, as `dropsonde_http_requests_total` has it; `unknown` for what is no HTTP status.
pub fn status_class(code: u16) -> &'static str {
    match code {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        500..=599 => "5xx",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_hosts_in_one_process_share_no_metric() {
        let (a, b) = (HostMetrics::new().unwrap(), HostMetrics::new().unwrap());
        a.panics.with_label_values(&["p"]).inc();
        assert_eq!(b.panics.with_label_values(&["p"]).get(), 0);
    }

    #[test]
    fn a_plugin_that_is_no_more_leaves_no_series() {
        let metrics = HostMetrics::new().unwrap();
        let series = || metrics.registry.gather().iter().map(|family| family.get_metric().len()).sum::<usize>();
        let before = series();
        metrics.errors.with_label_values(&["p", "trap"]).inc();
        metrics.errors.with_label_values(&["q", "trap"]).inc();
        metrics.plugin_call_seconds.with_label_values(&["p"]).observe(1.0);
        metrics.forget_plugin("p");
        assert_eq!(series(), before + 1, "another's stay");
    }

    #[test]
    fn statuses_have_classes() {
        assert_eq!(
            [100, 204, 301, 404, 503, 0, 600].map(status_class),
            ["1xx", "2xx", "3xx", "4xx", "5xx", "unknown", "unknown"]
        );
    }
}
