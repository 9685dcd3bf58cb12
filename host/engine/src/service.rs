//! What a program does with instances' samples, whoever keeps them.

use crate::Engine;
use crate::hub::{Selection, TooManyStreams, Watch};
use crate::tracked::{Lifecycle, NotTracked, Wanted};
use dropsonde_store::{InstanceId, Points, Query, Sample};
use futures_core::Stream;
use std::pin::pin;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// Per-instance samples: tracked, read, followed. A host's is [`Host::service`](crate::host::Host::service).
pub trait Service: Send + Sync {
    /// Has an instance polled; doing it again changes nothing more.
    fn track(&self, wanted: Wanted) -> Result<(), NotTracked>;

    /// Discards its history and ends its streams; doing it again changes nothing more.
    fn untrack(&self, id: &InstanceId);

    /// Its newest values; none before the first.
    fn latest(&self, id: &InstanceId) -> Option<Sample>;

    /// A window of it: none if it is not tracked, and nothing is known of it; no points if nothing was measured then. It may
    /// have to read files.
    fn range(&self, id: &InstanceId, query: &Query) -> Option<Points>;

    /// Its samples as they come, the latest first. It may be tracked later.
    fn watch(&self, selection: Selection) -> Result<Watch, TooManyStreams>;
}

impl Service for Engine {
    fn track(&self, wanted: Wanted) -> Result<(), NotTracked> {
        self.track(wanted)
    }

    fn untrack(&self, id: &InstanceId) {
        self.untrack(id);
    }

    fn latest(&self, id: &InstanceId) -> Option<Sample> {
        self.store.latest(id).filter(|sample| !sample.values.is_empty())
    }

    fn range(&self, id: &InstanceId, query: &Query) -> Option<Points> {
        let is_known = self.tracked.get(id).is_some() || !self.store.frames(id).is_empty();
        is_known.then(|| {
            let until_ms = self.reach_ms(query.until_ms);
            self.store.range(id, &Query { until_ms, ..query.clone() })
        })
    }

    fn watch(&self, selection: Selection) -> Result<Watch, TooManyStreams> {
        self.watch(selection)
    }
}

/// What has instances follow a platform's events. Dropped, they follow no more.
#[derive(Debug)]
pub struct Subscription(AbortHandle);

impl Subscription {
    /// Must be called in a tokio runtime.
    pub fn attach(engine: Arc<Engine>, events: impl Stream<Item = Lifecycle> + Send + 'static) -> Self {
        let follow = async move {
            let mut events = pin!(events);
            while let Some(event) = std::future::poll_fn(|context| events.as_mut().poll_next(context)).await {
                if let Err((_, why)) = engine.apply(std::slice::from_ref(&event)) {
                    tracing::warn!(instance = %event.instance, error = %why, "an instance is not tracked");
                    engine.metrics.core.errors("host", "instances_refused", 1);
                }
            }
        };
        Self(tokio::spawn(follow).abort_handle())
    }

    /// Whether there will be no more: the platform has ended its events.
    pub fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// The same as dropping it.
    pub fn detach(self) {}
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.abort();
    }
}
