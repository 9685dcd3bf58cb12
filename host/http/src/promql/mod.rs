//! The query API of Prometheus, under `/api/v1`: Grafana, promtool and other clients of Prometheus ask it.
//!
//! * `parameters`: what a request asks, in its query string or its form. `failure`: error answers.
//! * `evaluate`: `query` and `query_range`. `value_json`: writes values as Prometheus does.
//! * `series`: the lists of series, labels and values. `about`: metadata,
//!   exemplars, features. `rules`: rules and alerts.
//! * `expression`: expressions as texts and as trees.

mod about;
mod evaluate;
mod expression;
mod failure;
mod parameters;
mod rules;
mod series;
mod value_json;

pub(crate) use about::{buildinfo, exemplars, features, metadata};
pub(crate) use evaluate::{instant, range};
pub(crate) use expression::{format_query, parse_query};
pub(crate) use rules::{alerts, rules};
pub(crate) use series::{label_names, label_values, series};

use super::error::json_bytes;
use axum::response::Response;
use serde::Serialize;

/// Answers with data.
fn success(data: &impl Serialize, warnings: &[String]) -> Response {
    #[derive(Serialize)]
    struct Success<'a, T> {
        status: &'static str,
        data: &'a T,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        warnings: &'a [String],
    }
    json_bytes(serde_json::to_vec(&Success { status: "success", data, warnings }).unwrap_or_default())
}
