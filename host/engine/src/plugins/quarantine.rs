//! The quarantine of a plugin whose calls ended badly again and again, or that an operator stopped.

use super::backoff::QuarantinePauses;
use super::handover_slot::Slot;
use super::run::{StateKeeper, retry_at_ms};
use super::status::{BY_OPERATOR, OperatorOrder};
use super::updater::CandidateVersion;
use super::{PluginState, PluginStatus};
use crate::Engine;
use crate::json;
use std::time::Instant;

/// The way out of a wait in quarantine.
pub(super) enum QuarantineEnd {
    Replaced(Box<CandidateVersion>),
    Released,
    /// The pause is over. The plugin stays in quarantine until a poll has worked.
    Retried,
}

/// Puts a plugin into quarantine. Waits until it is to be tried again, an operator releases it, or a newer version
/// replaces it. If an operator ordered the quarantine, the plugin is not tried again by itself.
pub(super) async fn quarantine(
    engine: &Engine,
    status: &PluginStatus,
    keeper: &StateKeeper,
    handover: &Slot<CandidateVersion>,
    why: String,
    pauses: &mut QuarantinePauses,
) -> QuarantineEnd {
    let name = &*status.name;
    let pause = (why != BY_OPERATOR).then(|| pauses.next(Instant::now()));
    let retry_at_ms = pause.map(|pause| retry_at_ms(engine, pause));
    let retry_at = retry_at_ms.map(json::time);
    let is_retried = status.look(|known| known.quarantined.is_some());
    match retry_at {
        Some(retry_at) if is_retried => {
            tracing::warn!(plugin = name, reason = why, retry_at, "still in quarantine")
        }
        Some(retry_at) => tracing::error!(
            plugin = name,
            reason = why,
            retry_at,
            "in quarantine until it is tried again; `dropsonde plugin release {name}` lets it run at once"
        ),
        None => tracing::error!(
            plugin = name,
            reason = why,
            "in quarantine; `dropsonde plugin release {name}` lets it run again"
        ),
    }
    if !is_retried {
        engine.metrics.core.errors(name, "quarantine", 1);
    }
    status.update(|known| {
        known.quarantined = Some(why);
        known.next_poll_ms = None;
        known.retry_at_ms = retry_at_ms;
        known.set_aside.clear();
    });
    status.forget(OperatorOrder::Quarantine);
    status.enter(PluginState::Quarantined);
    keeper.keep(engine, status).await;
    let mut is_operators = pause.is_none();
    let mut pause_is_over = std::pin::pin!(tokio::time::sleep(pause.unwrap_or_default()));
    let way = loop {
        tokio::select! {
            () = status.ordered(OperatorOrder::Release) => break QuarantineEnd::Released,
            candidate = handover.take() => break QuarantineEnd::Replaced(Box::new(candidate)),
            why = told_to_stop(status) => {
                is_operators = true;
                status.retry_at(None);
                status.update(|known| known.quarantined = Some(why));
            }
            () = pause_is_over.as_mut(), if !is_operators => break QuarantineEnd::Retried,
        }
    };
    status.retry_at(None);
    if matches!(way, QuarantineEnd::Retried) {
        return way;
    }
    status.update(|known| known.quarantined = None);
    tracing::info!(plugin = name, "{}", if matches!(way, QuarantineEnd::Released) { "released" } else { "replaced" });
    way
}

/// Waits until an operator orders quarantine. Returns the reason for the quarantine.
pub(super) async fn told_to_stop(status: &PluginStatus) -> String {
    status.ordered(OperatorOrder::Quarantine).await;
    BY_OPERATOR.to_owned()
}
