//! The interface by which a program tracks instances and reads their samples.

use crate::Engine;
use crate::hub::{Selection, TooManyStreams, Watch};
use crate::tracked::{Lifecycle, NotTracked, TrackRequest};
use dropsonde_store::{InstanceId, Points, Query, Sample};
use futures_core::Stream;
use std::pin::pin;
use std::sync::Arc;
use tokio::task::AbortHandle;

/// Tracks instances, reads their samples and follows them. A host's is `Host::service` in the crate `dropsonde`.
pub trait Service: Send + Sync {
    /// Tracks an instance, so that samplers poll it. A repeated call changes nothing.
    fn track(&self, wanted: TrackRequest) -> Result<(), NotTracked>;

    /// Stops tracking an instance, discards its history and ends its streams. A repeated call changes nothing.
    fn untrack(&self, id: &InstanceId);

    /// Returns an instance's newest values; `None` before the first.
    fn latest(&self, id: &InstanceId) -> Option<Sample>;

    /// Returns a window of an instance's history: `None` if the instance is not tracked and has no history, no points
    /// if nothing was measured in the window. May read files.
    fn range(&self, id: &InstanceId, query: &Query) -> Option<Points>;

    /// Follows the samples of a selection: the latest ones first, then new ones as they come. An instance of the
    /// selection can be tracked later.
    fn watch(&self, selection: Selection) -> Result<Watch, TooManyStreams>;
}

impl Service for Engine {
    fn track(&self, wanted: TrackRequest) -> Result<(), NotTracked> {
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

/// A task that applies a platform's lifecycle events to instances, until the subscription is dropped.
#[derive(Debug)]
pub struct Subscription(AbortHandle);

impl Subscription {
    /// Starts the task. Must be called in a tokio runtime.
    pub fn attach(engine: Arc<Engine>, events: impl Stream<Item = Lifecycle> + Send + 'static) -> Self {
        let follow = async move {
            let mut events = pin!(events);
            while let Some(event) = std::future::poll_fn(|context| events.as_mut().poll_next(context)).await {
                if let Err((_, why)) = engine.apply(std::slice::from_ref(&event)) {
                    tracing::warn!(instance = %event.instance, error = %why, "cannot track an instance");
                    engine.metrics.core.errors("host", "instances_refused", 1);
                }
            }
        };
        Self(tokio::spawn(follow).abort_handle())
    }

    /// Returns whether the platform has ended its stream of events.
    pub fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    /// Drops the subscription.
    pub fn detach(self) {}
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.abort();
    }
}
