//! The middleware that every request passes: it checks the host name, the page that sent the request, and the caller's
//! rights.

use super::answer_memory::with_reserved_memory;
use super::error::{ApiError, RefusalReason};
use super::host_names::HostNames;
use super::login::{self, LoggedIn};
use super::peer::Peer;
use super::rights::{AccessRules, RequestCaller};
use super::stream::is_stream;
use crate::App;
use crate::trace_context::set_parent_trace;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use dropsonde_engine::audit::{self, Actor, AuditEntry, AuditedAction, AuditedRequest};
use dropsonde_engine::metrics::status_class;
use std::sync::Arc;
use std::time::Instant;
use tracing::Instrument as _;
use tracing::field::Empty;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Headers for browsers: no page can embed an answer, and an answer that is not a page itself can load nothing.
const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    ),
];

/// Characters of a path, or of a reason, that the audit log keeps.
const LONGEST_NOTE: usize = 512;

/// The things that requests are checked against.
pub(super) struct RequestChecks {
    pub(super) app: Arc<App>,
    pub(super) names: HostNames,
    pub(super) rights: AccessRules,
}

impl RequestChecks {
    /// Refuses a request for another host name, or from a page of another site.
    fn check_origin(&self, request: &Request, peer: &Peer) -> Result<(), ApiError> {
        let headers = request.headers();
        // No page can make a browser use a Unix socket.
        if !peer.is_local() {
            self.names.check(request.uri(), request.version(), headers)?;
        }
        let says = |name: &HeaderName, value: &str| headers.get(name).is_some_and(|said| said == value);
        if !says(&SEC_FETCH_SITE, "cross-site") {
            return Ok(());
        }
        // A link from another site to `/` works: that site does not see the page.
        let is_link =
            request.method() == Method::GET && request.uri().path() == "/" && says(&SEC_FETCH_MODE, "navigate");
        let options = self.app.options.load();
        let origin = headers.get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
        if is_link || origin.is_some_and(|origin| options.http.cors_origins.iter().any(|allowed| allowed == origin)) {
            return Ok(());
        }
        let why = "a page of another site sent this; to allow it, add the page's origin to http.cors_origins";
        Err(ApiError::new(StatusCode::FORBIDDEN, why))
    }

    /// Returns the caller, and the refusal if the caller may not send this request.
    fn admit(&self, request: &Request, route: &str) -> (RequestCaller, Result<(), Response>) {
        let peer = request.extensions().get::<Peer>().cloned().unwrap_or_else(Peer::unknown);
        let (app, headers) = (&self.app, request.headers());
        let caller = RequestCaller::of(app, peer, headers);
        let checked = self.check_origin(request, &caller.peer).and_then(|()| {
            let needed = self.rights.needed(route, request.method());
            needed.map_or(Ok(()), |needed| caller.check(app, needed))?;
            self.rights.check_parameters(route, request.method(), request.uri().query())
        });
        let checked = checked.map_err(|error| match error.status() {
            StatusCode::UNAUTHORIZED if login::wants_page(request.method(), headers) => login::page(error),
            _ => error.into_response(),
        });
        (caller, checked)
    }
}

/// A request that changes something. When this is dropped, the audit log gets the caller and the outcome.
struct AuditGuard {
    checks: Arc<RequestChecks>,
    caller: audit::ApiCaller,
    method: Method,
    path: String,
    /// The status, and the reason of a refusal. None if the client left before the answer.
    answer: Option<(StatusCode, Option<String>)>,
}

impl AuditGuard {
    fn answered(mut self, response: &Response) {
        if let Some(LoggedIn(right)) = response.extensions().get() {
            self.caller.token = Some(right.as_str());
        }
        let refused = response.extensions().get::<RefusalReason>().map(|RefusalReason(why)| short(why));
        self.answer = Some((response.status(), refused));
    }
}

impl Drop for AuditGuard {
    fn drop(&mut self) {
        let (status, refused) = match self.answer.take() {
            Some((status, refused)) => (Some(status.as_u16()), refused),
            None => (None, None),
        };
        let asked = AuditedRequest { method: self.method.to_string(), path: short(&self.path), status, refused };
        let entry = AuditEntry { by: Actor::Api(self.caller.clone()), what: AuditedAction::Request(asked) };
        self.checks.app.engine.audit.write(self.checks.app.engine.clock.now_ms(), &entry);
    }
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST_NOTE).collect()
}

/// Returns the method for the name of a span: a client may send any word as a method.
fn method_name(method: &Method) -> &'static str {
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

/// Passes on the requests that are allowed. Counts and times all of them, writes changes to the audit log, and sets the
/// headers that every answer has.
pub(super) async fn pass(State(checks): State<Arc<RequestChecks>>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let app = &checks.app;
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or_else(|| "unknown".to_owned(), |path| path.as_str().to_owned());
    let method = method_name(request.method());
    let span = tracing::debug_span!(
        "request",
        otel.name = format_args!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = Empty,
    );
    set_parent_trace(&span, request.headers());
    let (caller, admitted) = checks.admit(&request, &route);
    let audited = checks.rights.is_change(&route, request.method());
    let audited = audited.then(|| AuditGuard {
        checks: checks.clone(),
        caller: caller.for_audit(),
        method: request.method().clone(),
        path: request.uri().path().to_owned(),
        answer: None,
    });
    let mut response = match admitted {
        Ok(()) => {
            let peer = caller.peer.clone();
            request.extensions_mut().insert(caller);
            let response = next.run(request).instrument(span.clone()).await;
            // Whoever asks how the host is gets an answer, whatever else it has.
            if matches!(&*route, "/health" | "/ready") {
                response
            } else {
                with_reserved_memory(app, &peer, response).await
            }
        }
        Err(refused) => refused,
    };
    span.record("http.response.status_code", i64::from(response.status().as_u16()));
    if response.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    if let Some(audited) = audited {
        audited.answered(&response);
    }
    let status = status_class(response.status().as_u16());
    app.engine.metrics.http_requests.with_label_values(&[&*route, status]).inc();
    if !is_stream(&response) {
        let took = started.elapsed().as_secs_f64();
        app.engine.metrics.http_request_seconds.with_label_values(&[&*route, status]).observe(took);
    }
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(value);
    }
    response
}
