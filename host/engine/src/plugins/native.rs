//! Polls native samplers and sources as plugins are polled, with calls off the server's threads.

use super::failure_log::FailureKind;
use super::handover_slot::Slot;
use super::poll::{PluginCalls, PollEnd, PollState, Poller, ResourceUse};
use super::quarantine::{QuarantineEnd, quarantine, told_to_stop};
use super::run::StateKeeper;
use super::{BadFields, ComponentOrigin, Fields, PluginState, PluginStatus};
use crate::Engine;
use crate::clock::Schedule;
use crate::native::Native;
use crate::tracked::{PluginName, PolledInstance};
use dropsonde_sandbox::{CallError, Event, Failure, Instance, Readings, Role, Shape, Stats, Tick, Trap};
use dropsonde_store::InstanceId;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::{Mutex, watch};

/// Why a native sampler or source is refused.
#[derive(Debug, thiserror::Error)]
pub enum BadNative {
    #[error("{0:?} is not a valid name: {names}", names = dropsonde_model::names::PLUGIN_RULE)]
    Name(String),
    #[error("two native samplers or sources have the name {0:?}")]
    Twice(String),
    #[error("{0}: {1}")]
    Fields(String, BadFields),
}

/// Adds natives to the plugins. Returns one task for each, which polls it.
pub(crate) fn start(
    engine: &Arc<Engine>,
    natives: Vec<Native>,
    stopping: &watch::Receiver<bool>,
) -> Result<Vec<impl Future<Output = ()> + Send + use<>>, BadNative> {
    let mut tasks = Vec::new();
    for native in natives {
        let name: PluginName = native.name().into();
        if !dropsonde_model::names::is_plugin(&name) {
            return Err(BadNative::Name(name.to_string()));
        }
        if engine.plugins.get(&name).is_some() {
            return Err(BadNative::Twice(name.to_string()));
        }
        let fields = match &native {
            Native::Sampler(sampler) => Some(Fields::check(&name, &sampler.fields())),
            Native::Source(_) => None,
        };
        let fields = fields.transpose().map_err(|why| BadNative::Fields(name.to_string(), why))?;
        let status = Arc::new(PluginStatus::new(name.clone(), ComponentOrigin::Native, true, &engine.options.load()));
        let role = if fields.is_some() { Role::Sampler } else { Role::Source };
        status.update(|known| {
            known.shape = Some(Shape { roles: vec![role], imports: Vec::new(), exports: Vec::new(), size: 0 });
            known.fields.clone_from(&fields);
            known.has_current = true;
            known.has_run_well = true;
            known.loaded_ms = Some(engine.clock.now_ms());
        });
        engine.plugins.add(status.clone());
        engine.metrics.know_plugin(&name);
        tasks.push(run(engine.clone(), status, native, fields, stopping.clone()));
    }
    Ok(tasks)
}

/// Polls a native until `stopping` turns true, and does not wait for a poll under way.
async fn run(
    engine: Arc<Engine>,
    status: Arc<PluginStatus>,
    native: Native,
    fields: Option<Fields>,
    mut stopping: watch::Receiver<bool>,
) {
    tokio::select! {
        () = poll(&engine, &status, native, fields) => {}
        _ = stopping.wait_for(|&stopping| stopping) => {}
    }
}

/// Polls a native as plugins are polled. A native saves no state, and no newer version replaces it.
async fn poll(engine: &Arc<Engine>, status: &Arc<PluginStatus>, native: Native, fields: Option<Fields>) {
    let (keeper, handover) = (StateKeeper::default(), Slot::default());
    let mut schedule = Schedule::new(&status.name, status.interval());
    let mut poll_state = PollState::of(&status.config, None);
    let native = Arc::new(Mutex::new(native));
    loop {
        if poll_state.probation.is_none() {
            status.enter(PluginState::Running);
        }
        let calls = NativeCalls { engine: engine.clone(), status: status.clone(), native: native.clone() };
        let mut poller = Poller::new(engine, status, calls, fields.clone(), &keeper, &mut poll_state);
        let ended = tokio::select! {
            ended = poller.poll_on_schedule(&mut schedule, &handover) => ended,
            why = told_to_stop(status) => PollEnd::Quarantined(why),
        };
        drop(poller);
        let why = match ended {
            PollEnd::Quarantined(why) => why,
            // The native says that it cannot work as it is.
            PollEnd::Invalid(why) => why,
            // The runtime is stopping. Nothing replaces a native.
            PollEnd::Lost(..) | PollEnd::Replaced(_) => return,
        };
        match quarantine(engine, status, &keeper, &handover, why.clone(), &mut poll_state.pauses).await {
            QuarantineEnd::Released | QuarantineEnd::Replaced(_) => poll_state.released(),
            QuarantineEnd::Retried => poll_state.retried(why),
        }
    }
}

/// A native sampler or source, called off the server's threads. It gets no other call until the one under way has
/// answered.
struct NativeCalls {
    engine: Arc<Engine>,
    status: Arc<PluginStatus>,
    native: Arc<Mutex<Native>>,
}

impl NativeCalls {
    async fn call<T: Send + 'static>(
        &self,
        what: FailureKind,
        call: impl FnOnce(&mut Native) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, CallError> {
        let mut native = self.native.clone().lock_owned().await;
        let mut called = tokio::task::spawn_blocking(move || catch_unwind(AssertUnwindSafe(|| call(&mut native))));
        let deadline = self.status.limits.deadline;
        let answered = match tokio::time::timeout(deadline, &mut called).await {
            Ok(answered) => answered,
            Err(_) => {
                let why = format!("no answer for {deadline:?}; the host makes no other call until this one answers");
                self.status.failure_log.failed(&self.status.name, what, &why);
                self.engine.metrics.core.errors(&self.status.name, "late", 1);
                self.status.failed_because(self.engine.clock.now_ms(), why);
                called.await
            }
        };
        match answered {
            Ok(Ok(answer)) => answer.map_err(CallError::Failed),
            Ok(Err(_)) => {
                let message = "it panicked".to_owned();
                Err(CallError::Trapped(Trap { message, backtrace: None, said: Vec::new() }))
            }
            // The runtime is stopping.
            Err(_) => Err(CallError::Stopped),
        }
    }
}

impl PluginCalls for NativeCalls {
    async fn ready(&mut self) -> Result<(), CallError> {
        Ok(())
    }

    async fn discover(&mut self, _: Tick) -> Result<Vec<Instance>, CallError> {
        let discover = |native: &mut Native| match native {
            Native::Sampler(sampler) => sampler.discover(),
            Native::Source(_) => Ok(Vec::new()),
        };
        self.call(FailureKind::Discover, discover).await
    }

    async fn sample(&mut self, _: Tick, batch: &[PolledInstance]) -> Result<Readings, CallError> {
        let ids: Vec<InstanceId> = batch.iter().map(|polled| polled.id.clone()).collect();
        let (rows, columns) = (ids.len(), self.status.fields().map_or(0, |fields| fields.metrics.len()));
        let sample = move |native: &mut Native| match native {
            Native::Sampler(sampler) => Ok(sampler.sample_all(&ids)),
            Native::Source(_) => Err(Failure::Gone),
        };
        let readings = self.call(FailureKind::Sample, sample).await?;
        let (given, wanted) = (readings.values.len(), rows * columns);
        if given != wanted {
            return Err(CallError::OutOfContract(format!("returned {given} values instead of {wanted}")));
        }
        Ok(readings)
    }

    async fn collect(&mut self, tick: Tick) -> Result<Stats, CallError> {
        let now_ms = i64::try_from(tick.at_ms).unwrap_or(i64::MAX);
        let collect = move |native: &mut Native| match native {
            Native::Source(source) => source.collect(now_ms).map_err(Failure::Unavailable),
            Native::Sampler(_) => Err(Failure::Gone),
        };
        let stats = self.call(FailureKind::Collect, collect).await?;
        match stats.no_number() {
            Some(wrong) => Err(CallError::OutOfContract(format!("{wrong} is no number"))),
            None => Ok(stats),
        }
    }

    async fn observe(&mut self, _: Tick, _: Vec<Event>) -> Result<(), CallError> {
        // A native is never an observer.
        Ok(())
    }

    fn used(&self) -> ResourceUse {
        ResourceUse::default()
    }
}
