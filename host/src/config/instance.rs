use super::ConfigError;
use dropsonde_model::Labels;
use dropsonde_model::names::is_reserved;
use dropsonde_store::InstanceId;
use serde::Deserialize;

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
        if is_reserved(&self.id) {
            return ConfigError::value(&format!("{key}.id"), "is one of the host's own");
        }
        check_labels(&format!("{key}.labels"), &self.labels)
    }
}

/// Keys by Prometheus' grammar that mean nothing else already.
pub(super) fn check_labels(key: &str, labels: &Labels) -> Result<(), ConfigError> {
    match labels.iter().map(|(key, _)| key).find(|label| !dropsonde_model::labels::is_valid_key(label)) {
        Some(label) => ConfigError::value(&format!("{key}.{label}"), dropsonde_model::labels::RULE),
        None => Ok(()),
    }
}
