use super::error::{ApiError, json_bytes};
use super::host_names::HostNames;
use super::middleware::{RequestChecks, pass};
use super::rights::AccessRules;
use super::stream::LAST_EVENT_ID;
use super::{
    alert_stream, alerts, dashboard, health, host, host_history, instance_events, instances, login, openapi, page,
    plugins, prometheus, promql, reload,
};
use super::{series, silences, snapshot, source_events, stream, usage};
use crate::App;
use crate::ServerOptions;
use axum::Router;
use axum::handler::Handler;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware;
use axum::routing::{MethodFilter, MethodRouter, on};
use dropsonde_model::Right;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;
use tower_http::compression::CompressionLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

const HEALTH: &str = "/health";
const READY: &str = "/ready";
const LOGIN: &str = "/login";
const LOGOUT: &str = "/logout";
const OPENAPI: &str = "/openapi.json";
const FEDERATE: &str = "/federate";
const GRAPH: &str = "/graph";

/// How long a browser may remember that a page of another origin is allowed.
const CORS_MAX_AGE: Duration = Duration::from_secs(600);

/// Query parameters of a range of one instance.
const RANGE: &[&str] = &["range", "since", "until", "resolution", "points", "fields", "bands", "align"];

/// Query parameters of a range of many instances.
const RANGE_OF_MANY: &[&str] =
    &["instance", "label", "range", "since", "until", "resolution", "points", "fields", "bands", "align"];

/// Query parameters of a range of a workload. It has no `bands`: the minimum and the maximum of a sum are not known.
const RANGE_OF_WORKLOAD: &[&str] = &["range", "since", "until", "resolution", "points", "fields", "align"];

/// Query parameters that choose instances.
const INSTANCES: &[&str] = &["instance", "label"];
const STREAMED: &[&str] = &["instance", "label", "match[]"];

/// Query parameters of the list of series.
const SERIES: &[&str] = &["match[]", "since", "until", "limit", "after"];

/// Query parameters of a range of series.
const RANGE_OF_SERIES: &[&str] = &["match[]", "range", "since", "until", "resolution", "points", "bands", "align"];

/// Query parameters of a query in PromQL.
const QUERY: &[&str] = &["query", "time", "timeout", "limit", "stats", "lookback_delta"];

/// Query parameters of a query in PromQL over a range.
const QUERY_RANGE: &[&str] = &["query", "start", "end", "step", "timeout", "limit", "stats", "lookback_delta"];

/// Query parameters of Prometheus' lists of series, labels and values.
const LIST_OF_SERIES: &[&str] = &["match[]", "start", "end", "limit"];

/// Query parameters of Prometheus' list of rules.
const RULES: &[&str] =
    &["type", "rule_name[]", "rule_group[]", "file[]", "exclude_alerts", "match[]", "group_limit", "group_next_token"];

const SNAPSHOT: &[&str] = &["source", "fresh"];

/// An operation of the API.
pub(super) struct Operation {
    pub(super) method: Method,
    /// The path, as axum writes it: `{id}` is any one segment.
    pub(super) path: String,
    /// The right that is needed; none if everybody may use the operation.
    pub(super) needs: Option<Right>,
    /// The query parameters; any other is an error.
    pub(super) takes: &'static [&'static str],
    /// Whether it changes something, so that the audit log has to know.
    pub(super) is_change: bool,
    does: MethodRouter<Arc<App>>,
}

/// Returns whether the API has a path, so that the configuration cannot give it to another operation.
pub fn is_reserved_path(path: &str) -> bool {
    let owns = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    matches!(path, "/" | HEALTH | READY | LOGIN | LOGOUT | OPENAPI | FEDERATE | GRAPH)
        || owns("/assets")
        || owns("/docs")
        || owns("/v1")
        || owns("/api/v1")
        || owns("/telemetry")
}

/// Returns all operations. `openapi.json` describes each of them.
pub(super) fn operations(options: &ServerOptions) -> Vec<Operation> {
    const ANYONE: Option<Right> = None;
    const READ: Option<Right> = Some(Right::Read);
    const WRITE: Option<Right> = Some(Right::Write);
    const ADMIN: Option<Right> = Some(Right::Admin);
    let document = openapi::document(options);
    vec![
        get("/", READ, page::index),
        get(HEALTH, ANYONE, health::health),
        get(READY, ANYONE, health::ready),
        get("/assets/{version}/{file}", ANYONE, dashboard::asset),
        get(GRAPH, ANYONE, page::graph).taking(&["g0.expr", "g0.tab", "g0.range_input", "g0.end_input"]),
        get("/docs", ANYONE, page::handbook),
        get("/docs/{page}", ANYONE, page::of_handbook),
        get(OPENAPI, ANYONE, move || ready(json_bytes(document.clone()))),
        post(LOGIN, ANYONE, login::login),
        post(LOGOUT, ANYONE, login::logout),
        get(&options.metrics_path, READ, prometheus::metrics),
        get("/v1/host", READ, host::one),
        get("/v1/instances", READ, instances::list).taking(&["label", "limit", "after"]),
        get("/v1/instances/{id}", READ, instances::one),
        put("/v1/instances/{id}", WRITE, instances::track),
        delete("/v1/instances/{id}", WRITE, instances::untrack),
        post("/v1/events", WRITE, instance_events::post),
        get("/v1/instances/{id}/usage", READ, usage::latest),
        get("/v1/instances/{id}/usage/range", READ, usage::range).taking(RANGE),
        get("/v1/instances/{id}/usage/stream", READ, stream::usage),
        get("/v1/usage", READ, usage::latest_of_many).taking(INSTANCES),
        get("/v1/usage/range", READ, usage::range_of_many).taking(RANGE_OF_MANY),
        get("/v1/stream", READ, stream::many).taking(STREAMED),
        get("/v1/workloads", READ, instances::workloads),
        get("/v1/workloads/{workload}/usage/range", READ, usage::range_of_workload).taking(RANGE_OF_WORKLOAD),
        get("/v1/workloads/{workload}/usage/stream", READ, stream::workload),
        get("/v1/series", READ, series::list).taking(SERIES),
        get("/v1/series/range", READ, series::range).taking(RANGE_OF_SERIES),
        get(FEDERATE, READ, series::federate).taking(&["match[]"]),
        ask("/api/v1/query", promql::instant).taking(QUERY),
        send("/api/v1/query", promql::instant),
        ask("/api/v1/query_range", promql::range).taking(QUERY_RANGE),
        send("/api/v1/query_range", promql::range),
        ask("/api/v1/series", promql::series).taking(LIST_OF_SERIES),
        send("/api/v1/series", promql::series),
        ask("/api/v1/labels", promql::label_names).taking(LIST_OF_SERIES),
        send("/api/v1/labels", promql::label_names),
        ask("/api/v1/label/{name}/values", promql::label_values).taking(LIST_OF_SERIES),
        ask("/api/v1/metadata", promql::metadata).taking(&["metric", "limit"]),
        ask("/api/v1/query_exemplars", promql::exemplars).taking(&["query", "start", "end"]),
        send("/api/v1/query_exemplars", promql::exemplars),
        ask("/api/v1/format_query", promql::format_query).taking(&["query"]),
        send("/api/v1/format_query", promql::format_query),
        ask("/api/v1/parse_query", promql::parse_query).taking(&["query"]),
        send("/api/v1/parse_query", promql::parse_query),
        ask("/api/v1/rules", promql::rules).taking(RULES),
        ask("/api/v1/alerts", promql::alerts),
        ask("/api/v1/features", promql::features),
        ask("/api/v1/status/buildinfo", promql::buildinfo),
        get("/telemetry/hosts", READ, host_history::hosts),
        get("/telemetry/history", READ, host_history::history).taking(&["host", "range"]),
        get("/v1/snapshot", READ, snapshot::latest).taking(SNAPSHOT),
        get(&options.snapshot_path, READ, snapshot::latest).taking(SNAPSHOT),
        get("/v1/snapshot/range", READ, snapshot::range).taking(RANGE),
        get("/v1/snapshot/stream", READ, snapshot::stream),
        get("/v1/alerts", READ, alerts::list).taking(&["state"]),
        get("/v1/alerts/stream", READ, alert_stream::follow),
        get("/v1/silences", READ, silences::list),
        post("/v1/silences", WRITE, silences::add),
        get("/v1/silences/{id}", READ, silences::one),
        delete("/v1/silences/{id}", WRITE, silences::end),
        post("/v1/sources/{plugin}/events", WRITE, source_events::post),
        post("/v1/reload", ADMIN, reload::post),
        get("/v1/plugins", READ, plugins::list),
        get("/v1/plugins/{name}", READ, plugins::one),
        put("/v1/plugins/{name}", ADMIN, plugins::upload),
        delete("/v1/plugins/{name}", ADMIN, plugins::remove),
        post("/v1/plugins/{name}/reload", ADMIN, plugins::reload),
        post("/v1/plugins/{name}/release", ADMIN, plugins::release),
        post("/v1/plugins/{name}/quarantine", ADMIN, plugins::quarantine),
    ]
}

/// Returns the routes, by the configuration that is in force.
pub(super) fn router(app: Arc<App>, names: HostNames) -> Router {
    let options = app.options.load_full();
    let operations = operations(&options);
    let checks = RequestChecks { app: app.clone(), names, rights: AccessRules::of(&operations) };
    let routes =
        operations.into_iter().fold(Router::new(), |routes, Operation { path, does, .. }| routes.route(&path, does));
    let routes = routes
        .fallback(async || ApiError::not_found("no such path; /openapi.json lists all paths"))
        .method_not_allowed_fallback(async |method: Method| {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not allowed for this path"))
        })
        .layer(middleware::from_fn_with_state(Arc::new(checks), pass));
    let origins = options.http.cors_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    let origins: Vec<_> = origins.collect();
    // Without origins, answers have no CORS headers.
    let routes = if origins.is_empty() { routes } else { routes.layer(cors(origins)) };
    routes.with_state(app)
}

/// Lets pages of these origins read answers, and send a token.
fn cors(origins: Vec<HeaderValue>) -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::DELETE])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, header::IF_NONE_MATCH, LAST_EVENT_ID])
        .expose_headers([header::ETAG, header::RETRY_AFTER])
        .max_age(CORS_MAX_AGE)
}

impl Operation {
    /// Sets the query parameters.
    fn taking(self, takes: &'static [&'static str]) -> Self {
        Self { takes, ..self }
    }
}

fn get<T: 'static>(path: &str, needs: Option<Right>, does: impl Handler<T, Arc<App>>) -> Operation {
    // This includes HEAD.
    Operation {
        method: Method::GET,
        path: path.to_owned(),
        needs,
        takes: &[],
        is_change: false,
        does: axum::routing::get(does),
    }
}

fn post<T: 'static>(path: &str, needs: Option<Right>, does: impl Handler<T, Arc<App>>) -> Operation {
    Operation {
        method: Method::POST,
        path: path.to_owned(),
        needs,
        takes: &[],
        is_change: true,
        does: on(MethodFilter::POST, does),
    }
}

fn put<T: 'static>(path: &str, needs: Option<Right>, does: impl Handler<T, Arc<App>>) -> Operation {
    Operation {
        method: Method::PUT,
        path: path.to_owned(),
        needs,
        takes: &[],
        is_change: true,
        does: on(MethodFilter::PUT, does),
    }
}

fn delete<T: 'static>(path: &str, needs: Option<Right>, does: impl Handler<T, Arc<App>>) -> Operation {
    Operation {
        method: Method::DELETE,
        path: path.to_owned(),
        needs,
        takes: &[],
        is_change: true,
        does: on(MethodFilter::DELETE, does),
    }
}

/// An operation of Prometheus' query API. Answers are compressed for clients that accept that.
fn ask<T: 'static>(path: &str, does: impl Handler<T, Arc<App>>) -> Operation {
    let operation = get(path, Some(Right::Read), does);
    Operation { does: operation.does.layer(CompressionLayer::new()), ..operation }
}

/// An operation of Prometheus' query API with its parameters in a form. It changes nothing.
fn send<T: 'static>(path: &str, does: impl Handler<T, Arc<App>>) -> Operation {
    let operation = post(path, Some(Right::Read), does);
    Operation { does: operation.does.layer(CompressionLayer::new()), is_change: false, ..operation }
}
