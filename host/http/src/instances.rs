use super::body::{check_json, read};
use super::chunked::{JsonProducer, LARGEST, ORDINARY, end_array, make};
use super::error::{ApiError, PathSegment, json};
use super::instance_selection::labels;
use super::range_query::QueryParameters;
use super::{AppState, CallerExtension};
use crate::App;
use axum::Extension;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use dropsonde_engine::hub::Selection;
use dropsonde_engine::json;
use dropsonde_engine::tracked::{InstanceState, NotTracked, TrackRequest, TrackedInstance, instance_id};
use dropsonde_model::Labels;
use dropsonde_store::InstanceId;
use serde::Serialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes of the largest body of a `PUT`.
const LARGEST_WANTED: usize = 64 << 10;

/// Instances that are listed at the same time.
const AT_ONCE: usize = 500;

#[derive(Serialize)]
struct WorkloadRow {
    workload: String,
    /// Without those that ended.
    instances: usize,
}

#[derive(Serialize)]
struct InstancePage {
    id: String,
    labels: Labels,
    state: &'static str,
    samplers: BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_at: Option<String>,
}

/// Lists all instances by id. Parameters: `label=k=v` (repeatable), `limit`, `after`.
pub(crate) async fn list(
    State(app): AppState,
    Extension(caller): CallerExtension,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = QueryParameters::parse(query.as_deref());
    let wanted = Selection::Labels(labels(&parameters)?);
    let limit = parameters.number("limit")?.unwrap_or(usize::MAX);
    let after = parameters.one("after").map(str::to_owned);
    let more = pages(app.clone(), wanted, after, limit);
    Ok(make(app, &caller.peer, LARGEST, ORDINARY, more).await?.into_response())
}

/// Lists the workloads: the values of the label `workload` that instances have now.
pub(crate) async fn workloads(State(app): AppState) -> Response {
    let counts = app.engine.tracked.count_by_label("workload");
    let listed = counts.into_iter().map(|(workload, instances)| WorkloadRow { workload, instances });
    json(&listed.collect::<Vec<_>>())
}

/// Makes an array of instances, some at a time: there may be very many.
fn pages(app: Arc<App>, wanted: Selection, mut after: Option<String>, mut left: usize) -> JsonProducer {
    let mut open = b'[';
    Box::new(move |json| {
        let most = left.min(AT_ONCE);
        let listed = app.engine.tracked.list_after(after.as_deref(), most, |id, labels| wanted.includes(id, labels));
        for instance in &listed {
            json.push(std::mem::replace(&mut open, b','));
            json.extend(serde_json::to_vec(&page(&app, instance)).unwrap_or_default());
        }
        left -= listed.len();
        after = listed.last().map(|last| last.id.to_string());
        if left > 0 && listed.len() == most {
            return true;
        }
        end_array(json, open)
    })
}

/// Returns one instance.
pub(crate) async fn one(State(app): AppState, PathSegment(id): PathSegment) -> Result<Response, ApiError> {
    let id = named(&id)?;
    let instance = app.engine.tracked.get(&id).ok_or_else(|| ApiError::not_found(format!("no instance {id}")))?;
    Ok(json(&page(&app, &instance)))
}

/// Tracks an instance, as the body says. Repeating the request changes nothing.
pub(crate) async fn track(
    State(app): AppState,
    PathSegment(id): PathSegment,
    Extension(caller): CallerExtension,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let id = named(&id)?;
    check_json(&headers)?;
    let body = read(&app, &caller.peer, &headers, body, LARGEST_WANTED).await?;
    let wanted = TrackRequest::parse(id.clone(), &body).map_err(|why| ApiError::invalid("body", why))?;
    app.engine.track(wanted)?;
    let instance = app
        .engine
        .tracked
        .get(&id)
        .ok_or_else(|| ApiError::not_found("the instance was untracked during the request"))?;
    Ok(json(&page(&app, &instance)))
}

/// Untracks an instance: deletes its history, ends its streams, and keeps discovery from bringing it back. Repeating
/// the request changes nothing.
pub(crate) async fn untrack(State(app): AppState, PathSegment(id): PathSegment) -> Result<Response, ApiError> {
    app.engine.untrack(&named(&id)?);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Parses the id of an instance, from a path or a parameter.
pub(crate) fn named(text: &str) -> Result<InstanceId, ApiError> {
    instance_id(text).map_err(|why| ApiError::invalid("instance", why))
}

impl From<NotTracked> for ApiError {
    fn from(why: NotTracked) -> Self {
        let status = match why {
            NotTracked::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            NotTracked::Invalid(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, why.to_string())
    }
}

fn page(app: &App, instance: &TrackedInstance) -> InstancePage {
    let id = &instance.id;
    let frames = app.engine.store.frames(id);
    let measured_by = frames.iter().map(|frame| frame.schema().sampler().to_string());
    InstancePage {
        id: id.to_string(),
        labels: Labels::clone(&instance.labels),
        state: match instance.state {
            InstanceState::Tracked => "tracked",
            InstanceState::Paused => "paused",
            InstanceState::Ended => "ended",
        },
        samplers: measured_by.chain(instance.samplers.iter().cloned()).collect(),
        last_at: app.engine.store.latest_at_ms(id).map(json::time),
    }
}
