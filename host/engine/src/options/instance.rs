use dropsonde_model::names::is_reserved;
use dropsonde_model::{InstanceId, InvalidValue, Labels};
use serde::Deserialize;

/// `[[instances]]`: an instance that the operator names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticInstance {
    pub id: String,
    #[serde(default)]
    pub labels: Labels,
    /// The samplers that poll it. None: `poll.default_samplers`.
    pub samplers: Option<Vec<String>>,
}

impl StaticInstance {
    /// Checks the instance. `key`: its place in the configuration.
    pub fn check(&self, key: &str) -> Result<(), InvalidValue> {
        if let Err(error) = InstanceId::new(&self.id) {
            return InvalidValue::of(&format!("{key}.id"), &error.to_string());
        }
        if is_reserved(&self.id) {
            return InvalidValue::of(
                &format!("{key}.id"),
                "must not begin with `dropsonde:`, as the host's own ids do",
            );
        }
        check_labels(&format!("{key}.labels"), &self.labels)
    }
}

/// Checks that the keys of labels follow Prometheus' grammar and do not already mean something else.
pub fn check_labels(key: &str, labels: &Labels) -> Result<(), InvalidValue> {
    match labels.iter().map(|(key, _)| key).find(|label| !dropsonde_model::labels::is_valid_key(label)) {
        Some(label) => InvalidValue::of(&format!("{key}.{label}"), dropsonde_model::labels::RULE),
        None => Ok(()),
    }
}
