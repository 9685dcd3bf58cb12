use super::App;
use super::error::Segment;
use super::error::{ApiError, json_bytes};
use super::window::{Parameters, Window};
use crate::config::RESERVED;
use crate::core::Core;
use crate::json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use dropsonde_store::{InstanceId, Points, Query};

/// The latest sample.
pub(crate) async fn latest(State(core): App, Segment(id): Segment) -> Result<Response, ApiError> {
    let id = instance_id(&id)?;
    let sample = core.store.latest(&id).filter(|sample| !sample.values.is_empty());
    let sample = sample.ok_or_else(|| ApiError::not_found(format!("no sample of instance {id}")))?;
    Ok(json_bytes(json::sample(&sample)))
}

/// A window of samples, ascending.
pub(crate) async fn range(
    State(core): App,
    Segment(id): Segment,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let id = instance_id(&id)?;
    let parameters = Parameters::parse(query.as_deref());
    let interval_ms = core.store.frames(&id).iter().map(|frame| frame.interval_ms()).min();
    let default_ms = i64::try_from(core.config.poll.interval.get().as_millis()).unwrap_or(i64::MAX);
    let window = Window::parse(&parameters, core.clock.now_ms(), interval_ms.unwrap_or(default_ms))?;
    let points = ask(&core, id, window.query).await?;
    Ok(json_bytes(json::points(&points, window.bands)))
}

/// Asks history off the server's threads: blocks may have to be read from a disk that answers late, or never.
pub(crate) async fn ask(core: &Core, id: InstanceId, query: Query) -> Result<Points, ApiError> {
    let store = core.store.clone();
    let asked = tokio::task::spawn_blocking(move || store.range(&id, &query)).await;
    asked.map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "history could not be asked"))
}

pub(crate) fn instance_id(text: &str) -> Result<InstanceId, ApiError> {
    if text.starts_with(RESERVED) {
        return Err(ApiError::invalid("instance", format_args!("{RESERVED} is how the host's own begin")));
    }
    InstanceId::new(text).map_err(|why| ApiError::invalid("instance", why))
}
