use super::App;
use super::error::Segment;
use super::error::{ApiError, json_bytes};
use super::window::{Parameters, Window};
use crate::json;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use dropsonde_store::InstanceId;

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
    let points = core.store.range(&id, &window.query);
    Ok(json_bytes(json::points(&points, window.bands)))
}

pub(crate) fn instance_id(text: &str) -> Result<InstanceId, ApiError> {
    InstanceId::new(text).map_err(|why| ApiError::invalid("instance", why))
}
