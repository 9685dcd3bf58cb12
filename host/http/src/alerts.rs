//! The list of alerts.

use super::chunked::{JsonProducer, LARGEST, ORDINARY, end_array, make};
use super::error::ApiError;
use super::range_query::QueryParameters;
use super::{AppState, CallerExtension};
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use dropsonde_engine::rules::{ListedAlert, generator_url};
use dropsonde_engine::{Engine, json};
use dropsonde_rules::{Alert, AlertState};
use serde::Serialize;
use std::collections::BTreeMap;

/// Alerts that are written together.
const AT_ONCE: usize = 64;

/// An alert in the list and in the stream.
#[derive(Serialize)]
pub(super) struct AlertJson<'a> {
    name: &'a str,
    /// `pending`, `firing`, `resolved`, or `inactive` if it never fired.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<&'a str>,
    labels: serde_json::Map<String, serde_json::Value>,
    annotations: &'a BTreeMap<String, String>,
    /// The value of its expression at the last evaluation; none if it is no number.
    value: Option<f64>,
    active_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fired_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resolved_at: Option<String>,
    group: &'a str,
    file: &'a str,
    expr: String,
    /// The time for which the expression must hold before the alert fires, in seconds.
    #[serde(rename = "for")]
    for_seconds: f64,
    /// The ids of the silences that hold for it now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    silenced_by: Vec<String>,
    /// The page that shows its expression.
    url: String,
}

/// Lists the alerts that are pending, firing or recently resolved, sorted by name and labels. Parameter: `state`
/// (repeatable).
pub(crate) async fn list(
    State(app): AppState,
    Extension(caller): CallerExtension,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = QueryParameters::parse(query.as_deref());
    let states: Vec<String> = parameters.all("state").filter(|state| !state.is_empty()).map(str::to_owned).collect();
    if let Some(other) = states.iter().find(|state| !["pending", "firing", "resolved"].contains(&state.as_str())) {
        return Err(ApiError::invalid("state", format_args!("{other:?} is not pending, firing or resolved")));
    }
    let engine = app.engine.clone();
    let (mut left, mut open) = (None, b'[');
    let more: JsonProducer = Box::new(move |json| {
        let alerts = left.get_or_insert_with(|| {
            let mut alerts = engine.rules.alerts();
            alerts.retain(|listed| states.is_empty() || states.iter().any(|state| state == word(&listed.alert)));
            sort(&mut alerts);
            alerts.into_iter()
        });
        for listed in alerts.by_ref().take(AT_ONCE) {
            json.push(std::mem::replace(&mut open, b','));
            json.extend(AlertJson::bytes(&engine, &listed));
        }
        alerts.len() > 0 || end_array(json, open)
    });
    Ok(make(app, &caller.peer, LARGEST, ORDINARY, more).await?.into_response())
}

/// Sorts alerts by their names, then by their labels.
pub(super) fn sort(alerts: &mut [ListedAlert]) {
    alerts.sort_by(|a, b| {
        let labels = || a.alert.labels.iter().cmp(b.alert.labels.iter());
        a.name().cmp(b.name()).then_with(labels)
    });
}

fn word(alert: &Alert) -> &'static str {
    match alert.state {
        AlertState::Pending => "pending",
        AlertState::Firing => "firing",
        AlertState::Inactive if alert.fired_ms.is_some() => "resolved",
        // It never fired.
        AlertState::Inactive => "inactive",
    }
}

impl AlertJson<'_> {
    pub(super) fn bytes(engine: &Engine, listed: &ListedAlert) -> Vec<u8> {
        let (alert, expr, options) = (&listed.alert, listed.expr(), engine.options.load());
        let json = AlertJson {
            name: listed.name(),
            state: word(alert),
            severity: alert.labels.get("severity"),
            labels: alert.labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect(),
            annotations: &alert.annotations,
            value: Some(alert.value).filter(|value| value.is_finite()),
            active_at: json::time(alert.active_ms),
            fired_at: alert.fired_ms.map(json::time),
            resolved_at: alert.resolved_ms.map(json::time),
            group: &listed.group.id.name,
            file: &listed.group.id.file,
            url: generator_url(&options, &expr),
            expr,
            for_seconds: listed.for_ms() as f64 / 1000.0,
            silenced_by: engine.rules.silences.of(&alert.labels, engine.clock.now_ms()),
        };
        serde_json::to_vec(&json).unwrap_or_default()
    }
}
