//! The task of one plugin: starts and polls the current version, retries and quarantines it, until a newer version
//! takes over.

use super::backoff::{Consequence, PollOutcome, backoff};
use super::failure_log::FailureKind;
use super::find::PluginLocation;
use super::handover_slot::Slot;
use super::last_good::LastGood;
use super::poll::{PollEnd, PollState, Poller};
use super::prepare::{LoadedPlugin, StartedPlugin, off_thread, start};
use super::quarantine::{QuarantineEnd, quarantine, told_to_stop};
use super::state_file::StateFile;
use super::status::{BY_OPERATOR, OperatorOrder, SharedStatus};
use super::task_end::TaskEnd;
use super::updater::{BrokenVersion, CandidateVersion, RefusedUpload, TaskInput, Updater};
use super::{Fields, PluginState, PluginStatus, RefusedVersion, plain};
use crate::Engine;
use crate::address_space::Reservation;
use crate::clock::Schedule;
use dropsonde_sandbox::{CallError, Role, Sandbox, SavedState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The reason why a plugin is not polled, or no longer polled.
enum StopReason {
    /// A retry cannot help; the reason.
    Failed(String),
    /// A retry may help. The flag tells whether some calls came back before.
    Retry(CallError, bool),
    /// The plugin goes into quarantine; the reason.
    Quarantined(String),
    /// A newer version takes over, between two ticks.
    Replaced(Box<CandidateVersion>),
}

/// Runs a plugin until its task is told to end, or until the upload of a new plugin is refused. Returns that upload,
/// and what the task was told.
pub(super) async fn run(
    engine: Arc<Engine>,
    sandbox: Arc<Sandbox>,
    status: SharedStatus,
    place: PluginLocation,
    mail: TaskInput,
    told: &mut oneshot::Receiver<TaskEnd>,
) -> (Option<RefusedUpload>, Option<TaskEnd>) {
    let data = engine.options.load().data_dir.clone();
    let file = data.as_ref().map(|folder| StateFile::of(&status.name, folder));
    let good = data.as_ref().map(|folder| LastGood::of(&status.name, folder));
    let state = match file.clone() {
        Some(file) => off_thread(move || file.load()).await.unwrap_or_default(),
        None => SavedState::default(),
    };
    let keeper = StateKeeper { state: Mutex::new(state), file, writing: Arc::default() };
    let (handover, broken, writing) = (Slot::default(), Slot::default(), Arc::default());
    let (status, sandbox) = (&status, &sandbox);
    let good = good.as_ref();
    let updater = Updater {
        engine: &engine,
        sandbox,
        status,
        keeper: &keeper,
        place: &place,
        good,
        writing: &writing,
        broken: &broken,
        handover: &handover,
    };
    let runner =
        Runner { engine: &engine, sandbox, status, keeper: &keeper, good, broken: &broken, handover: &handover };
    let (unwanted, end) = tokio::select! {
        unwanted = updater.run(mail) => (Some(unwanted), told.try_recv().ok()),
        never = runner.run() => match never {},
        // Without a sender, the host is stopping.
        end = &mut *told => (None, Some(end.unwrap_or(TaskEnd::Stop))),
    };
    // The poll that was cut off may have saved state.
    keeper.keep(&engine, status).await;
    drop(writing.lock().await);
    (unwanted, end)
}

/// The saved state of a plugin, and its file.
#[derive(Default)]
pub(super) struct StateKeeper {
    state: Mutex<SavedState>,
    file: Option<StateFile>,
    /// Held during a write, because a poll that is cut off leaves its write under way.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl StateKeeper {
    /// Returns the saved state of the current version.
    pub(super) fn state(&self) -> SavedState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_state(&self, state: SavedState) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Writes the saved state if it is not on disk yet. If that fails, the next call tries again.
    pub(super) async fn keep(&self, engine: &Engine, status: &PluginStatus) {
        let Some(file) = self.file.clone() else { return };
        if self.state().unkept().is_none() {
            return;
        }
        let writing = self.writing.clone().lock_owned().await;
        let state = self.state();
        let Some((save, bytes)) = state.unkept() else { return };
        let written = tokio::task::spawn_blocking(move || {
            let _writing = writing;
            file.save(&bytes).map(|()| state.kept(save))
        });
        match written.await {
            Ok(Ok(())) => status.failure_log.works(&status.name, FailureKind::SavedState),
            Ok(Err(error)) => {
                status.failure_log.failed(&status.name, FailureKind::SavedState, &error.to_string());
                engine.metrics.core.errors(&status.name, "state", 1);
            }
            // The host is stopping.
            Err(_) => {}
        }
    }
}

struct Runner<'a> {
    engine: &'a Engine,
    sandbox: &'a Arc<Sandbox>,
    status: &'a SharedStatus,
    keeper: &'a StateKeeper,
    good: Option<&'a LastGood>,
    broken: &'a Slot<BrokenVersion>,
    handover: &'a Slot<CandidateVersion>,
}

impl Runner<'_> {
    async fn run(&self) -> std::convert::Infallible {
        let mut candidate = self.handover.take().await;
        let mut schedule: Option<(Duration, Schedule)> = None;
        loop {
            let shape = candidate.loaded.plugin.shape().clone();
            self.status.update(|known| known.shape = Some(shape));
            if !self.status.has(Role::Source) {
                self.engine.snapshots.remove(&self.status.name, self.engine.clock.now_ms());
            }
            self.status.keep_events_if_observed();
            let interval = self.status.interval();
            // All versions share a schedule: a newer one goes on where the earlier one was.
            let (_, schedule) = match &mut schedule {
                Some(known) if known.0 == interval => known,
                other => other.insert((interval, Schedule::new(&self.status.name, interval))),
            };
            candidate = self.run_until_replaced(candidate, schedule).await;
        }
    }

    /// Runs a version until another one takes over, and returns that one.
    async fn run_until_replaced(&self, candidate: CandidateVersion, schedule: &mut Schedule) -> CandidateVersion {
        let CandidateVersion { loaded, ready, is_restored } = candidate;
        let status = self.status;
        self.engine.tracked.ask_again(&status.name);
        status.begin_sampling(self.engine.metrics.core.samples_stored(&status.name));
        status.update(|known| {
            known.has_current = true;
            known.has_run_well = false;
            known.origin = loaded.component.origin.clone();
            known.digest = Some(loaded.digest.clone());
            known.loaded_ms = Some(self.engine.clock.now_ms());
            known.is_restored = is_restored;
            known.quarantined = None;
            known.retry_at_ms = None;
            known.set_aside.clear();
            known.forget_call_times();
        });
        // The version keeps its room while its instances end and start.
        let mut room = None;
        let mut started = None;
        if let Some((mut ready, trial)) = ready {
            room = ready.room.take();
            let state = trial.state().clone();
            let is_late = trial.take_over(&self.keeper.state());
            self.keeper.set_state(state);
            if is_late {
                // If that fails, the first call reports it.
                let _ = ready.worker.renew().await;
                self.engine.metrics.workers_stopped.with_label_values(&["graceful"]).inc();
            }
            started = Some(ready);
        }
        let copy = self.good.cloned().filter(|_| loaded.is_file()).map(|good| (good, loaded.digest.clone()));
        let mut poll_state = PollState::of(&status.config, copy);
        // Starts in a row that the plugin itself failed, for example because something is missing.
        let mut refusals = 0;
        loop {
            let stop = tokio::select! {
                stop = self.start_and_poll(&loaded, started.take(), &mut room, schedule, &mut poll_state) => stop,
                why = told_to_stop(status) => StopReason::Quarantined(why),
            };
            let stop = match stop {
                StopReason::Retry(error, came_back) => {
                    count(self.engine, status, &error);
                    status.failed(self.engine.clock.now_ms(), &error);
                    refusals = if error.is_end() { 0 } else { refusals + 1 };
                    let went =
                        PollOutcome { came_back, ended_badly: usize::from(error.is_end()), ..PollOutcome::default() };
                    let next = poll_state.recent_failures.after(went, Instant::now());
                    match next {
                        _ if poll_state.probation.is_some() => {
                            poll_state.probation.clone().map(StopReason::Quarantined)
                        }
                        Consequence::Quarantine(why) => Some(StopReason::Quarantined(why)),
                        Consequence::Wait(wait) => self.back_off(&error, wait).await,
                        Consequence::GoOn => self.back_off(&error, backoff(refusals.max(1))).await,
                    }
                }
                stop => Some(stop),
            };
            match stop {
                Some(StopReason::Replaced(candidate)) => return *candidate,
                Some(StopReason::Failed(why)) => {
                    drop(room);
                    self.give_up(&loaded, &why);
                    return self.fail(why).await;
                }
                Some(StopReason::Quarantined(why)) => {
                    self.give_up(&loaded, &why);
                    let Self { engine, keeper, handover, .. } = *self;
                    match quarantine(engine, status, keeper, handover, why.clone(), &mut poll_state.pauses).await {
                        QuarantineEnd::Replaced(candidate) => return *candidate,
                        QuarantineEnd::Released => poll_state.released(),
                        QuarantineEnd::Retried => poll_state.retried(why),
                    }
                }
                Some(StopReason::Retry(..)) | None => {}
            }
            if poll_state.probation.is_none() {
                status.enter(PluginState::Loading);
            }
        }
    }

    async fn start_and_poll(
        &self,
        loaded: &LoadedPlugin,
        started: Option<StartedPlugin>,
        room: &mut Option<Reservation>,
        schedule: &mut Schedule,
        poll_state: &mut PollState,
    ) -> StopReason {
        let Self { engine, sandbox, status, keeper, handover, .. } = *self;
        let state = keeper.state();
        let started = match started {
            Some(started) => Ok(started),
            None => tokio::select! {
                started = start(engine, sandbox, status, loaded, &state, room) => started,
                candidate = handover.take() => return StopReason::Replaced(Box::new(candidate)),
            },
        };
        let StartedPlugin { worker, fields, description, grants, missing, .. } = match started {
            Ok(started) => started,
            Err(RefusedVersion::Start(error)) => return StopReason::Retry(error, false),
            Err(why) => return StopReason::Failed(why.to_string()),
        };
        status.set_worker(&worker);
        self.warn_of_other_kinds(fields.as_ref());
        status.update(|known| {
            known.description = Some(description);
            known.grants = grants;
            known.missing = missing;
            known.fields.clone_from(&fields);
            // The version did not start before, and now it does.
            known.refused.take_if(|refused| refused.digest == known.digest);
        });
        status.failure_log.works(&status.name, FailureKind::Start);
        if poll_state.probation.is_none() {
            status.enter(PluginState::Running);
            tracing::info!(plugin = &*status.name, "running");
        }
        let mut poller = Poller::new(engine, status, worker, fields, keeper, poll_state);
        match poller.poll_on_schedule(schedule, handover).await {
            PollEnd::Invalid(why) => StopReason::Failed(RefusedVersion::Invalid(why).to_string()),
            PollEnd::Quarantined(why) => StopReason::Quarantined(why),
            PollEnd::Lost(error, came_back) => StopReason::Retry(error, came_back),
            PollEnd::Replaced(candidate) => StopReason::Replaced(candidate),
        }
    }

    /// Warns about metrics that are a counter of one sampler and a gauge of another. Only the metric of the sampler
    /// that began first is shown.
    fn warn_of_other_kinds(&self, fields: Option<&Fields>) {
        let others = self.engine.plugins.list();
        for other in others.iter().filter(|other| other.name != self.status.name) {
            let Some((fields, others)) = fields.zip(other.fields()) else { continue };
            for metric in fields.other_kinds(&others) {
                let is_newer = self.status.began > other.began;
                let (newer, older) = if is_newer { (self.status, other) } else { (other, self.status) };
                let (plugin, older) = (&*newer.name, &*older.name);
                tracing::warn!(
                    plugin,
                    older,
                    metric,
                    "metric not shown: an older sampler has a metric of this name and another kind"
                );
                self.engine.metrics.core.errors(plugin, "metric_kind", 1);
            }
        }
    }

    /// Asks the updater to restore the last good version, if this one never ran well.
    fn give_up(&self, LoadedPlugin { digest, .. }: &LoadedPlugin, why: &str) {
        if !self.status.look(|known| known.has_run_well) && why != BY_OPERATOR {
            self.broken.put(BrokenVersion { digest: digest.clone(), why: why.to_owned() });
        }
    }

    /// Marks the plugin as failed, and waits for another version.
    async fn fail(&self, why: String) -> CandidateVersion {
        let (engine, status) = (self.engine, self.status);
        tracing::error!(plugin = &*status.name, reason = why, "not running");
        status.failed_because(engine.clock.now_ms(), why);
        engine.metrics.core.errors(&status.name, "load", 1);
        status.update(|known| {
            known.has_current = false;
            known.next_poll_ms = None;
        });
        status.enter(PluginState::Failed);
        self.handover.take().await
    }

    /// Waits before the next start. Returns `None` when the time is over, or when an operator ends the wait.
    async fn back_off(&self, error: &CallError, wait: Duration) -> Option<StopReason> {
        let status = self.status;
        status.failure_log.failed(&status.name, FailureKind::Start, &plain(&error.to_string()));
        status.forget(OperatorOrder::Release);
        status.retry_at(Some(retry_at_ms(self.engine, wait)));
        status.enter(PluginState::Backoff);
        let stop = tokio::select! {
            () = tokio::time::sleep(wait) => None,
            () = status.ordered(OperatorOrder::Release) => None,
            why = told_to_stop(status) => Some(StopReason::Quarantined(why)),
            candidate = self.handover.take() => Some(StopReason::Replaced(Box::new(candidate))),
        };
        status.retry_at(None);
        stop
    }
}

/// Returns the end of a wait that begins now, in milliseconds since 1970.
pub(super) fn retry_at_ms(engine: &Engine, wait: Duration) -> i64 {
    engine.clock.now_ms().saturating_add_unsigned(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

/// Counts an error in the metrics, by its reason.
pub(super) fn count(engine: &Engine, status: &SharedStatus, error: &CallError) {
    engine.metrics.core.errors(&status.name, error.reason(), 1);
    if error.is_end() {
        engine.metrics.core.panics(&status.name, 1);
    }
}
