//! Notifies the service manager, if one started the host and asks for it (`Type=notify`, `WatchdogSec=`).

use dropsonde_engine::Engine;
use dropsonde_engine::health::Health;
use sd_notify::NotifyState;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// Notifies that the host serves. `status` is one line about its configuration.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(super) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The watchdog's task, which ends when this is dropped.
pub(super) struct Watchdog(AbortHandle);

/// Notifies at intervals that the host is well, unless one of its own tasks has ended, which only a restart repairs.
pub(super) fn watchdog(engine: Arc<Engine>) -> Option<Watchdog> {
    let longest = sd_notify::watchdog_enabled()?;
    let task = tokio::spawn(async move {
        loop {
            if Health::of(&engine).fatal.is_none() {
                tell(&[NotifyState::Watchdog]);
            }
            tokio::time::sleep(longest / 3).await;
        }
    });
    Some(Watchdog(task.abort_handle()))
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
