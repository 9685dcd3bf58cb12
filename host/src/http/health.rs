use super::App;
use super::error::json;
use crate::core::Core;
use crate::json;
use crate::plugins::PluginState;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;

#[derive(Serialize)]
struct Health {
    status: &'static str,
    timestamp: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<String>,
}

/// 200 also when degraded: a plugin that does not run must not get the host restarted.
pub(crate) async fn health(State(core): App) -> Response {
    let troubled = core.plugins.list().into_iter().filter_map(|plugin| {
        let known = plugin.known();
        let state = match known.state {
            PluginState::Failed => "has failed",
            PluginState::Backoff => "waits after a failure",
            PluginState::Quarantined => "is in quarantine",
            _ if known.is_restored => "runs as it last ran well",
            PluginState::Loading | PluginState::Compiling | PluginState::Running => return None,
        };
        let why = known.quarantined.or(known.last_failure.map(|failure| failure.reason)).unwrap_or_default();
        Some(format!("plugin {} {state}: {why}", plugin.name))
    });
    let reasons: Vec<_> = troubled.chain(history(&core)).collect();
    let status = if reasons.is_empty() { "healthy" } else { "degraded" };
    json(&Health { status, timestamp: json::time(core.clock.now_ms()), reasons })
}

/// Why history is not written to disk, or takes more of it than it may.
fn history(core: &Core) -> Option<String> {
    /// A write that takes longer is no slow one any more.
    const SLOW: Duration = Duration::from_secs(10);
    let archive = core.store.archive();
    if let Some(failing) = archive.failing {
        let (reason, since) = (failing.reason, json::time(failing.since_ms));
        let what = match reason {
            "full" => "the disk is full",
            "read_only" => "the disk is read-only",
            "denied" => "writing is not allowed",
            _ => "the disk does not work",
        };
        let rows = archive.unstored_rows;
        return Some(format!(
            "history is in memory alone since {since}, {rows} rows so far: {what} ({}); it is tried again",
            failing.error
        ));
    }
    if let Some(slow) = archive.writing_since.map(|since| since.elapsed()).filter(|took| *took > SLOW) {
        return Some(format!("history is in memory alone: a write has been going on for {} s", slow.as_secs()));
    }
    archive.beyond_limit.then(|| {
        let size = archive.size.div_ceil(1 << 20);
        format!("history takes {size} MiB, more than store.max_disk: the newest part of it cannot be spared")
    })
}

/// 200 once every plugin there was at the start has been tried.
pub(crate) async fn ready(State(core): App) -> Response {
    let pending = |state| matches!(state, PluginState::Loading | PluginState::Compiling);
    let mut waiting = core.plugins.list();
    waiting.retain(|plugin| plugin.is_of_start && pending(plugin.state()));
    if waiting.is_empty() {
        return json(&Health { status: "ready", timestamp: json::time(core.clock.now_ms()), reasons: Vec::new() });
    }
    let reasons = waiting.iter().map(|plugin| format!("plugin {} is being loaded", plugin.name)).collect();
    let health = Health { status: "starting", timestamp: json::time(core.clock.now_ms()), reasons };
    (StatusCode::SERVICE_UNAVAILABLE, json(&health)).into_response()
}
