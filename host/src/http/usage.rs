//! What was measured: the latest, and over time; of one instance, of many, of a workload.

use super::App;
use super::error::{ApiError, Segment, json_bytes};
use super::etag::{Keep, tag_of, tagged};
use super::fields;
use super::instances::named;
use super::many::Many;
use super::off_thread::{off_thread, query};
use super::select::{self, select};
use super::window::{Parameters, Window};
use crate::core::Core;
use crate::hub::Selection;
use crate::json;
use crate::workload::{self, Declared, REPLICAS};
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::Response;
use dropsonde_store::{InstanceId, Points, Query};
use std::sync::Arc;

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
    let (Window { query: asked, bands }, longest_ms) = window(&core, &parameters, std::slice::from_ref(&id))?;
    fields::check(&core.store, std::slice::from_ref(&id), &[], asked.fields.as_deref())?;
    // A reading is from the tick before its own at the earliest, and comes before the next one: nothing can come any more
    // that lies in it.
    let is_closed = asked.until_ms.saturating_add(longest_ms.saturating_mul(2)) <= core.clock.now_ms();
    let points = ask(&core, id, asked).await?;
    let body = json::points(&points, bands);
    if is_closed {
        let tag = tag_of(&body);
        return Ok(tagged(body, &tag, Keep::Closed, &headers));
    }
    Ok(json_bytes(body))
}

/// The latest samples of many instances, by id.
pub(crate) async fn latest_of_many(State(core): App, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let selection = select(&Parameters::parse(query.as_deref()))?;
    let ids = selected(&core, selection).await?;
    let store = core.store.clone();
    let one = move |id: &InstanceId| {
        let sample = store.latest(id).filter(|sample| !sample.values.is_empty())?;
        Some(json::sample(&sample))
    };
    Many::answer(core, ids, one).await
}

/// The same window of many instances, by id.
pub(crate) async fn range_of_many(State(core): App, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref());
    let ids = selected(&core, select(&parameters)?).await?;
    let (Window { query: asked, bands }, _) = window(&core, &parameters, &ids)?;
    fields::check(&core.store, &ids, &[], asked.fields.as_deref())?;
    let store = core.store.clone();
    Many::answer(core, ids, move |id| Some(json::points(&store.range(id, &asked), bands))).await
}

/// A window of a workload: its instances together.
pub(crate) async fn range_of_workload(
    State(core): App,
    Segment(name): Segment,
    RawQuery(text): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(text.as_deref());
    let ids = selected(&core, select::workload(name)?).await?;
    let (Window { query: asked, .. }, _) = window(&core, &parameters, &ids)?;
    fields::check(&core.store, &ids, &[REPLICAS], asked.fields.as_deref())?;
    let store = core.store.clone();
    let shared = core.clone();
    let range = move || {
        let declared = Declared::of(&store, &shared.plugins, ids.iter());
        workload::range(&store, &declared, ids.iter(), &asked)
    };
    let points = query(&core, range).await?;
    Ok(json_bytes(json::points(&points, false)))
}

/// Asks history, when it is its turn.
pub(crate) async fn ask(core: &Core, id: InstanceId, asked: Query) -> Result<Points, ApiError> {
    let store = core.store.clone();
    query(core, move || store.range(&id, &asked)).await
}

/// Those a selection includes now, and those it names.
async fn selected(core: &Arc<Core>, selection: Selection) -> Result<Vec<InstanceId>, ApiError> {
    let core = core.clone();
    off_thread(move || match selection {
        Selection::Several(ids) => ids.into_iter().collect(),
        selection => core.members(&selection).into_iter().map(|member| member.id).collect(),
    })
    .await
}

/// What is asked of instances, steps no finer than the one that is read most often; and the longest of their intervals.
fn window(core: &Core, parameters: &Parameters<'_>, ids: &[InstanceId]) -> Result<(Window, i64), ApiError> {
    let default_ms = i64::try_from(core.config.load().poll.interval.get().as_millis()).unwrap_or(i64::MAX);
    let intervals = ids.iter().flat_map(|id| core.store.frames(id)).map(|frame| frame.interval_ms());
    let ends = intervals.fold(None, |ends: Option<(i64, i64)>, interval| {
        Some(ends.map_or((interval, interval), |(least, most)| (least.min(interval), most.max(interval))))
    });
    let (least_ms, most_ms) = ends.unwrap_or((default_ms, default_ms));
    let now_ms = core.clock.now_ms();
    let mut window = Window::parse(parameters, now_ms, least_ms)?;
    window.query.until_ms = core.reach_ms(window.query.until_ms);
    Ok((window, most_ms))
}
