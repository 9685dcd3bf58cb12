use super::error::ApiError;
use super::{App, events, health, instances, lifecycle, page, plugins, prometheus, snapshot, stream, telemetry, usage};
use crate::core::Core;
use crate::metrics::status_class;
use crate::tracing::continues;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use std::sync::Arc;
use std::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

const HEALTH: &str = "/health";
const READY: &str = "/ready";

/// Whether a path is a route of its own, and so cannot be given to another.
pub(crate) fn is_taken(path: &str) -> bool {
    let owns = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    matches!(path, "/" | HEALTH | READY) || owns("/v1") || owns("/telemetry")
}

pub(crate) fn router(core: Arc<Core>) -> Router {
    Router::new()
        .route("/", get(page::index))
        .route(HEALTH, get(health::health))
        .route(READY, get(health::ready))
        .route(&core.config.metrics.path, get(prometheus::metrics))
        .route("/v1/instances", get(instances::list))
        .route("/v1/instances/{id}", get(instances::one).put(instances::track).delete(instances::untrack))
        .route("/v1/events", post(lifecycle::post))
        .route("/v1/instances/{id}/usage", get(usage::latest))
        .route("/v1/instances/{id}/usage/range", get(usage::range))
        .route("/v1/instances/{id}/usage/stream", get(stream::usage))
        .route("/v1/usage", get(usage::latest_of_many))
        .route("/v1/usage/range", get(usage::range_of_many))
        .route("/v1/stream", get(stream::many))
        .route("/v1/workloads/{workload}/usage/range", get(usage::range_of_workload))
        .route("/v1/workloads/{workload}/usage/stream", get(stream::workload))
        .route("/telemetry/hosts", get(telemetry::hosts))
        .route("/telemetry/history", get(telemetry::history))
        .route("/v1/snapshot", get(snapshot::latest))
        .route(&core.config.snapshot.path, get(snapshot::latest))
        .route("/v1/snapshot/range", get(snapshot::range))
        .route("/v1/snapshot/stream", get(snapshot::stream))
        .route("/v1/sources/{plugin}/events", post(events::post))
        .route("/v1/plugins", get(plugins::list))
        .route("/v1/plugins/{name}", get(plugins::one).put(plugins::upload).delete(plugins::remove))
        .route("/v1/plugins/{name}/reload", post(plugins::reload))
        .route("/v1/plugins/{name}/release", post(plugins::release))
        .route("/v1/plugins/{name}/quarantine", post(plugins::quarantine))
        .fallback(async || ApiError::not_found("no such path; / lists what there is"))
        .method_not_allowed_fallback(async |method: Method| {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} is not allowed here"))
        })
        .layer(middleware::from_fn_with_state(core.clone(), observed))
        .with_state(core)
}

/// What may become a span's name: a client may send any word.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}

/// Counts and times what passes, and sets the headers every answer has.
async fn observed(State(core): App, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    let method = known(request.method());
    let span = tracing::debug_span!(
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
    );
    continues(&span, request.headers());
    let mut response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", i64::from(response.status().as_u16()));
    if response.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    let status = status_class(response.status().as_u16());
    core.metrics.http_requests.with_label_values(&[&*route, status]).inc();
    if !stream::is_stream(&response) {
        let took = started.elapsed().as_secs_f64();
        core.metrics.http_request_seconds.with_label_values(&[&*route, status]).observe(took);
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
