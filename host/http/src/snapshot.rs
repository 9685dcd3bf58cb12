use super::error::ApiError;
use super::etag::{CachePolicy, tagged};
use super::fields;
use super::longer::LongerPoints;
use super::range_query::{QueryParameters, RangeQuery};
use super::stream::begin;
use super::usage::answer_range;
use super::{AppState, CallerExtension};
use crate::App;
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use dropsonde_engine::hub::Selection;
use dropsonde_engine::json::PointsFormat;
use dropsonde_engine::plugins::PluginState;
use dropsonde_engine::snapshot::instance;
use dropsonde_model::Right;
use std::time::{Duration, Instant};

/// The time between two checks whether every source has answered.
const LOOK: Duration = Duration::from_millis(5);

/// Returns the application as a whole. `source=` selects one source; `fresh=1` asks the sources now.
pub(crate) async fn latest(
    State(app): AppState,
    Extension(caller): CallerExtension,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let parameters = QueryParameters::parse(query.as_deref());
    match parameters.one("fresh") {
        None | Some("0" | "false") => {}
        Some("1" | "true") => {
            caller.check(&app, Right::Write)?;
            ask_now(&app).await;
        }
        Some(other) => return Err(ApiError::invalid("fresh", format_args!("{other:?} is neither 0 nor 1"))),
    }
    let now_ms = app.engine.clock.now_ms();
    let document = match parameters.one("source") {
        None => app.engine.snapshots.document(now_ms),
        Some(name) => {
            let document = app.engine.snapshots.of(name, now_ms);
            document.ok_or_else(|| ApiError::not_found("no source has this name"))?.into()
        }
    };
    Ok(tagged(document.json.clone(), &document.etag, CachePolicy::Ask, &headers))
}

/// Polls every running source, and waits for at most as long as the slowest may take. Concurrent requests share a poll.
async fn ask_now(app: &App) {
    let asked = Instant::now();
    let mut last = app.engine.fresh.lock().await;
    // The poll of another request may have begun after this request came.
    if last.is_some_and(|began| began >= asked) {
        return;
    }
    *last = Some(Instant::now());
    let mut sources = app.engine.plugins.sources();
    sources.retain(|source| source.state() == PluginState::Running);
    let before: Vec<_> = sources.iter().map(|source| app.engine.snapshots.answers(&source.name)).collect();
    sources.iter().for_each(|source| source.poll_now());
    let longest = sources.iter().map(|source| source.limits.deadline).max().unwrap_or_default();
    let answered = async {
        while sources.iter().zip(&before).any(|(source, before)| app.engine.snapshots.answers(&source.name) == *before)
        {
            tokio::time::sleep(LOOK).await;
        }
    };
    // The document names the sources that do not answer.
    let _ = tokio::time::timeout(longest, answered).await;
}

/// Returns the numbers of the snapshot over time, like those of an instance.
pub(crate) async fn range(
    State(app): AppState,
    Extension(caller): CallerExtension,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = QueryParameters::parse(query.as_deref());
    let interval_ms = app.engine.options.load().snapshot.interval.as_ms();
    let window = RangeQuery::parse(&parameters, app.engine.clock.now_ms(), interval_ms)?;
    let id = id()?;
    fields::check(&app.engine.store, std::slice::from_ref(&id), &[], window.query.fields.as_deref())?;
    let form = PointsFormat { bands: window.bands, ..PointsFormat::default() };
    let longer = LongerPoints::ask(&app, std::slice::from_ref(&id), &window.query, window.bands).await;
    let made = answer_range(app, &caller.peer, id, window.query, form, longer.clone(), |rows| rows).await?;
    let mut response = made.into_response();
    longer.mark(&mut response);
    Ok(response)
}

/// Streams the numbers of the snapshot.
pub(crate) async fn stream(
    State(app): AppState,
    Extension(caller): CallerExtension,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    begin(&app, Selection::One(id()?), &caller, &headers)
}

fn id() -> Result<dropsonde_store::InstanceId, ApiError> {
    instance().map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}
