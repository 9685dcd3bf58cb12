use dropsonde_delivery::options::{AlertingOptions, AlertmanagerConfig, WebhookConfig};
use dropsonde_engine::options::{AlertConfig, RuleOptions};
use dropsonde_model::Span;
use serde::Deserialize;
use std::collections::BTreeMap;

/// `[alerting]`: the evaluation of rules, and the servers that are told of alerts.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AlertingConfig {
    /// Whether the rules are in force that come with the program.
    pub default_rules: bool,
    /// The time between two evaluations of a group that names none.
    pub interval: Span,
    /// The address of this host for people, which alerts link to. None: its external name and its port.
    pub external_url: Option<String>,
    /// Labels of every alert that is sent elsewhere.
    pub external_labels: BTreeMap<String, String>,
    /// The most alerts of all rules together.
    pub max_alerts: usize,
    /// The least time between two sends of an alert to an Alertmanager.
    pub resend_delay: Span,
    /// Alertmanagers that are told of alerts.
    pub alertmanagers: Vec<AlertmanagerConfig>,
    /// Globs of files that list Alertmanagers; a relative one is relative to the folder of the configuration file.
    pub alertmanager_files: Vec<String>,
    /// Servers that get messages about alerts.
    pub webhooks: Vec<WebhookConfig>,
}

impl Default for AlertingConfig {
    fn default() -> Self {
        let RuleOptions { interval, max_alerts, .. } = RuleOptions::default();
        Self {
            default_rules: false,
            interval,
            external_url: None,
            external_labels: BTreeMap::new(),
            max_alerts,
            resend_delay: AlertingOptions::default().resend_delay,
            alertmanagers: Vec::new(),
            alertmanager_files: Vec::new(),
            webhooks: Vec::new(),
        }
    }
}

impl AlertingConfig {
    /// Returns the part about the servers that alerts are sent to.
    pub(super) fn delivery(&self) -> AlertingOptions {
        AlertingOptions {
            resend_delay: self.resend_delay,
            alertmanagers: self.alertmanagers.clone(),
            alertmanager_files: self.alertmanager_files.clone(),
            webhooks: self.webhooks.clone(),
        }
    }

    /// Returns the engine's part. `usual_url`: the address of this host, if none is configured.
    pub(super) fn rules(&self, files: &[String], alerts: &[AlertConfig], usual_url: String) -> RuleOptions {
        RuleOptions {
            files: files.to_vec(),
            alerts: alerts.to_vec(),
            has_default_rules: self.default_rules,
            interval: self.interval,
            external_url: self.external_url.clone().unwrap_or(usual_url),
            external_labels: self.external_labels.clone(),
            max_alerts: self.max_alerts,
        }
    }
}
