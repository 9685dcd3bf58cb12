use super::ConfigError;
use crate::labels::Labels;
use dropsonde_store::InstanceId;
use serde::Deserialize;

/// What the host's own instances begin with.
pub(crate) const RESERVED: &str = "dropsonde:";

/// `[[instances]]`: one the operator names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticInstance {
    pub id: String,
    #[serde(default)]
    pub labels: Labels,
    /// None: `poll.default_samplers`.
    pub samplers: Option<Vec<String>>,
}

impl StaticInstance {
    /// `key` is where it stands.
    pub(super) fn check(&self, key: &str) -> Result<(), ConfigError> {
        if let Err(error) = InstanceId::new(&self.id) {
            return ConfigError::value(&format!("{key}.id"), &error.to_string());
        }
        if self.id.starts_with(RESERVED) {
            return ConfigError::value(&format!("{key}.id"), "is one of the host's own");
        }
        check_labels(&format!("{key}.labels"), &self.labels)
    }
}

/// Keys by Prometheus' grammar that mean nothing else already.
pub(super) fn check_labels(key: &str, labels: &Labels) -> Result<(), ConfigError> {
    match labels.iter().map(|(key, _)| key).find(|label| !crate::labels::is_valid_key(label)) {
        Some(label) => ConfigError::value(&format!("{key}.{label}"), crate::labels::RULE),
        None => Ok(()),
    }
}
