//! Evaluates one rule at one time.

use crate::alert::{Alert, AlertState, KnownAlert, labels_of, pairs};
use crate::file::{AlertingRule, Rule, RuleKind};
use crate::template::{Sample, Surroundings, Variables};
use dropsonde_model::Labels;
use dropsonde_model::labels::NAME;
use dropsonde_promql::{Expr, Limits, ParseOptions, Query, QueryError, Settings, Source, Times, Value, parse};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

const ALERT_NAME: &str = "alertname";

/// The time for which a resolved alert is kept, in milliseconds.
const RESOLVED_KEPT_MS: i64 = 15 * 60_000;

/// The longest text of a label or an annotation, in bytes.
const LONGEST_TEXT: usize = 64 << 10;

/// The alerts of a rule, by their labels.
pub(crate) type RuleAlerts = BTreeMap<Labels, KnownAlert>;

/// Series that can be read and written.
pub trait Storage: Source {
    /// Adds the samples of the rules of one stage of a group at one time: of all series that go on. A value that is stale ends
    /// its series. The stages of a group are numbered from 0.
    fn write(&self, stage: usize, at_ms: i64, samples: &[(Labels, f64)]);

    /// Returns the limits of the query of one rule.
    fn limits(&self) -> Limits<'_> {
        Limits::default()
    }
}

/// The settings that rules are evaluated with.
#[derive(Debug, Clone, Default)]
pub struct RuleSettings {
    pub query: Settings,
    /// Labels that this host has elsewhere.
    pub external_labels: BTreeMap<String, String>,
    /// The address at which users reach this host.
    pub external_url: String,
    /// The most alerts of the group. None: no limit.
    pub max_alerts: Option<usize>,
}

/// One evaluation of a rule.
pub(crate) struct Evaluation<'a> {
    pub(crate) at_ms: i64,
    pub(crate) looks_at_ms: i64,
    pub(crate) storage: &'a dyn Storage,
    pub(crate) settings: &'a RuleSettings,
    pub(crate) limit: Option<usize>,
    /// Whether alerts stay although their expression does not hold.
    pub(crate) is_held: bool,
    /// The number of further alerts that are allowed.
    pub(crate) room: usize,
}

impl Evaluation<'_> {
    /// Returns the series that a rule makes.
    pub(crate) fn rule(&self, rule: &Rule, known: &mut RuleAlerts) -> Result<Vec<(Labels, f64)>, String> {
        let found = self.ask(&rule.expr).map_err(|error| error.to_string())?;
        match &rule.kind {
            RuleKind::Recording { record, labels } => self.recorded(record, labels, found),
            RuleKind::Alerting(alerting) => self.alerts(alerting, found, known),
        }
    }

    fn ask(&self, expr: &Expr) -> Result<Vec<(Labels, f64)>, QueryError> {
        let query = Query { expr, times: Times::At(self.looks_at_ms), settings: self.settings.query };
        match query.run(self.storage, &self.storage.limits())?.value {
            Value::Vector(_, series) => Ok(series),
            Value::Scalar(_, value) => Ok(vec![(Labels::new(), value)]),
            _ => Err(QueryError::Invalid("the expression has no instant vector".to_owned())),
        }
    }

    fn recorded(
        &self,
        record: &str,
        own: &BTreeMap<String, String>,
        found: Vec<(Labels, f64)>,
    ) -> Result<Vec<(Labels, f64)>, String> {
        let series = found.into_iter().map(|(labels, value)| {
            let mut all = pairs(&labels);
            all.extend(own.clone());
            all.insert(NAME.to_owned(), record.to_owned());
            (labels_of(all), value)
        });
        let series: Vec<(Labels, f64)> = series.collect();
        let names: BTreeSet<&str> = series.iter().map(|(labels, _)| labels.as_text()).collect();
        if names.len() < series.len() {
            return Err("vector contains metrics with the same labelset after applying rule labels".to_owned());
        }
        match self.limit {
            Some(limit) if series.len() > limit => {
                Err(format!("exceeded limit of {limit} with {} series", series.len()))
            }
            _ => Ok(series),
        }
    }

    fn alerts(
        &self,
        rule: &AlertingRule,
        found: Vec<(Labels, f64)>,
        known: &mut RuleAlerts,
    ) -> Result<Vec<(Labels, f64)>, String> {
        let mut current = BTreeMap::new();
        for (labels, value) in found {
            let (labels, annotations) = self.described(rule, &labels, value);
            if current.insert(labels, (annotations, value)).is_some() {
                return Err("vector contains metrics with the same labelset after applying alert labels".to_owned());
            }
        }
        let new = current.keys().filter(|labels| !known.contains_key(*labels)).count();
        if new > self.room {
            let room = self.room;
            return Err(format!(
                "it has {new} new alerts, and there is room for {room}: narrow it, or raise alerting.max_alerts"
            ));
        }
        let is_current: HashSet<Labels> = current.keys().cloned().collect();
        for (labels, (annotations, value)) in current {
            match known.get_mut(&labels).filter(|known| known.alert.state != AlertState::Inactive) {
                Some(known) if known.alert.annotations == annotations && known.alert.value == value => {}
                Some(known) => {
                    let known = Arc::make_mut(&mut known.alert);
                    (known.value, known.annotations) = (value, annotations);
                }
                None => {
                    let alert = Alert {
                        labels: labels.clone(),
                        annotations,
                        state: AlertState::Pending,
                        value,
                        active_ms: self.at_ms,
                        fired_ms: None,
                        keep_firing_since_ms: None,
                        resolved_ms: None,
                    };
                    known.insert(labels, KnownAlert::of(alert));
                }
            }
        }
        let mut made = Vec::new();
        let mut active = 0;
        known.retain(|labels, known| {
            let alert = &mut known.alert;
            let is_absent = !is_current.contains(labels);
            let stays = self.is_held && alert.state != AlertState::Inactive;
            if is_absent && !stays {
                match self.absent(rule, alert) {
                    Some(true) => {}
                    Some(false) => return true,
                    None => return false,
                }
            } else if !is_absent && alert.keep_firing_since_ms.is_some() {
                Arc::make_mut(alert).keep_firing_since_ms = None;
            }
            active += 1;
            self.present(rule, alert);
            made.extend(known.series());
            true
        });
        match self.limit {
            Some(limit) if active > limit => {
                known.clear();
                Err(format!("exceeded limit of {limit} with {active} alerts"))
            }
            _ => Ok(made),
        }
    }

    /// Lets an active alert fire, if it is time. If the rule wants it to be active for longer by now, it no longer fires.
    fn present(&self, rule: &AlertingRule, alert: &mut Arc<Alert>) {
        let is_long_enough = self.at_ms.saturating_sub(alert.active_ms) >= rule.for_ms;
        match alert.state {
            AlertState::Pending if is_long_enough => {
                let alert = Arc::make_mut(alert);
                (alert.state, alert.fired_ms) = (AlertState::Firing, Some(self.at_ms));
            }
            AlertState::Firing if !is_long_enough => {
                let alert = Arc::make_mut(alert);
                (alert.state, alert.fired_ms, alert.keep_firing_since_ms) = (AlertState::Pending, None, None);
            }
            _ => {}
        }
    }

    /// Changes an alert whose expression does not hold. Returns whether it is kept firing; none if it is forgotten.
    fn absent(&self, rule: &AlertingRule, alert: &mut Arc<Alert>) -> Option<bool> {
        let mut is_kept_firing = false;
        if alert.state == AlertState::Firing && rule.keep_firing_for_ms > 0 {
            let since_ms = *Arc::make_mut(alert).keep_firing_since_ms.get_or_insert(self.at_ms);
            is_kept_firing = self.at_ms.saturating_sub(since_ms) < rule.keep_firing_for_ms;
        }
        let is_old = |resolved_ms: i64| self.at_ms.saturating_sub(resolved_ms) > RESOLVED_KEPT_MS;
        if alert.state == AlertState::Pending || alert.resolved_ms.is_some_and(is_old) {
            return None;
        }
        if alert.state != AlertState::Inactive && !is_kept_firing {
            let alert = Arc::make_mut(alert);
            (alert.state, alert.resolved_ms) = (AlertState::Inactive, Some(self.at_ms));
        }
        Some(is_kept_firing)
    }

    /// Returns the labels and the annotations of the alert of a series.
    fn described(&self, rule: &AlertingRule, labels: &Labels, value: f64) -> (Labels, BTreeMap<String, String>) {
        let external_labels = self.settings.external_labels.clone();
        let variables = Variables { labels: pairs(labels), value, external_labels };
        let expanded = |(name, template): (&String, &crate::Template)| {
            let text = match template.expand(&variables, self) {
                Ok(text) if text.len() > LONGEST_TEXT => {
                    format!("<error expanding template: its text has more than {LONGEST_TEXT} bytes>")
                }
                Ok(text) => text,
                Err(error) => format!("<error expanding template: {error}>"),
            };
            (name.clone(), text)
        };
        let mut all = pairs(labels);
        all.remove(NAME);
        all.extend(rule.labels.iter().map(expanded));
        all.insert(ALERT_NAME.to_owned(), rule.name.clone());
        (labels_of(all), rule.annotations.iter().map(expanded).collect())
    }
}

impl Surroundings for Evaluation<'_> {
    fn query(&self, expression: &str) -> Result<Vec<Sample>, String> {
        let expr = parse(expression, ParseOptions::default()).map_err(|error| error.to_string())?;
        let found = self.ask(&expr).map_err(|error| error.to_string())?;
        Ok(found.into_iter().map(|(labels, value)| Sample { labels: pairs(&labels), value }).collect())
    }

    fn now_ms(&self) -> i64 {
        self.looks_at_ms
    }

    fn external_url(&self) -> &str {
        &self.settings.external_url
    }
}
