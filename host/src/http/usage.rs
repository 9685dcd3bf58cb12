//! What was measured: the latest, and over time; of one instance, of many, of a workload.

use super::App;
use super::error::{ApiError, Segment, json_bytes};
use super::etag::{Keep, tag_of, tagged};
use super::instances::named;
use super::many::Many;
use super::select::select;
use super::window::{Parameters, Window};
use crate::core::Core;
use crate::hub::Selection;
use crate::json;
use crate::workload;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use dropsonde_store::{InstanceId, Points, Query};

/// The latest sample.
pub(crate) async fn latest(State(core): App, Segment(id): Segment) -> Result<Response, ApiError> {
    let id = named(&id)?;
    let sample = core.store.latest(&id).filter(|sample| !sample.values.is_empty());
    let sample = sample.ok_or_else(|| ApiError::not_found(format!("no sample of instance {id}")))?;
    Ok(json_bytes(json::sample(&sample)))
}

/// A window of samples, ascending.
pub(crate) async fn range(
    State(core): App,
    Segment(id): Segment,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = named(&id)?;
    let parameters = Parameters::parse(query.as_deref());
    let (window, interval_ms) = window(&core, &parameters, std::slice::from_ref(&id))?;
    let (query, bands) = (window.query, window.bands);
    let is_closed = is_closed(&core, &query, interval_ms);
    let points = ask(&core, id, query).await?;
    Ok(answer(json::points(&points, bands), is_closed, &headers))
}

/// The latest samples of many instances, by id.
pub(crate) async fn latest_of_many(State(core): App, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let ids = selected(&core, &select(&Parameters::parse(query.as_deref()))?);
    let store = core.store.clone();
    let one = move |id: &InstanceId| {
        let sample = store.latest(id).filter(|sample| !sample.values.is_empty())?;
        Some(json::sample(&sample))
    };
    Many::answer(ids, one).await
}

/// The same window of many instances, by id.
pub(crate) async fn range_of_many(State(core): App, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref());
    let ids = selected(&core, &select(&parameters)?);
    let (Window { query, bands }, _) = window(&core, &parameters, &ids)?;
    let store = core.store.clone();
    Many::answer(ids, move |id| Some(json::points(&store.range(id, &query), bands))).await
}

/// A window of a workload: its instances together.
pub(crate) async fn range_of_workload(
    State(core): App,
    Segment(name): Segment,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref());
    let ids = selected(&core, &Selection::Workload(name));
    let (Window { query, bands }, interval_ms) = window(&core, &parameters, &ids)?;
    if bands {
        return Err(ApiError::invalid("bands", "the least and the most of a sum are not known"));
    }
    let is_closed = is_closed(&core, &query, interval_ms);
    let store = core.store.clone();
    let points = off_thread(move || workload::range(&store, ids.iter(), &query)).await?;
    Ok(answer(json::points(&points, false), is_closed, &headers))
}

/// Asks history off the server's threads.
pub(crate) async fn ask(core: &Core, id: InstanceId, query: Query) -> Result<Points, ApiError> {
    let store = core.store.clone();
    off_thread(move || store.range(&id, &query)).await
}

/// Blocks may have to be read from a disk that answers late, or never.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    let asked = tokio::task::spawn_blocking(work).await;
    asked.map_err(|_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "history could not be asked"))
}

/// Those a selection includes now, and those it names.
fn selected(core: &Core, selection: &Selection) -> Vec<InstanceId> {
    match selection {
        Selection::Several(ids) => ids.iter().cloned().collect(),
        _ => core.tracked.while_selected(selection, |members| members.into_iter().map(|member| member.id).collect()),
    }
}

/// What is asked of instances, and how often the one that is read most often is read.
fn window(core: &Core, parameters: &Parameters<'_>, ids: &[InstanceId]) -> Result<(Window, i64), ApiError> {
    let intervals = ids.iter().flat_map(|id| core.store.frames(id)).map(|frame| frame.interval_ms());
    let default_ms = || i64::try_from(core.config.poll.interval.get().as_millis()).unwrap_or(i64::MAX);
    let interval_ms = intervals.min().unwrap_or_else(default_ms);
    Ok((Window::parse(parameters, core.clock.now_ms(), interval_ms)?, interval_ms))
}

/// Whether nothing can come any more that lies in it: a reading is from the tick before its own at the earliest, and comes
/// before the next one.
fn is_closed(core: &Core, query: &Query, interval_ms: i64) -> bool {
    query.until_ms.saturating_add(interval_ms.saturating_mul(2)) <= core.clock.now_ms()
}

fn answer(body: Vec<u8>, is_closed: bool, headers: &HeaderMap) -> Response {
    if is_closed {
        let tag = tag_of(&body);
        tagged(body, &tag, Keep::Closed, headers)
    } else {
        json_bytes(body)
    }
}
