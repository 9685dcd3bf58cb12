//! Alerts as other servers read them.

use dropsonde_engine::rules::{ListedAlert, generator_url};
use dropsonde_engine::{Options, json};
use dropsonde_rules::{Alert, AlertState};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The time of what has not happened, as Go writes it.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// An alert that fires or is resolved, with all that others are told of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SentAlert {
    /// With those of this host.
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
    pub(crate) starts_ms: i64,
    /// The time when it was resolved; none while it fires.
    pub(crate) resolved_ms: Option<i64>,
    pub(crate) url: String,
}

/// An alert in the API of Alertmanager, version 2.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PostedAlert<'a> {
    labels: &'a BTreeMap<String, String>,
    annotations: BTreeMap<&'a str, &'a str>,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
}

/// An alert in a message to a webhook.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NotifiedAlert<'a> {
    status: &'static str,
    labels: &'a BTreeMap<String, String>,
    annotations: &'a BTreeMap<String, String>,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
    fingerprint: String,
}

impl SentAlert {
    /// Returns an alert as others are told of it; none if it never fired.
    pub(crate) fn of(listed: &ListedAlert, options: &Options) -> Option<Self> {
        let alert: &Alert = &listed.alert;
        if alert.state == AlertState::Pending {
            return None;
        }
        let mut labels = options.rules.external_labels.clone();
        labels.extend(alert.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        Some(Self {
            labels,
            annotations: alert.annotations.clone(),
            starts_ms: alert.fired_ms?,
            resolved_ms: alert.resolved_ms.filter(|_| alert.state == AlertState::Inactive),
            url: generator_url(options, &listed.expr()),
        })
    }

    /// Returns a text that no alert with other labels has.
    pub(crate) fn key(&self) -> String {
        let pairs: Vec<String> = self.labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        pairs.join(",")
    }

    /// Returns the alert for Alertmanager. `valid_ms`: when a firing one is taken as resolved if nothing more is heard.
    pub(crate) fn posted(&self, valid_ms: i64) -> PostedAlert<'_> {
        let has_text = |(name, text): (&'_ String, &'_ String)| !name.is_empty() && !text.is_empty();
        PostedAlert {
            labels: &self.labels,
            annotations: self
                .annotations
                .iter()
                .filter(|pair| has_text(*pair))
                .map(|(name, text)| (name.as_str(), text.as_str()))
                .collect(),
            starts_at: json::time(self.starts_ms),
            ends_at: json::time(self.resolved_ms.unwrap_or(valid_ms)),
            generator_url: &self.url,
        }
    }

    pub(crate) fn notified(&self) -> NotifiedAlert<'_> {
        NotifiedAlert {
            status: self.status(),
            labels: &self.labels,
            annotations: &self.annotations,
            starts_at: json::time(self.starts_ms),
            ends_at: self.resolved_ms.map_or_else(|| NEVER.to_owned(), json::time),
            generator_url: &self.url,
            fingerprint: format!("{:016x}", fingerprint(&self.labels)),
        }
    }

    pub(crate) fn status(&self) -> &'static str {
        if self.resolved_ms.is_some() { "resolved" } else { "firing" }
    }
}

/// Returns the number by which Prometheus and Alertmanager know a set of labels: FNV-1a over its sorted pairs.
fn fingerprint(labels: &BTreeMap<String, String>) -> u64 {
    const SEPARATOR: u8 = 0xff;
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for (name, value) in labels {
        let bytes = name.bytes().chain([SEPARATOR]).chain(value.bytes()).chain([SEPARATOR]);
        for byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_of_labels_is_that_of_prometheus() {
        assert_eq!(fingerprint(&BTreeMap::new()), 0xcbf2_9ce4_8422_2325);
        // From the tests of prometheus/common.
        let labels = [("fear", "love is not enough"), ("name", "garland, briggs")];
        let labels: BTreeMap<String, String> =
            labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(fingerprint(&labels), 5_799_056_148_416_392_346);
    }
}
