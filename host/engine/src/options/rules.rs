use dropsonde_model::{InvalidValue, Labels, Span};
use dropsonde_promql::{Expr, ExprKind, ParseOptions, ValueType, parse};
use glob::Pattern;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Rules and alerts: `rules`, `[[alerts]]` and a part of `[alerting]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleOptions {
    /// Globs of rule files.
    pub files: Vec<String>,
    /// Alerts that need no rule file.
    pub alerts: Vec<AlertConfig>,
    /// Whether the rules are in force that come with the program.
    pub has_default_rules: bool,
    /// The time between two evaluations of a group that names none.
    pub interval: Span,
    /// The address of this host for people; none: its name and port are not known.
    pub external_url: String,
    /// Labels of every alert that is sent elsewhere.
    pub external_labels: BTreeMap<String, String>,
    /// The most alerts of all rules together.
    pub max_alerts: usize,
}

/// `[[alerts]]`: an alert over fields of samples and of the snapshot, by the names that they have there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertConfig {
    pub name: String,
    /// An expression in PromQL in which fields have their own names: `memory_used_mb / memory_limit_mb > 0.9`.
    pub when: String,
    /// The time for which the expression must hold.
    #[serde(default, rename = "for")]
    pub for_time: Option<Span>,
    /// The time for which an alert goes on firing after the expression held last.
    #[serde(default)]
    pub keep_firing_for: Option<Span>,
    #[serde(default)]
    pub severity: Severity,
    /// A glob of the instances that the alert is about.
    #[serde(default)]
    pub instance: Option<String>,
    /// Labels of the instances that the alert is about.
    #[serde(default)]
    pub labels: Labels,
    /// One line for people, a template. None: the expression and its value.
    #[serde(default)]
    pub summary: Option<String>,
}

/// The severity of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Info,
    #[default]
    Warning,
    Critical,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl Default for RuleOptions {
    fn default() -> Self {
        Self {
            files: Vec::new(),
            alerts: Vec::new(),
            has_default_rules: false,
            interval: Span::from_secs(60),
            external_url: String::new(),
            external_labels: BTreeMap::new(),
            max_alerts: 100_000,
        }
    }
}

impl RuleOptions {
    pub fn check(&self) -> Result<(), InvalidValue> {
        for (nth, pattern) in self.files.iter().enumerate() {
            if let Err(error) = Pattern::new(pattern) {
                return InvalidValue::of(&format!("rules[{nth}]"), &format!("is an invalid glob: {error}"));
            }
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&self.interval.get()) {
            return InvalidValue::of("alerting.interval", "must be at least 1s and at most 1d");
        }
        if !(1..=1_000_000).contains(&self.max_alerts) {
            return InvalidValue::of("alerting.max_alerts", "must be at least 1 and at most 1000000");
        }
        let is_url = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        if !self.external_url.is_empty() && !is_url(&self.external_url) {
            return InvalidValue::of("alerting.external_url", "must be a URL such as https://dropsonde.example/");
        }
        if let Some(name) = self.external_labels.keys().find(|name| !is_label(name)) {
            let why = format!("has {name:?}, which is not the name of a label: letters, digits and `_`");
            return InvalidValue::of("alerting.external_labels", &why);
        }
        let mut names = BTreeSet::new();
        for (nth, alert) in self.alerts.iter().enumerate() {
            let key = format!("alerts[{nth}]");
            if !names.insert(&alert.name) {
                return InvalidValue::of(
                    &format!("{key}.name"),
                    &format!("{:?} is the name of two alerts", alert.name),
                );
            }
            alert.check(&key)?;
        }
        Ok(())
    }
}

impl AlertConfig {
    fn check(&self, key: &str) -> Result<(), InvalidValue> {
        let of = |part: &str| format!("{key}.{part}");
        let is_plain = !self.name.is_empty() && self.name.len() <= 255 && !self.name.contains(char::is_control);
        if !is_plain {
            return InvalidValue::of(&of("name"), "must have 1 to 255 bytes and no control characters");
        }
        let expr = match parse(&self.when, ParseOptions::default()) {
            Ok(expr) => expr,
            Err(error) => return InvalidValue::of(&of("when"), &format!("is no expression: {error}")),
        };
        if expr.value_type() != ValueType::Vector || !decides(&expr) {
            let why = "must be a condition on a field, such as `cpu_percent > 90`";
            return InvalidValue::of(&of("when"), why);
        }
        if let Some(Err(error)) = self.instance.as_deref().map(Pattern::new) {
            return InvalidValue::of(&of("instance"), &format!("is an invalid glob: {error}"));
        }
        if let Some(Err(error)) = self.summary.as_deref().map(dropsonde_rules::Template::parse) {
            return InvalidValue::of(&of("summary"), &format!("is no template: {error}"));
        }
        super::check_labels(&of("labels"), &self.labels)
    }
}

fn is_label(name: &str) -> bool {
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    begins && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && name != "alertname"
}

/// Returns whether an expression leaves out series, so that it can hold or not.
fn decides(expr: &Expr) -> bool {
    let is_condition = match &expr.kind {
        ExprKind::Binary { operator, is_bool, .. } => (operator.is_comparison() && !is_bool) || operator.is_on_sets(),
        ExprKind::Call { function, .. } => function.name.starts_with("absent"),
        _ => false,
    };
    is_condition || expr.children().into_iter().any(decides)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(when: &str) -> Result<(), String> {
        let alert: AlertConfig = toml::from_str(&format!("name = 'a'\nwhen = '{when}'")).unwrap();
        let options = RuleOptions { alerts: vec![alert], ..RuleOptions::default() };
        options.check().map_err(|error| error.to_string())
    }

    #[test]
    fn an_alert_needs_a_condition() {
        assert_eq!(checked("memory_used_mb / memory_limit_mb > 0.9"), Ok(()));
        assert_eq!(checked("absent(cpu_percent)"), Ok(()));
        for wrong in ["cpu_percent", "1 > bool 2", "cpu_percent >", "cpu_percent > bool 5", "cpu_percent[5m]"] {
            let why = checked(wrong).unwrap_err();
            assert!(why.starts_with("alerts[0].when: "), "{wrong}: {why}");
        }
    }
}
