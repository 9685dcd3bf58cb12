//! Relabelling: rules that keep, drop and rewrite the targets that were discovered, as in Prometheus.

use mapping::whole;
use regex_lite::Regex;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The labels of a target. Names that begin with `__` are for the rules only.
pub(crate) type TargetLabels = BTreeMap<String, String>;

/// A rule, with Prometheus' names and defaults.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RelabelConfig {
    #[serde(default)]
    source_labels: Vec<String>,
    #[serde(default = "separator")]
    separator: String,
    #[serde(default = "everything")]
    regex: String,
    #[serde(default = "first_group")]
    replacement: String,
    target_label: Option<String>,
    #[serde(default)]
    action: Action,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    #[default]
    Replace,
    Keep,
    Drop,
}

/// A rule that was checked.
#[derive(Debug, Clone)]
pub(crate) struct RelabelRule {
    config: RelabelConfig,
    regex: Regex,
}

fn separator() -> String {
    ";".to_owned()
}

fn everything() -> String {
    "(.*)".to_owned()
}

fn first_group() -> String {
    "$1".to_owned()
}

// === impl RelabelRule ===

impl RelabelRule {
    pub(crate) fn new(config: &RelabelConfig) -> Result<Self, String> {
        let regex = whole(&config.regex).map_err(|why| format!("relabel: {:?} is not valid: {why}", config.regex))?;
        if (config.action == Action::Replace) != config.target_label.is_some() {
            return Err("relabel: `target_label` belongs to the action replace, which needs it".to_owned());
        }
        Ok(Self { config: config.clone(), regex })
    }

    /// Applies the rule. Returns whether the target stays.
    pub(crate) fn apply(&self, labels: &mut TargetLabels) -> bool {
        let RelabelConfig { source_labels, separator, replacement, target_label, action, .. } = &self.config;
        let values: Vec<&str> =
            source_labels.iter().map(|label| labels.get(label).map_or("", String::as_str)).collect();
        let value = values.join(separator.as_str());
        let found = self.regex.captures(&value);
        match (action, target_label) {
            (Action::Keep, _) => found.is_some(),
            (Action::Drop, _) => found.is_none(),
            (Action::Replace, Some(label)) => {
                if let Some(found) = found {
                    let mut replaced = String::new();
                    found.expand(replacement, &mut replaced);
                    match replaced.is_empty() {
                        true => labels.remove(label),
                        false => labels.insert(label.clone(), replaced),
                    };
                }
                true
            }
            (Action::Replace, None) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[(&str, &str)]) -> TargetLabels {
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn apply(rule: &str, before: &[(&str, &str)]) -> Option<TargetLabels> {
        let mut labels = labels(before);
        RelabelRule::new(&serde_json::from_str(rule).unwrap()).unwrap().apply(&mut labels).then_some(labels)
    }

    #[test]
    fn rules_keep_and_drop_targets_whose_whole_value_matches() {
        let web: &[_] = &[("job", "web"), ("env", "prod")];
        for rule in [
            r#"{"action": "keep", "source_labels": ["job"], "regex": "web|api"}"#,
            r#"{"action": "keep", "source_labels": ["job", "env"], "regex": "web;prod"}"#,
            r#"{"action": "drop", "source_labels": ["job"], "regex": "we"}"#,
            r#"{"action": "drop", "source_labels": ["missing"], "regex": ".+"}"#,
        ] {
            assert_eq!(apply(rule, web), Some(labels(web)), "{rule}");
        }
        assert_eq!(apply(r#"{"action": "keep", "source_labels": ["job"], "regex": "we"}"#, web), None);
        assert_eq!(apply(r#"{"action": "drop", "source_labels": ["job"], "regex": "web"}"#, web), None);
    }

    #[test]
    fn rules_replace_labels_by_groups_of_what_matched() {
        let before: &[_] = &[("__address__", "web-1.example:9100")];
        let rule = r#"{"source_labels": ["__address__"], "regex": "([^.]+)\\..*:(\\d+)", "target_label": "id", "replacement": "${1}-$2"}"#;
        assert_eq!(apply(rule, before).unwrap()["id"], "web-1-9100");
        let plain = r#"{"target_label": "workload", "replacement": "web"}"#;
        assert_eq!(apply(plain, before).unwrap()["workload"], "web");
        let empty = r#"{"target_label": "__address__", "replacement": ""}"#;
        assert_eq!(apply(empty, before).unwrap(), labels(&[]));
        let other = r#"{"source_labels": ["__address__"], "regex": "x", "target_label": "id"}"#;
        assert_eq!(apply(other, before).unwrap(), labels(before), "what does not match stays");
    }

    #[test]
    fn a_rule_with_a_mistake_is_refused() {
        for rule in [r#"{"regex": "("}"#, r#"{"source_labels": ["a"]}"#, r#"{"action": "drop", "target_label": "a"}"#] {
            assert!(RelabelRule::new(&serde_json::from_str(rule).unwrap()).is_err(), "{rule}");
        }
    }
}
