//! The parts of the API beside queries and lists: metadata, features, the build, and the empty list of exemplars.

use super::failure::Failure;
use super::parameters::Parameters;
use super::success;
use crate::blocking::query;
use crate::{AppState, CallerExtension};
use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use dropsonde_engine::series;
use dropsonde_promql::functions::FUNCTIONS;
use dropsonde_promql::{AggregationOperator, BinaryOperator};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// The version of Prometheus whose language and API this is. Grafana chooses by it what it may ask.
const PROMETHEUS: &str = "3.9.0";

#[derive(Serialize)]
struct Known {
    #[serde(rename = "type")]
    metric_type: String,
    help: String,
    unit: String,
}

/// Answers with the type, the help and the unit of metrics.
pub(crate) async fn metadata(
    State(app): AppState,
    Extension(caller): CallerExtension,
    parameters: Parameters,
) -> Result<Response, Failure> {
    let (limit, metric) = (parameters.limit()?, parameters.one("metric").map(str::to_owned));
    let shared = app.clone();
    let all = query(&app, &caller.peer, move || series::metadata(&shared.engine)).await?;
    let wanted = all.into_iter().filter(|(name, _)| metric.as_ref().is_none_or(|metric| metric == name));
    let known: BTreeMap<String, [Known; 1]> = wanted
        .take(limit.unwrap_or(usize::MAX))
        .map(|(name, known)| {
            let series::Metadata { metric_type, help, unit } = known;
            (name, [Known { metric_type, help, unit }])
        })
        .collect();
    Ok(success(&known, &[]))
}

/// Answers with no exemplars: none are kept.
pub(crate) async fn exemplars(parameters: Parameters) -> Result<Response, Failure> {
    parameters.time("start")?;
    parameters.time("end")?;
    Ok(success(&json!([]), &[]))
}

/// Answers with the functions and operators of the language, and whether each can be used here.
pub(crate) async fn features(State(app): AppState) -> Response {
    let experimental = app.engine.options.load().query.experimental;
    let functions: BTreeMap<_, _> =
        FUNCTIONS.iter().map(|function| (function.name, experimental || !function.is_experimental)).collect();
    let aggregations = AggregationOperator::ALL
        .iter()
        .map(|operator| (operator.as_str(), experimental || !operator.is_experimental()));
    let operators: BTreeMap<_, _> =
        BinaryOperator::ALL.iter().map(|operator| (operator.as_str(), true)).chain(aggregations).collect();
    success(&json!({ "promql_functions": functions, "promql_operators": operators }), &[])
}

pub(crate) async fn buildinfo() -> Response {
    let about = json!({
        "version": PROMETHEUS,
        "revision": concat!("dropsonde-", env!("CARGO_PKG_VERSION")),
        "branch": "",
        "buildUser": "",
        "buildDate": "",
        "goVersion": "",
    });
    success(&about, &[])
}
