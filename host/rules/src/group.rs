//! Evaluates the rules of a group, one after the other: later ones see what earlier ones made.

use crate::file::{AlertingRule, Rule, RuleGroup, RuleKind};
use crate::stages::stages;
use crate::template::{Sample, Surroundings, Variables};
use dropsonde_model::Labels;
use dropsonde_model::labels::NAME;
use dropsonde_promql::{Expr, Limits, ParseOptions, Query, QueryError, Settings, Source, Times, Value, parse};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The series with the state of alerts.
pub const ALERTS: &str = "ALERTS";

/// The series with the times since which the expressions of alerts hold.
pub const ALERTS_FOR_STATE: &str = "ALERTS_FOR_STATE";

const ALERT_NAME: &str = "alertname";
const ALERT_STATE: &str = "alertstate";

/// How long an alert that was resolved is kept, in milliseconds.
pub const RESOLVED_KEPT_MS: i64 = 15 * 60_000;

/// The longest text of a label or an annotation, in bytes.
const LONGEST_TEXT: usize = 64 << 10;

/// Series that can be read and written.
pub trait Storage: Source {
    /// Adds what the rules of one stage of a group made at one time: all series that go on. A value that is stale ends
    /// its series. The stages of a group are numbered from 0.
    fn write(&self, stage: usize, at_ms: i64, samples: &[(Labels, f64)]);

    /// Returns what the query of one rule may use.
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

/// The state of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertState {
    /// Its expression no longer holds.
    Inactive,
    /// Its expression holds, but not for long enough.
    Pending,
    Firing,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Alert {
    pub labels: Labels,
    pub annotations: BTreeMap<String, String>,
    pub state: AlertState,
    pub value: f64,
    /// Since when its expression holds.
    pub active_ms: i64,
    pub fired_ms: Option<i64>,
    /// When its expression held no longer, while it is still kept firing.
    pub keep_firing_since_ms: Option<i64>,
    pub resolved_ms: Option<i64>,
}

/// A group with the state of its rules.
#[derive(Debug)]
pub struct RunningGroup {
    group: Arc<RuleGroup>,
    stages: Vec<Range<usize>>,
    states: Vec<RuleState>,
    /// Until when alerts of an earlier group stay although their expression does not hold.
    held_until_ms: i64,
}

/// The state of a rule.
#[derive(Debug, Clone, Default)]
pub struct RuleState {
    /// The alerts by their labels.
    alerts: BTreeMap<Labels, KnownAlert>,
    /// The series that the last evaluation made.
    made: HashSet<Labels>,
    /// The last evaluation; none before the first.
    pub evaluated: Option<RuleEvaluation>,
}

/// An alert with the series that tell of it.
#[derive(Debug, Clone)]
struct KnownAlert {
    alert: Arc<Alert>,
    series: Arc<AlertSeries>,
}

/// The labels of the series that tell of an alert.
#[derive(Debug)]
struct AlertSeries {
    pending: Labels,
    firing: Labels,
    since: Labels,
}

/// How an evaluation of a rule went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleEvaluation {
    pub at_ms: i64,
    pub took: Duration,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

/// Why a rule could not be evaluated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleFailure {
    /// The name of the rule's series or alerts.
    pub rule: String,
    pub why: String,
}

impl RunningGroup {
    pub fn new(group: RuleGroup) -> Self {
        let states = group.rules.iter().map(|_| RuleState::default()).collect();
        Self { stages: stages(&group.rules), group: Arc::new(group), states, held_until_ms: i64::MIN }
    }

    pub fn group(&self) -> &Arc<RuleGroup> {
        &self.group
    }

    /// Returns the states of the rules, in their order.
    pub fn states(&self) -> &[RuleState] {
        &self.states
    }

    /// Returns the alerts of an alerting rule, sorted by their labels.
    pub fn alerts(&self, rule: usize) -> impl Iterator<Item = &Arc<Alert>> {
        self.states.get(rule).into_iter().flat_map(RuleState::alerts)
    }

    /// Returns a name for each rule by which the alerts of a rule are found again after a change of the group or a
    /// restart. Rules with the same name and labels are numbered.
    pub fn rule_keys(&self) -> Vec<String> {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let key = |rule: &Rule| {
            let key = rule.key();
            let nth = seen.entry(key.clone()).and_modify(|nth| *nth += 1).or_default();
            if *nth == 0 { key } else { format!("{key}#{nth}") }
        };
        self.group.rules.iter().map(key).collect()
    }

    /// Goes on with the alerts of an earlier group: those of rules that have the same name and labels here.
    pub fn take_over(&mut self, earlier: Self) {
        self.held_until_ms = self.held_until_ms.max(earlier.held_until_ms);
        let mut states: BTreeMap<String, RuleState> = earlier.rule_keys().into_iter().zip(earlier.states).collect();
        for (key, state) in self.rule_keys().into_iter().zip(&mut self.states) {
            if let Some(known) = states.remove(&key) {
                *state = known;
            }
        }
    }

    /// Goes on with alerts that were kept during a restart, by the keys of their rules. Until a time, an alert is not
    /// resolved if its expression does not hold: series may be incomplete that soon after a start.
    pub fn restore(&mut self, alerts: Vec<(String, Alert)>, held_until_ms: i64) {
        let numbers: BTreeMap<String, usize> =
            self.rule_keys().into_iter().enumerate().map(|(nth, key)| (key, nth)).collect();
        for (key, alert) in alerts {
            if let Some(state) = numbers.get(&key).and_then(|nth| self.states.get_mut(*nth)) {
                state.alerts.insert(alert.labels.clone(), KnownAlert::of(alert));
                self.held_until_ms = held_until_ms;
            }
        }
    }

    /// Holds alerts that are held at a time until a later time.
    pub fn hold_on(&mut self, at_ms: i64, until_ms: i64) {
        if at_ms < self.held_until_ms {
            self.held_until_ms = self.held_until_ms.max(until_ms);
        }
    }

    /// Evaluates all rules at a time, and writes what they make. Returns those that failed.
    pub fn evaluate(&mut self, at_ms: i64, storage: &dyn Storage, settings: &RuleSettings) -> Vec<RuleFailure> {
        let mut failures = Vec::new();
        let Self { group, stages, states, held_until_ms } = self;
        let looks_at_ms = at_ms.saturating_sub(group.query_offset_ms);
        let is_held = at_ms < *held_until_ms;
        let mut evaluation =
            Evaluation { at_ms, looks_at_ms, storage, settings, limit: group.limit, is_held, room: usize::MAX };
        if let Some(most) = settings.max_alerts {
            let known: usize = states.iter().map(|state| state.alerts.len()).sum();
            evaluation.room = most.saturating_sub(known);
        }
        for (nth, stage) in stages.iter().enumerate() {
            let mut written: Vec<(Labels, f64)> = Vec::new();
            let rules = group.rules.iter().zip(states.iter_mut());
            for (rule, state) in rules.skip(stage.start).take(stage.len()) {
                let (began, known) = (Instant::now(), state.alerts.len());
                let result = evaluation.rule(rule, state);
                evaluation.room = evaluation.room.saturating_add(known).saturating_sub(state.alerts.len());
                let failure = match result {
                    Ok(made) => {
                        let names: HashSet<Labels> = made.iter().map(|(labels, _)| labels.clone()).collect();
                        let ended = state.made.difference(&names);
                        written.extend(ended.map(|labels| (labels.clone(), dropsonde_promql::STALE)));
                        written.extend(made);
                        state.made = names;
                        None
                    }
                    Err(why) => {
                        failures.push(RuleFailure { rule: rule.name().to_owned(), why: why.clone() });
                        Some(why)
                    }
                };
                state.evaluated = Some(RuleEvaluation { at_ms, took: began.elapsed(), failure });
            }
            storage.write(nth, looks_at_ms, &written);
        }
        failures
    }
}

impl RuleState {
    /// Returns the alerts, sorted by their labels.
    pub fn alerts(&self) -> impl Iterator<Item = &Arc<Alert>> {
        self.alerts.values().map(|known| &known.alert)
    }
}

impl KnownAlert {
    fn of(alert: Alert) -> Self {
        let with = |name: &str, state: Option<&str>| {
            let mut all = pairs(&alert.labels);
            all.insert(NAME.to_owned(), name.to_owned());
            all.extend(state.map(|state| (ALERT_STATE.to_owned(), state.to_owned())));
            labels_of(all)
        };
        let series = AlertSeries {
            pending: with(ALERTS, Some("pending")),
            firing: with(ALERTS, Some("firing")),
            since: with(ALERTS_FOR_STATE, None),
        };
        Self { alert: Arc::new(alert), series: Arc::new(series) }
    }

    /// Returns the series that tell of it while it is active.
    fn series(&self) -> [(Labels, f64); 2] {
        let state = match self.alert.state {
            AlertState::Firing => &self.series.firing,
            _ => &self.series.pending,
        };
        [(state.clone(), 1.0), (self.series.since.clone(), (self.alert.active_ms / 1000) as f64)]
    }
}

/// One evaluation of a rule.
struct Evaluation<'a> {
    at_ms: i64,
    looks_at_ms: i64,
    storage: &'a dyn Storage,
    settings: &'a RuleSettings,
    limit: Option<usize>,
    /// Whether alerts stay although their expression does not hold.
    is_held: bool,
    /// How many more alerts there may be.
    room: usize,
}

impl Evaluation<'_> {
    /// Returns the series that a rule makes.
    fn rule(&self, rule: &Rule, state: &mut RuleState) -> Result<Vec<(Labels, f64)>, String> {
        let found = self.ask(&rule.expr).map_err(|error| error.to_string())?;
        match &rule.kind {
            RuleKind::Recording { record, labels } => self.recorded(record, labels, found),
            RuleKind::Alerting(alerting) => self.alerts(alerting, found, state),
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
        state: &mut RuleState,
    ) -> Result<Vec<(Labels, f64)>, String> {
        let mut current = BTreeMap::new();
        for (labels, value) in found {
            let (labels, annotations) = self.described(rule, &labels, value);
            if current.insert(labels, (annotations, value)).is_some() {
                return Err("vector contains metrics with the same labelset after applying alert labels".to_owned());
            }
        }
        let new = current.keys().filter(|labels| !state.alerts.contains_key(*labels)).count();
        if new > self.room {
            let room = self.room;
            return Err(format!(
                "it has {new} new alerts, and there is room for {room}: narrow it, or raise alerting.max_alerts"
            ));
        }
        let is_current: HashSet<Labels> = current.keys().cloned().collect();
        for (labels, (annotations, value)) in current {
            match state.alerts.get_mut(&labels).filter(|known| known.alert.state != AlertState::Inactive) {
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
                    state.alerts.insert(labels, KnownAlert::of(alert));
                }
            }
        }
        let mut made = Vec::new();
        let mut active = 0;
        state.alerts.retain(|labels, known| {
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
                state.alerts.clear();
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

fn pairs(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Returns labels without those that are empty.
fn labels_of(pairs: BTreeMap<String, String>) -> Labels {
    pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}
