//! Evaluates the rules of a group, one after the other: later ones see what earlier ones made.

use crate::alert::{Alert, KnownAlert};
use crate::evaluation::{Evaluation, RuleAlerts, RuleSettings, Storage};
use crate::file::{Rule, RuleGroup};
use crate::stages::stages;
use dropsonde_model::Labels;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A group with the state of its rules.
#[derive(Debug)]
pub struct RunningGroup {
    group: Arc<RuleGroup>,
    stages: Vec<Range<usize>>,
    states: Vec<RuleState>,
    /// The time until which alerts of an earlier group stay although their expression does not hold.
    held_until_ms: i64,
}

/// The state of a rule.
#[derive(Debug, Clone, Default)]
pub struct RuleState {
    alerts: RuleAlerts,
    /// The series that the last evaluation made.
    made: HashSet<Labels>,
    /// The last evaluation; none before the first.
    pub evaluated: Option<RuleEvaluation>,
}

/// The result of an evaluation of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleEvaluation {
    pub at_ms: i64,
    pub took: Duration,
    /// The reason why it failed, if it did.
    pub failure: Option<String>,
}

/// The reason why a rule could not be evaluated.
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
                let result = evaluation.rule(rule, &mut state.alerts);
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
