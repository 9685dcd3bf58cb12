use super::error::ApiError;
use super::etag::{Keep, tagged};
use super::fields;
use super::stream::begin;
use super::usage::ask;
use super::window::{Parameters, Window};
use super::{App, Asking};
use crate::core::Core;
use crate::hub::Selection;
use crate::json::Form;
use crate::plugins::PluginState;
use crate::snapshot::instance;
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use dropsonde_model::Right;
use std::time::{Duration, Instant};

/// Between two looks whether every source has answered.
const LOOK: Duration = Duration::from_millis(5);

/// The application as a whole; `source=` for one source, `fresh=1` to ask them now.
pub(crate) async fn latest(
    State(core): App,
    Extension(caller): Asking,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref());
    match parameters.one("fresh") {
        None | Some("0" | "false") => {}
        Some("1" | "true") => {
            caller.check(&core, Right::Write)?;
            ask_now(&core).await;
        }
        Some(other) => return Err(ApiError::invalid("fresh", format_args!("{other:?} is neither 0 nor 1"))),
    }
    let now_ms = core.clock.now_ms();
    let document = match parameters.one("source") {
        None => core.snapshots.document(now_ms),
        Some(name) => {
            let document = core.snapshots.of(name, now_ms);
            document.ok_or_else(|| ApiError::not_found("no source has this name"))?.into()
        }
    };
    Ok(tagged(document.json.to_vec(), &document.etag, Keep::Ask, &headers))
}

/// Has every source polled, once for all who ask at a time, and waits as long as the slowest may take.
async fn ask_now(core: &Core) {
    let asked = Instant::now();
    let mut last = core.fresh.lock().await;
    // Someone else's flight may have begun after this request came.
    if last.is_some_and(|began| began >= asked) {
        return;
    }
    *last = Some(Instant::now());
    let mut sources = core.plugins.sources();
    sources.retain(|source| source.state() == PluginState::Running);
    let before: Vec<_> = sources.iter().map(|source| core.snapshots.answers(&source.name)).collect();
    sources.iter().for_each(|source| source.poll_now());
    let longest = sources.iter().map(|source| source.limits.deadline).max().unwrap_or_default();
    let answered = async {
        while sources.iter().zip(&before).any(|(source, before)| core.snapshots.answers(&source.name) == *before) {
            tokio::time::sleep(LOOK).await;
        }
    };
    // Those that do not answer are named in the document.
    let _ = tokio::time::timeout(longest, answered).await;
}

/// The same numbers over time, as those of an instance.
pub(crate) async fn range(
    State(core): App,
    Extension(caller): Asking,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref());
    let interval_ms = i64::try_from(core.config.load().snapshot.interval.get().as_millis()).unwrap_or(i64::MAX);
    let window = Window::parse(&parameters, core.clock.now_ms(), interval_ms)?;
    let id = id()?;
    fields::check(&core.store, std::slice::from_ref(&id), &[], window.query.fields.as_deref())?;
    let form = Form { bands: window.bands, ..Form::default() };
    Ok(ask(core, &caller.peer, id, window.query, form, |rows| rows).await?.into_response())
}

pub(crate) async fn stream(
    State(core): App,
    Extension(caller): Asking,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    begin(&core, Selection::One(id()?), &caller, &headers)
}

fn id() -> Result<dropsonde_store::InstanceId, ApiError> {
    instance().map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}
