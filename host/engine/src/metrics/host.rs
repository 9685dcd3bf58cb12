use super::core::{histogram_options, options, register};
use super::remotes::RemoteMetrics;
use super::rules::RuleMetrics;
use super::{CoreMetrics, MetricRegistry, RegistrationError};
use prometheus::{
    CounterVec, Gauge, GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets,
};

/// The reasons why samples are dropped.
const DROPPED: [&str; 6] = ["offset", "poison", "budget", "slow_reader", "untracked", "memory"];

/// The host's own metrics, in a registry of their own: two hosts in one process share nothing.
#[derive(Debug, Clone)]
pub struct HostMetrics {
    pub registry: MetricRegistry,
    pub core: CoreMetrics,
    /// By reason: `offset`, `poison`, `budget`, `slow_reader`, `untracked`, `memory`.
    pub samples_dropped: IntCounterVec,
    /// By reason: `full`, `unreachable`.
    pub spans_dropped: IntCounterVec,
    pub http_requests: IntCounterVec,
    pub http_request_seconds: HistogramVec,
    /// By reason: `all`, `peer`.
    pub http_connections_refused: IntCounterVec,
    /// Polls in which a call failed.
    pub health_checks_failed: IntCounterVec,
    pub plugin_call_seconds: HistogramVec,
    pub plugin_polls: IntCounterVec,
    pub plugin_polls_missed: IntCounterVec,
    pub plugin_memory_bytes: IntGaugeVec,
    pub plugin_cpu_seconds: CounterVec,
    pub plugin_log_lines_dropped: IntCounterVec,
    pub plugin_metrics_overflow: IntCounterVec,
    /// By plugin and reason: `handle`, `value`.
    pub plugin_metrics_ignored: IntCounterVec,
    pub plugins_uploaded: IntCounter,
    pub plugin_restores_succeeded: IntCounter,
    pub plugin_restores_failed: IntCounter,
    /// By reason: `io`, `full`, `refusals`, `writes`, `closed`.
    pub audit_entries_dropped: IntCounterVec,
    pub workers_spawned: IntCounter,
    /// By reason: `graceful`, `crashed`, `idle_timeout`.
    pub workers_stopped: IntCounterVec,
    pub build_seconds: HistogramVec,
    pub cold_start_seconds: HistogramVec,
    /// By outcome: `applied`, `refused`, `failed`.
    pub config_reloads: IntCounterVec,
    pub config_last_reload_successful: IntGauge,
    pub rules: RuleMetrics,
    pub remotes: RemoteMetrics,
    pub build_info: GaugeVec,
    pub start_time_seconds: Gauge,
    /// By direction: `back`, `ahead`.
    pub clock_jumps: IntCounterVec,
    pub clock_last_jump_seconds: Gauge,
}

impl HostMetrics {
    /// Returns the number of samples that were dropped for any reason.
    pub(crate) fn all_samples_dropped(&self) -> u64 {
        DROPPED.iter().map(|reason| self.samples_dropped.with_label_values(&[reason]).get()).sum()
    }

    pub fn new() -> Result<Self, RegistrationError> {
        let registry = MetricRegistry::new()?;
        let core = CoreMetrics::register(&registry)?;
        let all = registry.prometheus();
        let plain = |name, help| register(all, IntCounter::with_opts(options(name, help)));
        let counter = |name, help, labels: &[&str]| register(all, IntCounterVec::new(options(name, help), labels));
        let gauge = |name, help, labels: &[&str]| register(all, IntGaugeVec::new(options(name, help), labels));
        let histogram = |name, help, labels: &[&str], buckets| {
            register(all, HistogramVec::new(histogram_options(name, help, buckets), labels))
        };
        let by_plugin: &[&str] = &["plugin"];
        let metrics = Self {
            core,
            samples_dropped: counter("samples_dropped_total", "Samples that were dropped, by reason.", &["reason"])?,
            spans_dropped: counter(
                "spans_dropped_total",
                "Spans that were dropped before they were exported, by reason.",
                &["reason"],
            )?,
            http_requests: counter(
                "http_requests_total",
                "HTTP requests by route and class of status.",
                &["route", "status"],
            )?,
            http_request_seconds: histogram(
                "http_request_seconds",
                "Duration of HTTP requests without streams, by route and class of status, in seconds.",
                &["route", "status"],
                prometheus::DEFAULT_BUCKETS.to_vec(),
            )?,
            http_connections_refused: counter(
                "http_connections_refused_total",
                "Connections refused because a limit was reached: of all connections, or of one client's (peer).",
                &["reason"],
            )?,
            health_checks_failed: counter(
                "health_checks_failed_total",
                "Polls of a plugin in which a call failed.",
                by_plugin,
            )?,
            // The buckets reach from a warm call on one instance to a deadline of seconds.
            plugin_call_seconds: histogram(
                "plugin_call_seconds",
                "Duration of a plugin's calls, in seconds.",
                by_plugin,
                exponential_buckets(0.000_01, 4.0, 10)?,
            )?,
            plugin_polls: counter("plugin_polls_total", "Polls of a plugin.", by_plugin)?,
            plugin_polls_missed: counter(
                "plugin_polls_missed_total",
                "Polls of a plugin that were skipped because the one before took too long.",
                by_plugin,
            )?,
            plugin_memory_bytes: gauge(
                "plugin_memory_bytes",
                "Bytes that a plugin's memories and tables take.",
                by_plugin,
            )?,
            plugin_cpu_seconds: register(
                all,
                CounterVec::new(
                    options("plugin_cpu_seconds_total", "CPU time that a plugin's calls took, in seconds."),
                    by_plugin,
                ),
            )?,
            plugin_log_lines_dropped: counter(
                "plugin_log_lines_dropped_total",
                "Log lines of a plugin that were dropped because it exceeded its limit.",
                by_plugin,
            )?,
            plugin_metrics_overflow: counter(
                "plugin_metrics_overflow_total",
                "Metrics and series that a plugin registered beyond its limit and that were refused.",
                by_plugin,
            )?,
            plugin_metrics_ignored: counter(
                "plugin_metrics_ignored_total",
                "Recordings of a plugin that were ignored: for a series that it does not have (handle), or with an \
                 invalid value.",
                &["plugin", "reason"],
            )?,
            plugins_uploaded: plain("plugins_uploaded_total", "Plugins that were uploaded through the API.")?,
            plugin_restores_succeeded: plain(
                "plugin_restores_succeeded_total",
                "Times a plugin's last good version was restored because a newer one did not work.",
            )?,
            plugin_restores_failed: plain(
                "plugin_restores_failed_total",
                "Times a plugin's last good version could not be restored.",
            )?,
            audit_entries_dropped: counter(
                "audit_entries_dropped_total",
                "Entries of the audit log that were not written, by reason.",
                &["reason"],
            )?,
            workers_spawned: plain("workers_spawned_total", "Plugin instances that were started.")?,
            workers_stopped: counter("workers_stopped_total", "Plugin instances that ended, by reason.", &["reason"])?,
            build_seconds: histogram(
                "build_seconds",
                "Time to compile a plugin or load it from the cache, in seconds.",
                by_plugin,
                exponential_buckets(0.005, 2.0, 12)?,
            )?,
            cold_start_seconds: histogram(
                "cold_start_seconds",
                "Time to start a plugin's first instance once it is compiled, in seconds.",
                by_plugin,
                exponential_buckets(0.001, 2.0, 12)?,
            )?,
            config_reloads: counter(
                "config_reloads_total",
                "Configuration reloads by outcome: applied, refused, or failed (applied with a broken part).",
                &["outcome"],
            )?,
            config_last_reload_successful: register(
                all,
                IntGauge::with_opts(options(
                    "config_last_reload_successful",
                    "1 when the configuration that was read last is in force and works, 0 when not.",
                )),
            )?,
            rules: RuleMetrics::register(all)?,
            remotes: RemoteMetrics::register(all)?,
            build_info: register(
                all,
                GaugeVec::new(options("build_info", "Always 1; the version is in the label."), &["version"]),
            )?,
            start_time_seconds: register(
                all,
                Gauge::with_opts(options("start_time_seconds", "Time when the host started, in seconds since 1970.")),
            )?,
            clock_jumps: counter(
                "clock_jumps_total",
                "Times the wall clock was set, by direction: back or ahead.",
                &["direction"],
            )?,
            clock_last_jump_seconds: register(
                all,
                Gauge::with_opts(options(
                    "clock_last_jump_seconds",
                    "Seconds by which the wall clock was set the last time; negative when it was set back, 0 when it \
                     was not set since the host started.",
                )),
            )?,
            registry,
        };
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        // The series begin at 0, so that their first increase is seen.
        for reason in DROPPED {
            metrics.samples_dropped.with_label_values(&[reason]);
        }
        for direction in ["back", "ahead"] {
            metrics.clock_jumps.with_label_values(&[direction]);
        }
        for outcome in ["applied", "refused", "failed"] {
            metrics.config_reloads.with_label_values(&[outcome]);
        }
        // The host started with the configuration that was read last.
        metrics.config_last_reload_successful.set(1);
        for reason in ["all", "peer"] {
            metrics.http_connections_refused.with_label_values(&[reason]);
        }
        for reason in ["io", "full", "refusals", "writes", "closed"] {
            metrics.audit_entries_dropped.with_label_values(&[reason]);
        }
        for reason in ["graceful", "crashed", "idle_timeout"] {
            metrics.workers_stopped.with_label_values(&[reason]);
        }
        Ok(metrics)
    }

    /// Starts the counters of a plugin at 0.
    pub fn know_plugin(&self, name: &str) {
        for vector in self.of_plugin() {
            vector.with_label_values(&[name]);
        }
        for reason in ["handle", "value"] {
            self.plugin_metrics_ignored.with_label_values(&[name, reason]);
        }
        self.core.errors(name, "trap", 0);
        self.core.panics(name, 0);
    }

    /// Removes the series of a plugin that is gone.
    pub fn forget_plugin(&self, name: &str) {
        self.core.forget(name);
        // Removing fails for a series that the plugin never had.
        for vector in self.of_plugin() {
            let _ = vector.remove_label_values(&[name]);
        }
        for reason in ["handle", "value"] {
            let _ = self.plugin_metrics_ignored.remove_label_values(&[name, reason]);
        }
        let _ = self.plugin_memory_bytes.remove_label_values(&[name]);
        let _ = self.plugin_cpu_seconds.remove_label_values(&[name]);
        for vector in [&self.plugin_call_seconds, &self.build_seconds, &self.cold_start_seconds] {
            let _ = vector.remove_label_values(&[name]);
        }
    }

    fn of_plugin(&self) -> [&IntCounterVec; 5] {
        [
            &self.health_checks_failed,
            &self.plugin_polls,
            &self.plugin_polls_missed,
            &self.plugin_log_lines_dropped,
            &self.plugin_metrics_overflow,
        ]
    }
}

/// Returns the class of an HTTP status, such as `2xx`, for `dropsonde_http_requests_total`; `unknown` for other
/// numbers.
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
        a.plugin_polls.with_label_values(&["p"]).inc();
        assert_eq!(b.plugin_polls.with_label_values(&["p"]).get(), 0);
    }

    #[test]
    fn forget_plugin_removes_all_series_of_the_plugin() {
        let metrics = HostMetrics::new().unwrap();
        let series =
            || metrics.registry.prometheus().gather().iter().map(|family| family.get_metric().len()).sum::<usize>();
        let before = series();
        metrics.know_plugin("p");
        metrics.core.errors("p", "trap", 1);
        metrics.core.errors("q", "trap", 1);
        metrics.plugin_call_seconds.with_label_values(&["p"]).observe(1.0);
        metrics.plugin_cpu_seconds.with_label_values(&["p"]).inc_by(1.0);
        metrics.forget_plugin("p");
        assert_eq!(series(), before + 1, "another's stay");
    }

    #[test]
    fn status_class_groups_http_statuses() {
        assert_eq!(
            [100, 204, 301, 404, 503, 0, 600].map(status_class),
            ["1xx", "2xx", "3xx", "4xx", "5xx", "unknown", "unknown"]
        );
    }
}
