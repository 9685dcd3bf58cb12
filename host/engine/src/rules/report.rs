//! Groups and alerts, as readers see them.

use super::GroupId;
use dropsonde_rules::{Alert, AlertState, Rule, RuleEvaluation, RuleGroup, RuleKind, RunningGroup};
use std::sync::Arc;
use std::time::Duration;

/// A group after its last evaluation.
#[derive(Debug)]
pub struct GroupReport {
    pub id: GroupId,
    pub interval_ms: i64,
    pub group: Arc<RuleGroup>,
    /// One per rule of the group, in order.
    pub rules: Vec<RuleReport>,
    /// The time of the last evaluation; none before the first.
    pub evaluated_ms: Option<i64>,
    /// Its duration.
    pub took: Duration,
}

/// A rule after its last evaluation.
#[derive(Debug, Clone, Default)]
pub struct RuleReport {
    /// Sorted by labels.
    pub alerts: Vec<Arc<Alert>>,
    pub evaluated: Option<RuleEvaluation>,
}

/// An alert, with its group and its rule there.
#[derive(Debug, Clone)]
pub struct ListedAlert {
    pub group: Arc<GroupReport>,
    pub rule: usize,
    pub alert: Arc<Alert>,
}

impl GroupReport {
    pub(super) fn of(
        id: &GroupId,
        interval_ms: i64,
        running: &RunningGroup,
        at_ms: Option<i64>,
        took: Duration,
    ) -> Self {
        let report = |state: &dropsonde_rules::RuleState| RuleReport {
            alerts: state.alerts().cloned().collect(),
            evaluated: state.evaluated.clone(),
        };
        Self {
            id: id.clone(),
            interval_ms,
            group: running.group().clone(),
            rules: running.states().iter().map(report).collect(),
            evaluated_ms: at_ms,
            took,
        }
    }

    /// Returns its alerts, of every state.
    pub fn alerts(self: &Arc<Self>) -> impl Iterator<Item = ListedAlert> {
        let listed = move |(rule, report): (usize, &RuleReport)| {
            let group = self.clone();
            let alerts = report.alerts.clone();
            alerts.into_iter().map(move |alert| ListedAlert { group: group.clone(), rule, alert })
        };
        self.rules.iter().enumerate().flat_map(listed)
    }

    pub fn count(&self) -> usize {
        self.rules.iter().map(|rule| rule.alerts.len()).sum()
    }
}

impl RuleReport {
    /// Returns the state of its most urgent alert.
    pub fn state(&self) -> AlertState {
        let of = |state| self.alerts.iter().any(|alert| alert.state == state);
        match (of(AlertState::Firing), of(AlertState::Pending)) {
            (true, _) => AlertState::Firing,
            (false, true) => AlertState::Pending,
            (false, false) => AlertState::Inactive,
        }
    }
}

impl ListedAlert {
    pub fn rule(&self) -> Option<&Rule> {
        self.group.group.rules.get(self.rule)
    }

    pub fn name(&self) -> &str {
        self.rule().map_or("", Rule::name)
    }

    /// Returns the expression of its rule.
    pub fn expr(&self) -> String {
        self.rule().map(|rule| rule.expr.to_string()).unwrap_or_default()
    }

    /// Returns how long its expression must hold, in milliseconds.
    pub fn for_ms(&self) -> i64 {
        match self.rule().map(|rule| &rule.kind) {
            Some(RuleKind::Alerting(alerting)) => alerting.for_ms,
            _ => 0,
        }
    }
}
