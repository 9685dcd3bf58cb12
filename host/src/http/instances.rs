use super::App;
use super::error::{ApiError, json};
use super::window::Parameters;
use crate::core::Core;
use crate::json;
use crate::labels::Labels;
use crate::tracked::{State as InstanceState, Tracking};
use axum::extract::{RawQuery, State};
use axum::response::Response;
use dropsonde_store::InstanceId;
use serde::Serialize;

#[derive(Serialize)]
struct InstancePage {
    id: String,
    labels: Labels,
    state: &'static str,
    samplers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_at: Option<String>,
}

/// All instances by id; `label=k=v` (repeatable), `limit`, `after`.
pub(crate) async fn list(State(core): App, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let parameters = Parameters::parse(query.as_deref());
    let mut wanted = Vec::new();
    for label in parameters.all("label") {
        let pair = label.split_once('=');
        wanted.push(pair.ok_or_else(|| ApiError::invalid("label", format_args!("{label:?} is not key=value")))?);
    }
    let limit = match parameters.one("limit") {
        None => usize::MAX,
        Some(text) => text.parse().map_err(|_| ApiError::invalid("limit", format_args!("{text:?} is no number")))?,
    };
    let after = parameters.one("after");
    let listed = core.tracked.list();
    let matching = listed.iter().filter(|instance| {
        after.is_none_or(|after| instance.id.as_str() > after)
            && wanted.iter().all(|(key, value)| instance.labels.get(*key).is_some_and(|own| own == value))
    });
    let pages: Vec<_> = matching.take(limit).map(|instance| page(&core, instance)).collect();
    Ok(json(&pages))
}

fn page(core: &Core, instance: &Tracking) -> InstancePage {
    let id: &InstanceId = &instance.id;
    let mut samplers: Vec<_> = core.store.frames(id).iter().map(|frame| frame.schema().sampler().to_string()).collect();
    samplers.dedup();
    InstancePage {
        id: id.to_string(),
        labels: instance.labels.clone(),
        state: match instance.state {
            InstanceState::Tracked => "tracked",
            InstanceState::Ended => "ended",
        },
        samplers,
        last_at: core.store.latest_at_ms(id).map(json::time),
    }
}
