//! Samples: the latest ones, and ranges; of one instance, of many, of a workload.

use super::answer_memory::MemoryReserved;
use super::blocking::{off_thread, query};
use super::by_instance::by_instance;
use super::chunked::{JsonProducer, ORDINARY, PIECE, PreparedAnswer, make};
use super::error::{ApiError, PathSegment, json_bytes};
use super::etag::{CachePolicy, tag_of, tagged};
use super::fields;
use super::instance_selection::{self, select};
use super::instances::named;
use super::longer::LongerPoints;
use super::peer::Peer;
use super::points_json::{PointsJson, columns};
use super::range_query::{QueryParameters, RangeQuery};
use super::{AppState, CallerExtension};
use crate::App;
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use dropsonde_engine::hub::Selection;
use dropsonde_engine::json::{self, PointsFormat};
use dropsonde_engine::workload::{self, DeclaredFields, REPLICAS};
use dropsonde_store::{InstanceId, Query};
use std::sync::Arc;

/// Returns the latest sample of an instance.
pub(crate) async fn latest(State(app): AppState, PathSegment(id): PathSegment) -> Result<Response, ApiError> {
    let id = named(&id)?;
    let sample = if app.engine.store.is_latest_in_memory(&id) {
        app.engine.store.latest(&id)
    } else {
        let (engine, id) = (app.engine.clone(), id.clone());
        off_thread(move || engine.store.latest(&id)).await?
    };
    let sample = sample
        .filter(|sample| !sample.values.is_empty())
        .ok_or_else(|| ApiError::not_found(format!("no sample of instance {id}")))?;
    Ok(json_bytes(json::sample(&sample)))
}

/// Returns the samples of an instance in a window, ascending.
pub(crate) async fn range(
    State(app): AppState,
    Extension(caller): CallerExtension,
    PathSegment(id): PathSegment,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let id = named(&id)?;
    let parameters = QueryParameters::parse(query.as_deref());
    let (RangeQuery { query: asked, bands }, longest_ms) = window(&app, &parameters, std::slice::from_ref(&id))?;
    fields::check(&app.engine.store, std::slice::from_ref(&id), &[], asked.fields.as_deref())?;
    // A reading is at most one tick older than its own tick, and comes before the next one. So nothing can come any
    // more that lies in a window that ended two intervals ago.
    let is_closed = asked.until_ms.saturating_add(longest_ms.saturating_mul(2)) <= app.engine.clock.now_ms();
    let form = PointsFormat { bands, ..PointsFormat::default() };
    let longer = LongerPoints::ask(&app, std::slice::from_ref(&id), &asked, bands).await;
    let mut response = match answer_range(app, &caller.peer, id, asked, form, longer.clone(), |rows| rows).await? {
        PreparedAnswer::Whole(body) if is_closed && longer.is_empty() => {
            let tag = tag_of(&body);
            let mut response = tagged(body, &tag, CachePolicy::Closed, &headers);
            response.extensions_mut().insert(MemoryReserved);
            response
        }
        // An answer in pieces has no tag, closed or not: it is sent before all of it is known. And what a database says can
        // be another thing next time.
        made => made.into_response(),
    };
    longer.mark(&mut response);
    Ok(response)
}

/// Returns the latest samples of many instances, by id.
pub(crate) async fn latest_of_many(
    State(app): AppState,
    Extension(caller): CallerExtension,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    /// Approximate bytes of a sample.
    const EACH: usize = 2 << 10;
    let selection = select(&QueryParameters::parse(query.as_deref()))?;
    let ids = prepared(&app, &caller.peer, move |app| Ok(selected(app, selection))).await?;
    let (bytes, store) = (ids.len().saturating_mul(EACH), app.engine.store.clone());
    let one = move |id: &InstanceId| -> Option<JsonProducer> {
        let sample = store.latest(id).filter(|sample| !sample.values.is_empty())?;
        Some(Box::new(move |json| {
            json.extend_from_slice(&json::sample(&sample));
            false
        }))
    };
    Ok(make(app, &caller.peer, bytes, PIECE, by_instance(ids, one)).await?.into_response())
}

/// Returns the samples of many instances in the same window, by id.
pub(crate) async fn range_of_many(
    State(app): AppState,
    Extension(caller): CallerExtension,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let prepare = move |app: &App| {
        let parameters = QueryParameters::parse(query.as_deref());
        let ids = selected(app, select(&parameters)?);
        let (window, _) = window(app, &parameters, &ids)?;
        fields::check(&app.engine.store, &ids, &[], window.query.fields.as_deref())?;
        Ok((ids, window))
    };
    let (ids, RangeQuery { query: asked, bands }) = prepared(&app, &caller.peer, prepare).await?;
    let (store, query) = (app.engine.store.clone(), asked.clone());
    let rows = move |id: &InstanceId| {
        let columns = columns(&store, std::slice::from_ref(id), &query);
        PointsJson { query: query.clone(), form: PointsFormat { bands, ..PointsFormat::default() }, columns }
    };
    let bytes = ids.first().map_or(0, |first| rows(first).bytes().saturating_mul(ids.len()));
    let longer = LongerPoints::ask(&app, &ids, &asked, bands).await;
    let (store, shared) = (app.engine.store.clone(), longer.clone());
    let one = move |id: &InstanceId| {
        let (store, longer, own) = (store.clone(), shared.clone(), id.clone());
        Some(rows(id).more(move |part| longer.within(&own, part, |part| store.range(&own, part))))
    };
    let mut response = make(app, &caller.peer, bytes, PIECE, by_instance(ids, one)).await?.into_response();
    longer.mark(&mut response);
    Ok(response)
}

/// Returns the samples of a workload in a window: the sum of its instances.
pub(crate) async fn range_of_workload(
    State(app): AppState,
    Extension(caller): CallerExtension,
    PathSegment(name): PathSegment,
    RawQuery(text): RawQuery,
) -> Result<Response, ApiError> {
    let selection = instance_selection::workload(name)?;
    let prepare = move |app: &App| {
        let parameters = QueryParameters::parse(text.as_deref());
        let ids = selected(app, selection);
        let (RangeQuery { query, .. }, _) = window(app, &parameters, &ids)?;
        fields::check(&app.engine.store, &ids, &[REPLICAS], query.fields.as_deref())?;
        // `replica_count` is a column, too.
        let columns = columns(&app.engine.store, &ids, &query) + 1;
        Ok((ids, PointsJson { query, form: PointsFormat::default(), columns }))
    };
    let (ids, rows) = prepared(&app, &caller.peer, prepare).await?;
    let all = Query { fields: None, ..rows.query.clone() };
    let longer = LongerPoints::ask(&app, &ids, &all, false).await;
    let (store, bytes, shared, older) = (app.engine.store.clone(), rows.bytes(), app.clone(), longer.clone());
    let mut declared = None;
    let more = rows.more(move |part| {
        let declared = declared.get_or_insert_with(|| DeclaredFields::of(&store, &shared.engine.plugins, ids.iter()));
        let points = |id: &InstanceId, part: &Query| older.within(id, part, |part| store.range(id, part));
        workload::range(&store, declared, ids.iter(), part, points)
    });
    let mut response = make(app, &caller.peer, bytes, ORDINARY, more).await?.into_response();
    longer.mark(&mut response);
    Ok(response)
}

/// Queries the history of one instance. `longer`: its points from another database. `around` makes the answer from the
/// array of its points.
pub(super) async fn answer_range(
    app: Arc<App>,
    peer: &Peer,
    id: InstanceId,
    query: Query,
    form: PointsFormat,
    longer: Arc<LongerPoints>,
    around: impl FnOnce(JsonProducer) -> JsonProducer,
) -> Result<PreparedAnswer, ApiError> {
    let columns = columns(&app.engine.store, std::slice::from_ref(&id), &query);
    let rows = PointsJson { query, form, columns };
    let (bytes, store) = (rows.bytes(), app.engine.store.clone());
    let more = around(rows.more(move |part| longer.within(&id, part, |part| store.range(&id, part))));
    make(app, peer, bytes, ORDINARY, more).await
}

/// Looks through what may be very many instances, in the client's turn of queries.
async fn prepared<T: Send + 'static>(
    app: &Arc<App>,
    peer: &Peer,
    work: impl FnOnce(&App) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let shared = app.clone();
    query(app, peer, move || work(&shared)).await?
}

/// Returns the instances that a selection includes now, or names.
fn selected(app: &App, selection: Selection) -> Vec<InstanceId> {
    match selection {
        Selection::Several(ids) => ids.into_iter().collect(),
        selection => app.engine.members(&selection).into_iter().map(|member| member.id).collect(),
    }
}

/// Parses the window of a query about instances. Automatic steps are no finer than the shortest interval of the
/// instances. Returns the window, and the longest interval in milliseconds.
fn window(app: &App, parameters: &QueryParameters<'_>, ids: &[InstanceId]) -> Result<(RangeQuery, i64), ApiError> {
    let default_ms = app.engine.options.load().poll.interval.as_ms();
    let intervals = ids.iter().flat_map(|id| app.engine.store.frames(id)).map(|frame| frame.interval_ms());
    let ends = intervals.fold(None, |ends: Option<(i64, i64)>, interval| {
        Some(ends.map_or((interval, interval), |(least, most)| (least.min(interval), most.max(interval))))
    });
    let (least_ms, most_ms) = ends.unwrap_or((default_ms, default_ms));
    let now_ms = app.engine.clock.now_ms();
    let mut window = RangeQuery::parse(parameters, now_ms, least_ms)?;
    window.query.until_ms = app.engine.reach_ms(window.query.until_ms);
    Ok((window, most_ms))
}
