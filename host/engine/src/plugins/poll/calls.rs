//! The interface that a poller calls: a plugin's worker, or a native sampler or source.

use crate::tracked::PolledInstance;
use dropsonde_sandbox::{CallError, Event, Instance, Readings, Stats, Tick, Worker};
use std::time::Duration;

/// The calls of one plugin, of which one runs at a time.
pub(in crate::plugins) trait PluginCalls: Send {
    /// Waits until a call can begin.
    fn ready(&mut self) -> impl Future<Output = Result<(), CallError>> + Send;

    fn discover(&mut self, tick: Tick) -> impl Future<Output = Result<Vec<Instance>, CallError>> + Send;

    /// Reads a batch of instances. Returns one row per instance, in order.
    fn sample(
        &mut self,
        tick: Tick,
        batch: &[PolledInstance],
    ) -> impl Future<Output = Result<Readings, CallError>> + Send;

    fn collect(&mut self, tick: Tick) -> impl Future<Output = Result<Stats, CallError>> + Send;

    fn observe(&mut self, tick: Tick, events: Vec<Event>) -> impl Future<Output = Result<(), CallError>> + Send;

    /// Returns the resources that the calls have used so far.
    fn used(&self) -> ResourceUse;
}

/// The resources that a plugin's calls have used.
#[derive(Debug, Default)]
pub(in crate::plugins) struct ResourceUse {
    /// The CPU time of all calls together.
    pub(in crate::plugins) cpu: Duration,
    /// The CPU time of the last call.
    pub(in crate::plugins) last_cpu: Duration,
    pub(in crate::plugins) memory: usize,
    /// Whether there is a live instance for the next call.
    pub(in crate::plugins) is_live: bool,
    /// Instances that were started.
    pub(in crate::plugins) spawned: u64,
    /// Instances that ended in a call.
    pub(in crate::plugins) crashed: u64,
    /// Instances that were ended because they were not called.
    pub(in crate::plugins) idled: u64,
    pub(in crate::plugins) log_lines_dropped: u64,
    /// Series of the plugin's own metrics that there was no room for.
    pub(in crate::plugins) overflowed: u64,
    /// Recordings for a series that the plugin does not have.
    pub(in crate::plugins) wrong_handles: u64,
    /// Recordings of an invalid value.
    pub(in crate::plugins) wrong_values: u64,
}

impl PluginCalls for Worker {
    async fn ready(&mut self) -> Result<(), CallError> {
        if self.stats().is_live() { Ok(()) } else { Worker::ready(self).await }
    }

    async fn discover(&mut self, tick: Tick) -> Result<Vec<Instance>, CallError> {
        Worker::discover(self, tick).await
    }

    async fn sample(&mut self, tick: Tick, batch: &[PolledInstance]) -> Result<Readings, CallError> {
        Worker::sample(self, tick, batch.iter().map(|polled| polled.id.to_string()).collect()).await
    }

    async fn collect(&mut self, tick: Tick) -> Result<Stats, CallError> {
        Worker::collect(self, tick).await
    }

    async fn observe(&mut self, tick: Tick, events: Vec<Event>) -> Result<(), CallError> {
        Worker::observe(self, tick, events).await
    }

    fn used(&self) -> ResourceUse {
        let (stats, own) = (self.stats(), self.metrics());
        ResourceUse {
            cpu: stats.cpu(),
            last_cpu: stats.last_cpu(),
            memory: stats.memory(),
            is_live: stats.is_live(),
            spawned: stats.instances(),
            crashed: stats.crashed(),
            idled: stats.idled(),
            log_lines_dropped: stats.log_lines_dropped(),
            overflowed: own.overflowed(),
            wrong_handles: own.wrong_handles(),
            wrong_values: own.wrong_values(),
        }
    }
}
