//! Alerts, and the series that tell of them.

use dropsonde_model::Labels;
use dropsonde_model::labels::NAME;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The series with the state of alerts.
pub const ALERTS: &str = "ALERTS";

/// The series with the times since which the expressions of alerts hold.
pub const ALERTS_FOR_STATE: &str = "ALERTS_FOR_STATE";

const ALERT_STATE: &str = "alertstate";

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
    /// The time since when its expression holds.
    pub active_ms: i64,
    pub fired_ms: Option<i64>,
    /// The time since when its expression no longer holds, while it is still kept firing.
    pub keep_firing_since_ms: Option<i64>,
    pub resolved_ms: Option<i64>,
}

/// An alert with the series that tell of it.
#[derive(Debug, Clone)]
pub(crate) struct KnownAlert {
    pub(crate) alert: Arc<Alert>,
    series: Arc<AlertSeries>,
}

/// The labels of the series that tell of an alert.
#[derive(Debug)]
struct AlertSeries {
    pending: Labels,
    firing: Labels,
    since: Labels,
}

impl KnownAlert {
    pub(crate) fn of(alert: Alert) -> Self {
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
    pub(crate) fn series(&self) -> [(Labels, f64); 2] {
        let state = match self.alert.state {
            AlertState::Firing => &self.series.firing,
            _ => &self.series.pending,
        };
        [(state.clone(), 1.0), (self.series.since.clone(), (self.alert.active_ms / 1000) as f64)]
    }
}

pub(crate) fn pairs(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Returns labels without those that are empty.
pub(crate) fn labels_of(pairs: BTreeMap<String, String>) -> Labels {
    pairs.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}
