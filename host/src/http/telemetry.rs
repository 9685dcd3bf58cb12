//! Durable history by host, in the form its clients know.

use super::App;
use super::error::{ApiError, json, json_bytes};
use super::instances::named;
use super::off_thread::off_thread;
use super::usage::ask;
use super::window::Parameters;
use crate::history::Range;
use crate::json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

#[derive(Serialize)]
struct Hosts {
    hosts: Vec<String>,
}

/// The hosts that have samples.
pub(crate) async fn hosts(State(core): App) -> Result<Response, ApiError> {
    off_thread(move || {
        let listed = core.tracked.list();
        let measured = listed.iter().filter(|host| core.store.latest_at_ms(&host.id).is_some());
        json(&Hosts { hosts: measured.map(|host| host.id.to_string()).collect() })
    })
    .await
}

/// `?host=…&range=30m|1h|6h|24h`; without a range, an hour.
pub(crate) async fn history(State(core): App, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let wrong = |why: String| ApiError::new(StatusCode::BAD_REQUEST, why);
    let parameters = Parameters::parse(query.as_deref());
    let host = parameters.one("host").ok_or_else(|| wrong("host parameter required".to_owned()))?;
    let range: Range = parameters.one("range").unwrap_or("1h").parse().map_err(|why| wrong(format!("{why}")))?;
    let id = named(host)?;
    let points = ask(&core, id.clone(), range.query(core.clock.now_ms())).await?;
    Ok(json_bytes(json::history(id.as_str(), range.label(), &points)))
}
