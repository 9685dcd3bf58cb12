use super::blocking::off_thread;
use super::body::{content_type, read};
use super::chunked::{JsonProducer, LARGEST, ORDINARY, end_array, make};
use super::error::{ApiError, PathSegment, json};
use super::rights::RequestCaller;
use super::{AppState, CallerExtension};
use crate::App;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use dropsonde_engine::audit::{Actor, AuditEntry, AuditedAction, PluginAction, PluginChange};
use dropsonde_engine::plugins::{
    self, OperatorOrder, PluginPage, PluginRequest, PluginState, RefusedVersion, RequestError, RequestKind,
};
use dropsonde_model::names::is_plugin;
use dropsonde_model::nearest::nearest;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// The longest time that a request waits for a plugin. A change that takes longer goes on, and the plugin's page shows
/// its result.
const PATIENCE: Duration = Duration::from_secs(5);

/// Seconds after which a plugin that is being loaded may be running: most load in less.
pub(super) const LOADING_RETRY: u32 = 1;

/// Seconds after which a client may retry if somebody has to repair the plugin first.
pub(super) const BROKEN_RETRY: u32 = 10;

/// Lists all plugins by name.
pub(crate) async fn list(State(app): AppState, Extension(caller): CallerExtension) -> Result<Response, ApiError> {
    let more = pages(app.clone());
    Ok(make(app, &caller.peer, LARGEST, ORDINARY, more).await?.into_response())
}

/// Makes an array of pages, one at a time: one of them may be large.
fn pages(app: Arc<App>) -> JsonProducer {
    let (mut plugins, mut open) = (app.engine.plugins.list().into_iter(), b'[');
    Box::new(move |json| {
        if let Some(status) = plugins.next() {
            json.push(std::mem::replace(&mut open, b','));
            json.extend(serde_json::to_vec(&PluginPage::of(&app.engine, &status)).unwrap_or_default());
            return true;
        }
        end_array(json, open)
    })
}

pub(crate) async fn one(State(app): AppState, PathSegment(name): PathSegment) -> Result<Response, ApiError> {
    let Some(status) = app.engine.plugins.get(&name) else {
        return Err(absent(&app, name, RequestPurpose::Page).await);
    };
    Ok(json(&PluginPage::of(&app.engine, &status)))
}

/// The purpose of a request for a plugin that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestPurpose {
    /// Its page. A plugin that only the configuration names has none.
    Page,
    /// To send events. A plugin that the configuration names will take them once it is there.
    Events,
}

/// Returns the error for a plugin that is not there: 503 if its file or the configuration says that it will be,
/// otherwise 404.
pub(super) async fn absent(app: &Arc<App>, name: String, asks: RequestPurpose) -> ApiError {
    let options = app.engine.options.load_full();
    if is_plugin(&name) {
        let file = options.plugins_dir.as_ref().map(|folder| folder.join(format!("{name}.wasm")));
        // A disk may answer late.
        let is_there = off_thread(move || file.is_some_and(|file| file.is_file())).await;
        if is_there.is_ok_and(|is_there| is_there) {
            return unavailable(format!("plugin {name} is being loaded: its file is new"), LOADING_RETRY);
        }
        if asks == RequestPurpose::Events && options.plugins.contains_key(&name) {
            let why = format!("plugin {name} is not there yet: the configuration names it, but it has no file");
            return unavailable(why, BROKEN_RETRY);
        }
    }
    let plugins = app.engine.plugins.list();
    let meant = nearest(&name, plugins.iter().map(|plugin| &*plugin.name));
    let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
    ApiError::not_found(format!("no plugin has this name{meant}"))
}

pub(super) fn unavailable(why: String, retry_after: u32) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(retry_after)
}

/// Makes the body the plugin's file, once it is compiled and started.
pub(crate) async fn upload(
    State(app): AppState,
    PathSegment(name): PathSegment,
    Extension(caller): CallerExtension,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    if !is_plugin(&name) {
        return Err(ApiError::invalid(
            "name",
            format!("a plugin's name is made of {}", dropsonde_model::names::PLUGIN_RULE),
        ));
    }
    check_content_type(&headers)?;
    let bytes =
        read(&app, &caller.peer, &headers, body, usize::try_from(plugins::LARGEST).unwrap_or(usize::MAX)).await?;
    app.engine.metrics.plugins_uploaded.inc();
    request(&app, name, RequestKind::Upload(bytes), &caller).await
}

/// Reads, compiles and starts a plugin again. The new instance takes over if that works.
pub(crate) async fn reload(app: AppState, name: PathSegment, caller: CallerExtension) -> Result<Response, ApiError> {
    request(&app.0, name.0, RequestKind::Reload, &caller.0).await
}

/// Removes a plugin and its file. Its history stays.
pub(crate) async fn remove(app: AppState, name: PathSegment, caller: CallerExtension) -> Result<Response, ApiError> {
    request(&app.0, name.0, RequestKind::Remove, &caller.0).await
}

/// Has a plugin run at once that is in quarantine, or waits after a failure.
pub(crate) async fn release(app: AppState, name: PathSegment, caller: CallerExtension) -> Result<Response, ApiError> {
    let waits = |state| matches!(state, PluginState::Quarantined | PluginState::Backoff);
    order(
        &app.0,
        &name.0,
        &caller.0,
        OperatorOrder::Release,
        waits,
        "is neither in quarantine nor waiting after a failure",
    )
}

/// Stops a plugin until it is released.
pub(crate) async fn quarantine(
    app: AppState,
    name: PathSegment,
    caller: CallerExtension,
) -> Result<Response, ApiError> {
    let status = app.0.engine.plugins.get(&name.0);
    // A quarantine after which the host retries by itself can be made a lasting one.
    let is_retried = status.is_some_and(|status| {
        status.look(|known| known.quarantined.as_ref().is_some_and(|why| why != plugins::BY_OPERATOR))
    });
    let runs = |state| is_retried || !matches!(state, PluginState::Quarantined | PluginState::Failed);
    order(&app.0, &name.0, &caller.0, OperatorOrder::Quarantine, runs, "is not running")
}

fn order(
    app: &App,
    name: &str,
    caller: &RequestCaller,
    order: OperatorOrder,
    fits: impl Fn(PluginState) -> bool,
    otherwise: &str,
) -> Result<Response, ApiError> {
    let status = app.engine.plugins.get(name).ok_or_else(|| ApiError::not_found("no plugin has this name"))?;
    if !fits(status.state()) {
        return Err(ApiError::new(StatusCode::CONFLICT, format!("plugin {} {otherwise}", status.name)));
    }
    let action = match order {
        OperatorOrder::Release => PluginAction::Release,
        OperatorOrder::Quarantine => PluginAction::Quarantine,
    };
    let (plugin, digest) = (status.name.to_string(), status.look(|known| known.digest.clone()));
    let what = AuditedAction::Plugin(PluginChange { action, plugin, digest, refused: None });
    app.engine.audit.write(app.engine.clock.now_ms(), &AuditEntry { by: Actor::Api(caller.for_audit()), what });
    status.order(order);
    Ok((StatusCode::ACCEPTED, json(&PluginPage::of(&app.engine, &status))).into_response())
}

/// Requests a change of a plugin, and waits for its result, but not for long.
async fn request(app: &App, name: String, what: RequestKind, caller: &RequestCaller) -> Result<Response, ApiError> {
    let removes = matches!(what, RequestKind::Remove);
    let mut is_done = true;
    let (answer, answered) = oneshot::channel();
    app.engine
        .plugins
        .request(PluginRequest { plugin: name.clone(), what, by: Actor::Api(caller.for_audit()), answer })
        .await;
    match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(done)) => done?,
        Ok(Err(_)) => return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the plugin is being stopped")),
        // The plugin is being compiled, or waits for others that are.
        Err(_) => is_done = false,
    }
    if removes && is_done {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    // The new instance takes over between two ticks.
    let status = app
        .engine
        .plugins
        .get(&name)
        .ok_or_else(|| ApiError::not_found("the plugin was removed during the request"))?;
    Ok((StatusCode::ACCEPTED, json(&PluginPage::of(&app.engine, &status))).into_response())
}

impl From<RequestError> for ApiError {
    fn from(denied: RequestError) -> Self {
        let status = match &denied {
            RequestError::Unknown => StatusCode::NOT_FOUND,
            RequestError::Bundled
            | RequestError::Native
            | RequestError::Busy
            | RequestError::NotTaken(
                RefusedVersion::Pinned { .. }
                | RefusedVersion::Outdated
                | RefusedVersion::Superseded
                | RefusedVersion::NoFolder,
            ) => StatusCode::CONFLICT,
            RequestError::NotRemoved { .. } | RequestError::NotTaken(RefusedVersion::NotKept(_)) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            RequestError::NotTaken(_) => StatusCode::UNPROCESSABLE_ENTITY,
        };
        Self::new(status, denied.to_string())
    }
}

/// Checks that a body is sent as a component. The default type of curl is accepted, too: no page can have a browser
/// send that with PUT.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    const TAKEN: [&str; 3] = ["application/wasm", "application/octet-stream", "application/x-www-form-urlencoded"];
    if content_type(headers).is_none_or(|given| TAKEN.contains(&given.as_str())) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported Content-Type; send the component as application/wasm",
    ))
}
