//! Silences, as Alertmanager's API writes them.

use super::blocking::off_thread;
use super::body::{check_json, read};
use super::error::{ApiError, PathSegment, json};
use super::{AppState, CallerExtension};
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use dropsonde_engine::json::time;
use dropsonde_engine::rules::{InvalidSilence, NewSilence, Silence, SilenceMatcher};
use dropsonde_model::Span;
use dropsonde_model::time::time_at;
use serde::{Deserialize, Serialize};

/// The longest body of a request, in bytes.
const LONGEST: usize = 64 << 10;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SilenceJson {
    id: String,
    status: SilenceStatus,
    matchers: Vec<SilenceMatcher>,
    starts_at: String,
    ends_at: String,
    updated_at: String,
    created_by: String,
    comment: String,
}

#[derive(Serialize)]
struct SilenceStatus {
    state: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SilenceRequest {
    matchers: Vec<SilenceMatcher>,
    /// None: now.
    starts_at: Option<String>,
    ends_at: Option<String>,
    /// In place of `endsAt`.
    duration: Option<Span>,
    #[serde(default)]
    created_by: String,
    #[serde(default)]
    comment: String,
}

/// Lists all silences, the newest first.
pub(crate) async fn list(State(app): AppState) -> Response {
    let now_ms = app.engine.clock.now_ms();
    let silences: Vec<SilenceJson> =
        app.engine.rules.silences.list().into_iter().map(|silence| SilenceJson::of(silence, now_ms)).collect();
    json(&silences)
}

pub(crate) async fn one(State(app): AppState, PathSegment(id): PathSegment) -> Result<Response, ApiError> {
    let silence = app.engine.rules.silences.get(&id).ok_or_else(|| ApiError::not_found("no silence has this id"))?;
    Ok(json(&SilenceJson::of(silence, app.engine.clock.now_ms())))
}

/// Adds a silence.
pub(crate) async fn add(
    State(app): AppState,
    Extension(caller): CallerExtension,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    check_json(&headers)?;
    let body = read(&app, &caller.peer, &headers, body, LONGEST).await?;
    let now_ms = app.engine.clock.now_ms();
    let request: SilenceRequest = serde_json::from_slice(&body).map_err(|error| ApiError::invalid("body", error))?;
    let new = request.read(now_ms)?;
    let engine = app.engine.clone();
    let silence = off_thread(move || {
        let added = engine.rules.silences.add(new, now_ms);
        engine.rules.touch();
        added
    });
    let silence = silence.await??;
    Ok((StatusCode::CREATED, json(&SilenceJson::of(silence, now_ms))).into_response())
}

/// Ends a silence now.
pub(crate) async fn end(State(app): AppState, PathSegment(id): PathSegment) -> Result<Response, ApiError> {
    let engine = app.engine.clone();
    let ended = off_thread(move || {
        let ended = engine.rules.silences.end(&id, engine.clock.now_ms());
        engine.rules.touch();
        ended
    });
    match ended.await?? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(ApiError::not_found("no silence has this id")),
    }
}

impl SilenceRequest {
    fn read(self, now_ms: i64) -> Result<NewSilence, ApiError> {
        let parse = |name: &str, text: &str| {
            time_at(text, now_ms).ok_or_else(|| {
                ApiError::invalid(name, format_args!("{text:?} is neither RFC 3339 nor relative such as -1h"))
            })
        };
        let starts_ms = self.starts_at.map(|text| parse("startsAt", &text)).transpose()?.unwrap_or(now_ms);
        let ends_ms = match (self.ends_at, self.duration) {
            (Some(text), None) => parse("endsAt", &text)?,
            (None, Some(duration)) => starts_ms.saturating_add(duration.as_ms()),
            _ => return Err(ApiError::invalid("endsAt", "give either endsAt or duration, such as \"2h\"")),
        };
        Ok(NewSilence {
            matchers: self.matchers,
            starts_ms,
            ends_ms,
            created_by: self.created_by,
            comment: self.comment,
        })
    }
}

impl SilenceJson {
    fn of(silence: Silence, now_ms: i64) -> Self {
        Self {
            status: SilenceStatus { state: silence.state(now_ms) },
            matchers: silence.matchers.iter().map(SilenceMatcher::from).collect(),
            starts_at: time(silence.starts_ms),
            ends_at: time(silence.ends_ms),
            updated_at: time(silence.updated_ms),
            id: silence.id,
            created_by: silence.created_by,
            comment: silence.comment,
        }
    }
}

impl From<InvalidSilence> for ApiError {
    fn from(invalid: InvalidSilence) -> Self {
        let status = match invalid {
            InvalidSilence::Full => StatusCode::TOO_MANY_REQUESTS,
            InvalidSilence::NotKept(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, invalid.to_string())
    }
}
