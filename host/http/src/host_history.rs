//! Durable history by host, in the form that its clients know.

use super::chunked::{JsonProducer, LARGEST, ORDINARY, end_array, make};
use super::error::ApiError;
use super::instances::named;
use super::range_query::QueryParameters;
use super::usage::answer_range;
use super::{AppState, CallerExtension};
use crate::App;
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use dropsonde_engine::Engine;
use dropsonde_engine::history::HistoryRange;
use dropsonde_engine::json::{PointsFormat, TimeFormat};
use dropsonde_store::{InstanceId, Query};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Fields about the scrape of a host, and not about the host.
const OF_SCRAPES: [&str; 2] = ["up", "scrape_duration_ms"];

/// Hosts that are looked at at the same time.
const AT_ONCE: usize = 500;

/// Lists the hosts that have samples.
pub(crate) async fn hosts(State(app): AppState, Extension(caller): CallerExtension) -> Result<Response, ApiError> {
    let more = within("{\"hosts\":".to_owned(), measured(app.clone()));
    Ok(make(app, &caller.peer, LARGEST, ORDINARY, more).await?.into_response())
}

/// Makes an array of the hosts that have samples, some at a time: there may be very many.
fn measured(app: Arc<App>) -> JsonProducer {
    let mut open = b'[';
    let mut after = None::<String>;
    Box::new(move |json| {
        let listed = app.engine.tracked.list_after(after.as_deref(), AT_ONCE, |_, _| true);
        for host in listed.iter().filter(|host| app.engine.store.latest_at_ms(&host.id).is_some()) {
            json.push(std::mem::replace(&mut open, b','));
            json.extend_from_slice(serde_json::Value::from(host.id.as_str()).to_string().as_bytes());
        }
        let is_more = listed.len() == AT_ONCE;
        after = listed.last().map(|last| last.id.to_string());
        is_more || end_array(json, open)
    })
}

/// Returns the history of one host: `?host=…&range=30m|1h|6h|24h`. Without a range, it is one hour.
pub(crate) async fn history(
    State(app): AppState,
    Extension(caller): CallerExtension,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let wrong = |why: String| ApiError::new(StatusCode::BAD_REQUEST, why);
    let parameters = QueryParameters::parse(query.as_deref());
    let host = parameters.one("host").ok_or_else(|| wrong("host parameter required".to_owned()))?;
    let range: HistoryRange = parameters.one("range").unwrap_or("1h").parse().map_err(|why| wrong(format!("{why}")))?;
    let id = named(host)?;
    let query = Query { fields: of_host(&app.engine, &id), ..range.query(app.engine.clock.now_ms()) };
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let head = format!("{{\"host\":{},\"range\":{},\"samples\":", text(id.as_str()), text(range.label()));
    let form = PointsFormat { time: TimeFormat::Seconds, bands: false };
    let made = answer_range(app, &caller.peer, id, query, form, Arc::default(), |rows| within(head, rows)).await?;
    Ok(made.into_response())
}

/// Returns the fields of a host without those about its scrape; none if all fields are its own.
fn of_host(engine: &Engine, id: &InstanceId) -> Option<Vec<String>> {
    let frames = engine.store.frames(id);
    let names: BTreeSet<&str> =
        frames.iter().flat_map(|frame| frame.schema().fields()).map(|field| &*field.name).collect();
    if !OF_SCRAPES.iter().all(|name| names.contains(name)) {
        return None;
    }
    Some(names.into_iter().filter(|name| !OF_SCRAPES.contains(name)).map(str::to_owned).collect())
}

/// Makes an object whose last member is an array.
fn within(head: String, mut rows: JsonProducer) -> JsonProducer {
    let mut head = Some(head);
    Box::new(move |json| {
        json.extend_from_slice(head.take().unwrap_or_default().as_bytes());
        let is_more = rows(json);
        if !is_more {
            json.push(b'}');
        }
        is_more
    })
}
