use super::RegistrationError;
use super::core::{options, register};
use prometheus::{GaugeVec, IntCounter, IntCounterVec, Registry};

/// Metrics of groups of rules. The label of a group is its file and its name, as in Prometheus.
#[derive(Debug, Clone)]
pub struct RuleMetrics {
    /// Rules that were evaluated.
    pub evaluations: IntCounterVec,
    pub failures: IntCounterVec,
    /// Ticks of a group that were skipped.
    pub missed: IntCounterVec,
    /// The duration of the last evaluation.
    pub seconds: GaugeVec,
    /// The time of the last evaluation.
    pub last: GaugeVec,
    pub samples_refused: IntCounter,
}

impl RuleMetrics {
    pub(super) fn register(all: &Registry) -> Result<Self, RegistrationError> {
        let of_group: &[&str] = &["rule_group"];
        let counter = |name, help| register(all, IntCounterVec::new(options(name, help), of_group));
        let gauge = |name, help| register(all, GaugeVec::new(options(name, help), of_group));
        Ok(Self {
            evaluations: counter("rule_evaluations_total", "Evaluations of rules.")?,
            failures: counter("rule_evaluation_failures_total", "Evaluations of rules that failed.")?,
            missed: counter(
                "rule_group_evaluations_missed_total",
                "Evaluations of a group that were skipped because the one before took too long.",
            )?,
            seconds: gauge("rule_group_last_duration_seconds", "Duration of a group's last evaluation, in seconds.")?,
            last: gauge(
                "rule_group_last_evaluation_timestamp_seconds",
                "Time of a group's last evaluation, in seconds since 1970.",
            )?,
            samples_refused: register(
                all,
                IntCounter::with_opts(options(
                    "rule_samples_refused_total",
                    "Samples that rules made and that were refused because their share of series or memory is used up.",
                )),
            )?,
        })
    }

    /// Removes the series of a group that is gone.
    pub fn forget(&self, group: &str) {
        // Removing fails for a group that was never evaluated.
        for counters in [&self.evaluations, &self.failures, &self.missed] {
            let _ = counters.remove_label_values(&[group]);
        }
        for gauges in [&self.seconds, &self.last] {
            let _ = gauges.remove_label_values(&[group]);
        }
    }
}
