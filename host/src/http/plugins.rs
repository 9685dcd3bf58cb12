use super::App;
use super::error::{ApiError, Segment, json};
use crate::plugins::PluginPage;
use axum::extract::State;
use axum::response::Response;

/// All plugins by name.
pub(crate) async fn list(State(core): App) -> Response {
    let pages: Vec<_> = core.plugins.list().iter().map(|status| PluginPage::of(status)).collect();
    json(&pages)
}

pub(crate) async fn one(State(core): App, Segment(name): Segment) -> Result<Response, ApiError> {
    let status = core.plugins.get(&name).ok_or_else(|| ApiError::not_found("no plugin has this name"))?;
    Ok(json(&PluginPage::of(&status)))
}
