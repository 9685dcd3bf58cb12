//! What was measured: the latest, and over time; of one instance, of many, of a workload.

use super::error::{ApiError, Segment, json_bytes};
use super::etag::{Keep, tag_of, tagged};
use super::fields;
use super::instances::named;
use super::many::by_instance;
use super::off_thread::off_thread;
use super::peer::Peer;
use super::pieces::{Made, More, ORDINARY, PIECE, make};
use super::rows::{Rows, columns};
use super::select::{self, select};
use super::window::{Parameters, Window};
use super::{App, Asking};
use crate::core::Core;
use crate::hub::Selection;
use crate::json::{self, Form};
use crate::workload::{self, Declared, REPLICAS};
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use dropsonde_store::{InstanceId, Query};
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
    Extension(caller): Asking,
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
    let form = Form { bands, ..Form::default() };
    match ask(core, &caller.peer, id, asked, form, |rows| rows).await? {
        Made::Whole(body) if is_closed => {
            let tag = tag_of(&body);
            Ok(tagged(body, &tag, Keep::Closed, &headers))
        }
        // One in pieces has no tag, closed or not: it is sent before all of it is known.
        made => Ok(made.into_response()),
    }
}

/// The latest samples of many instances, by id.
pub(crate) async fn latest_of_many(
    State(core): App,
    Extension(caller): Asking,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    /// Bytes a sample takes, about.
    const EACH: usize = 2 << 10;
    let selection = select(&Parameters::parse(query.as_deref()))?;
    let ids = selected(&core, selection).await?;
    let (bytes, store) = (ids.len().saturating_mul(EACH), core.store.clone());
    let one = move |id: &InstanceId| -> Option<More> {
        let sample = store.latest(id).filter(|sample| !sample.values.is_empty())?;
        Some(Box::new(move |json| {
            json.extend_from_slice(&json::sample(&sample));
            false
        }))
    };
    Ok(make(core, &caller.peer, bytes, PIECE, by_instance(ids, one)).await?.into_response())
}

/// The same window of many instances, by id.
pub(crate) async fn range_of_many(
    State(core): App,
    Extension(caller): Asking,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref());
    let ids = selected(&core, select(&parameters)?).await?;
    let (Window { query: asked, bands }, _) = window(&core, &parameters, &ids)?;
    fields::check(&core.store, &ids, &[], asked.fields.as_deref())?;
    let store = core.store.clone();
    let rows = move |id: &InstanceId| {
        let columns = columns(&store, std::slice::from_ref(id), &asked);
        Rows { query: asked.clone(), form: Form { bands, ..Form::default() }, columns }
    };
    let bytes = ids.first().map_or(0, |first| rows(first).bytes().saturating_mul(ids.len()));
    let store = core.store.clone();
    let one = move |id: &InstanceId| {
        let (store, own) = (store.clone(), id.clone());
        Some(rows(id).more(move |part| store.range(&own, part)))
    };
    Ok(make(core, &caller.peer, bytes, PIECE, by_instance(ids, one)).await?.into_response())
}

/// A window of a workload: its instances together.
pub(crate) async fn range_of_workload(
    State(core): App,
    Extension(caller): Asking,
    Segment(name): Segment,
    RawQuery(text): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(text.as_deref());
    let ids = selected(&core, select::workload(name)?).await?;
    let (Window { query, .. }, _) = window(&core, &parameters, &ids)?;
    fields::check(&core.store, &ids, &[REPLICAS], query.fields.as_deref())?;
    let (store, shared) = (core.store.clone(), core.clone());
    let (ids, rows) = off_thread(move || {
        // How many there are is a column, too.
        let columns = columns(&shared.store, &ids, &query) + 1;
        (ids, Rows { query, form: Form::default(), columns })
    })
    .await?;
    let (bytes, shared) = (rows.bytes(), core.clone());
    let mut declared = None;
    let more = rows.more(move |part| {
        let declared = declared.get_or_insert_with(|| Declared::of(&store, &shared.plugins, ids.iter()));
        workload::range(&store, declared, ids.iter(), part)
    });
    Ok(make(core, &caller.peer, bytes, ORDINARY, more).await?.into_response())
}

/// Asks history of one instance. `around` makes an answer of the array of its points.
pub(super) async fn ask(
    core: Arc<Core>,
    peer: &Peer,
    id: InstanceId,
    query: Query,
    form: Form,
    around: impl FnOnce(More) -> More,
) -> Result<Made, ApiError> {
    let columns = columns(&core.store, std::slice::from_ref(&id), &query);
    let rows = Rows { query, form, columns };
    let (bytes, store) = (rows.bytes(), core.store.clone());
    let more = around(rows.more(move |part| store.range(&id, part)));
    make(core, peer, bytes, ORDINARY, more).await
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
