use crate::alerts::payload::SentAlert;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A message about one group.
#[derive(Debug, Clone)]
pub(crate) struct Notice<'a> {
    /// The name of the webhook.
    pub(crate) receiver: &'a str,
    /// The address of this host.
    pub(crate) external_url: &'a str,
    /// The labels of the group.
    pub(crate) labels: BTreeMap<String, String>,
    /// Firing ones first.
    pub(crate) alerts: Vec<Arc<SentAlert>>,
    /// The number of notices of the group before this one.
    pub(crate) nth: u64,
}

impl Notice<'_> {
    pub(crate) fn status(&self) -> &'static str {
        if self.alerts.iter().any(|alert| alert.resolved_ms.is_none()) { "firing" } else { "resolved" }
    }

    pub(crate) fn group_key(&self) -> String {
        let pairs: Vec<String> = self.labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        format!("{{}}:{{{}}}", pairs.join(", "))
    }

    /// Returns a text that is the same when the notice is sent again.
    pub(crate) fn number(&self) -> String {
        let mut hash = blake3::Hasher::new();
        hash.update(self.group_key().as_bytes());
        hash.update(&self.nth.to_le_bytes());
        for alert in &self.alerts {
            hash.update(alert.key().as_bytes());
            hash.update(format!("{} {:?}", alert.starts_ms, alert.resolved_ms).as_bytes());
        }
        format!("dropsonde-{}", hash.finalize().to_hex().get(..32).unwrap_or_default())
    }
}
