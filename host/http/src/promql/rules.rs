//! Rules and alerts, as Prometheus lists them.

use super::failure::Failure;
use super::parameters::Parameters;
use super::success;
use crate::blocking::query;
use crate::{AppState, CallerExtension};
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use dropsonde_engine::rules::{GroupReport, RuleReport};
use dropsonde_model::Labels;
use dropsonde_promql::{Matcher, number, parse_selectors};
use dropsonde_rules::{Alert, AlertState, Rule, RuleKind, Template};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The time of what has not happened yet, as Go writes it.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Which rules a request asks for.
struct Wanted {
    recording: bool,
    alerting: bool,
    has_alerts: bool,
    names: Vec<String>,
    groups: Vec<String>,
    files: Vec<String>,
    selectors: Vec<Vec<Matcher>>,
    limit: Option<usize>,
    after: Option<String>,
}

/// Answers with all groups of rules.
pub(crate) async fn rules(
    State(app): AppState,
    Extension(caller): CallerExtension,
    parameters: Parameters,
) -> Result<Response, Failure> {
    let wanted = Wanted::of(&parameters)?;
    let engine = app.engine.clone();
    if let Some(after) = &wanted.after
        && !engine.rules.groups().iter().any(|group| token(group) == *after)
    {
        return Err(Failure::invalid("group_next_token", "it is not of an answer before, or the rules have changed"));
    }
    let listed = query(&app, &caller.peer, move || {
        let is_wanted = |group: &Arc<GroupReport>| {
            (wanted.groups.is_empty() || wanted.groups.iter().any(|name| **name == *group.id.name))
                && (wanted.files.is_empty() || wanted.files.iter().any(|file| **file == *group.id.file))
                && wanted.after.as_ref().is_none_or(|after| token(group) > *after)
        };
        let mut groups: Vec<_> = engine.rules.groups().into_iter().filter(is_wanted).collect();
        let mut next = None;
        if let Some(limit) = wanted.limit {
            groups.sort_by_key(token);
            if groups.len() > limit {
                groups.truncate(limit);
                next = groups.last().map(token);
            }
        }
        let groups: Vec<Value> = groups.iter().filter_map(|group| wanted.group(group)).collect();
        let mut listed = json!({ "groups": groups });
        if let (Some(next), Some(listed)) = (next, listed.as_object_mut()) {
            listed.insert("groupNextToken".to_owned(), next.into());
        }
        success(&listed, &[])
    });
    Ok(listed.await?)
}

/// Answers with the alerts that are active.
pub(crate) async fn alerts(State(app): AppState, Extension(caller): CallerExtension) -> Result<Response, Failure> {
    let engine = app.engine.clone();
    let listed = query(&app, &caller.peer, move || {
        let active = engine.rules.alerts().into_iter().filter(|listed| listed.alert.state != AlertState::Inactive);
        let alerts: Vec<Value> = active.map(|listed| alert(&listed.alert)).collect();
        success(&json!({ "alerts": alerts }), &[])
    });
    Ok(listed.await?)
}

impl Wanted {
    fn of(parameters: &Parameters) -> Result<Self, Failure> {
        let (recording, alerting) = match parameters.one("type") {
            None => (true, true),
            Some("alert") => (false, true),
            Some("record") => (true, false),
            Some(other) => {
                return Err(Failure::invalid(
                    "type",
                    format_args!("not supported value {other:?}: give alert or record"),
                ));
            }
        };
        let has_alerts = match parameters.one("exclude_alerts") {
            None | Some("false" | "0") => true,
            Some("true" | "1") => false,
            Some(other) => return Err(Failure::invalid("exclude_alerts", format_args!("{other:?} is no boolean"))),
        };
        let number = |text: &str| {
            let number = text.parse::<usize>().ok().filter(|number| *number > 0);
            number.ok_or_else(|| Failure::invalid("group_limit", format_args!("{text:?} is no positive number")))
        };
        let list = |name: &str| parameters.all(name).map(str::to_owned).collect();
        let selectors = parse_selectors(parameters.all("match[]"));
        Ok(Self {
            recording,
            alerting,
            has_alerts,
            names: list("rule_name[]"),
            groups: list("rule_group[]"),
            files: list("file[]"),
            selectors: selectors.map_err(|why| Failure::invalid("match[]", why))?,
            limit: parameters.one("group_limit").map(number).transpose()?,
            after: parameters.one("group_next_token").map(str::to_owned),
        })
    }

    /// Returns a group with the rules that are wanted; none if it has none of them.
    fn group(&self, group: &GroupReport) -> Option<Value> {
        let rules = group.group.rules.iter().zip(&group.rules);
        let rules: Vec<Value> =
            rules.filter(|(rule, _)| self.has(rule)).map(|(rule, report)| self.rule(rule, report)).collect();
        let is_narrowed = !(self.recording && self.alerting && self.names.is_empty() && self.selectors.is_empty());
        if rules.is_empty() && is_narrowed {
            return None;
        }
        Some(json!({
            "name": &*group.id.name,
            "file": &*group.id.file,
            "rules": rules,
            "interval": seconds(group.interval_ms),
            "limit": group.group.limit.unwrap_or(0),
            "evaluationTime": group.took.as_secs_f64(),
            "lastEvaluation": time(group.evaluated_ms),
        }))
    }

    fn has(&self, rule: &Rule) -> bool {
        let is_of_type = match &rule.kind {
            RuleKind::Recording { .. } => self.recording,
            RuleKind::Alerting(_) => self.alerting,
        };
        let is_named = self.names.is_empty() || self.names.iter().any(|name| name == rule.name());
        let labels = labels(rule);
        let matches = |matchers: &Vec<Matcher>| {
            let value = |name: &str| labels.get(name).and_then(Value::as_str).unwrap_or_default();
            matchers.iter().all(|matcher| matcher.matches(value(&matcher.name)))
        };
        is_of_type && is_named && (self.selectors.is_empty() || self.selectors.iter().any(matches))
    }

    fn rule(&self, rule: &Rule, report: &RuleReport) -> Value {
        let evaluated = report.evaluated.as_ref();
        let (health, error) = match evaluated.map(|evaluated| &evaluated.failure) {
            None => ("unknown", None),
            Some(None) => ("ok", None),
            Some(Some(why)) => ("err", Some(why)),
        };
        let mut listed = Map::new();
        let mut put = |name: &str, value: Value| drop(listed.insert(name.to_owned(), value));
        if let RuleKind::Alerting(alerting) = &rule.kind {
            let state = match report.state() {
                _ if evaluated.is_none() => "unknown",
                AlertState::Inactive => "inactive",
                AlertState::Pending => "pending",
                AlertState::Firing => "firing",
            };
            put("state", state.into());
            put("name", alerting.name.clone().into());
            put("query", rule.expr.to_string().into());
            put("duration", seconds(alerting.for_ms));
            put("keepFiringFor", seconds(alerting.keep_firing_for_ms));
            put("labels", labels(rule).into());
            put("annotations", texts(&alerting.annotations).into());
            let active = report.alerts.iter().filter(|alert| alert.state != AlertState::Inactive);
            let alerts: Vec<Value> = active.filter(|_| self.has_alerts).map(|active| alert(active)).collect();
            put("alerts", alerts.into());
        } else {
            put("name", rule.name().into());
            put("query", rule.expr.to_string().into());
            let labels = labels(rule);
            if !labels.is_empty() {
                put("labels", labels.into());
            }
        }
        put("health", health.into());
        if let Some(error) = error {
            put("lastError", error.clone().into());
        }
        put("evaluationTime", evaluated.map_or(0.0, |evaluated| evaluated.took.as_secs_f64()).into());
        put("lastEvaluation", time(evaluated.map(|evaluated| evaluated.at_ms)).into());
        put("type", if matches!(rule.kind, RuleKind::Alerting(_)) { "alerting" } else { "recording" }.into());
        Value::Object(listed)
    }
}

/// Returns the mark behind which the next page of groups begins.
fn token(group: &Arc<GroupReport>) -> String {
    blake3::hash(group.id.to_string().as_bytes()).to_hex().to_string()
}

fn labels(rule: &Rule) -> Map<String, Value> {
    match &rule.kind {
        RuleKind::Recording { labels, .. } => {
            labels.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect()
        }
        RuleKind::Alerting(alerting) => texts(&alerting.labels),
    }
}

fn texts(templates: &BTreeMap<String, Template>) -> Map<String, Value> {
    templates.iter().map(|(name, template)| (name.clone(), template.text().into())).collect()
}

fn alert(alert: &Alert) -> Value {
    let labels: Map<String, Value> = named(&alert.labels);
    let mut listed = json!({
        "labels": labels,
        "annotations": alert.annotations,
        "state": if alert.state == AlertState::Firing { "firing" } else { "pending" },
        "activeAt": time(Some(alert.active_ms)),
    });
    if let Some(listed) = listed.as_object_mut() {
        if let Some(since_ms) = alert.keep_firing_since_ms {
            listed.insert("keepFiringSince".to_owned(), time(Some(since_ms)).into());
        }
        listed.insert("value".to_owned(), number::exponent(alert.value).into());
    }
    listed
}

fn named(labels: &Labels) -> Map<String, Value> {
    labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

fn time(at_ms: Option<i64>) -> String {
    at_ms.map_or_else(|| NEVER.to_owned(), dropsonde_engine::json::time)
}

/// Returns seconds, as a whole number where that is exact.
fn seconds(milliseconds: i64) -> Value {
    if milliseconds % 1000 == 0 { (milliseconds / 1000).into() } else { (milliseconds as f64 / 1000.0).into() }
}
