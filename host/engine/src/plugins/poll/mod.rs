//! Polls a running plugin on schedule, in all its roles. `sampling`: a sampler's part of a tick; `calls`: the calls.

mod calls;
mod sampling;

pub(super) use calls::{PluginCalls, ResourceUse};

use super::backoff::{Consequence, PollOutcome, QuarantinePauses, RecentFailures};
use super::batches::Batches;
use super::failure_log::FailureKind;
use super::handover_slot::Slot;
use super::last_good::LastGood;
use super::run::{StateKeeper, count, retry_at_ms};
use super::status::{OperatorOrder, SharedStatus};
use super::updater::CandidateVersion;
use super::{Fields, PluginState, plain};
use crate::Engine;
use crate::clock::{Schedule, Stamp};
use crate::events::EventQueue;
use crate::options::PluginConfig;
use crate::recorder::SampleRecorder;
use dropsonde_sandbox::{CallError, Event, Role, Tick};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

/// Why polling a plugin has ended.
pub(super) enum PollEnd {
    /// The plugin says that its configuration cannot work; its reason.
    Invalid(String),
    /// The plugin's calls end badly again and again; the reason for quarantine.
    Quarantined(String),
    /// The worker cannot be used any more. The flag tells whether other calls of the same tick came back.
    Lost(CallError, bool),
    /// A newer version takes over, between two ticks.
    Replaced(Box<CandidateVersion>),
}

/// The reason for a call.
enum CallReason {
    Tick,
    /// Someone asks for the present state of the plugin's application.
    Asked,
    /// The plugin's application sent events.
    Told(Vec<Event>),
}

/// Waits for the events of an observer. Never returns if there is no queue, because the plugin is not an observer.
async fn next(events: Option<&EventQueue>) -> Vec<Event> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Polls a running plugin.
pub(super) struct Poller<'a, C: PluginCalls> {
    engine: &'a Engine,
    status: &'a SharedStatus,
    calls: C,
    /// `None` if the plugin is not a sampler.
    recorder: Option<SampleRecorder>,
    keeper: &'a StateKeeper,
    poll_state: &'a mut PollState,
    /// The kinds of failure since the last tick, each of which is logged once at most.
    failing: BTreeSet<FailureKind>,
    /// Whether a call has failed since the metrics last counted failed polls.
    has_failed: bool,
    /// The resources that the metrics already count.
    accounted: ResourceUse,
}

/// The record of a version's behaviour, which outlives its workers.
pub(super) struct PollState {
    pub(super) recent_failures: RecentFailures,
    pub(super) batches: Batches,
    pub(super) pauses: QuarantinePauses,
    /// The reason for quarantine, while the plugin is tried again in it. Cleared once a poll has worked.
    pub(super) probation: Option<String>,
    /// The copies of the plugin and the version's digest, until the version has run well.
    pub(super) copy: Option<(LastGood, String)>,
}

impl PollState {
    /// Creates the record of a version that has not run yet.
    pub(super) fn of(config: &PluginConfig, copy: Option<(LastGood, String)>) -> Self {
        Self {
            recent_failures: RecentFailures::new(config.failures(), config.failure_window()),
            batches: Batches::default(),
            pauses: QuarantinePauses::new(config.retry_after()),
            probation: None,
            copy,
        }
    }

    /// Clears the record, because an operator released the plugin.
    pub(super) fn released(&mut self) {
        self.pauses.reset();
        self.probation = None;
        self.batches = Batches::default();
        self.recent_failures.reset();
    }

    /// Prepares the record for another try in quarantine. `why` is the reason for the quarantine.
    pub(super) fn retried(&mut self, why: String) {
        self.probation = Some(why);
        self.batches = self.batches.retried();
        self.recent_failures.reset();
    }
}

impl<'a, C: PluginCalls> Poller<'a, C> {
    pub(super) fn new(
        engine: &'a Engine,
        status: &'a SharedStatus,
        calls: C,
        fields: Option<Fields>,
        keeper: &'a StateKeeper,
        poll_state: &'a mut PollState,
    ) -> Self {
        let recorder =
            |fields| SampleRecorder::new(status.name.clone(), fields, status.interval(), status.limits.deadline);
        Self {
            engine,
            status,
            calls,
            recorder: fields.map(recorder),
            keeper,
            poll_state,
            failing: BTreeSet::new(),
            has_failed: false,
            accounted: ResourceUse::default(),
        }
    }

    /// Polls on schedule, and returns why that ended. Between two ticks, hands events to an observer, and polls a
    /// source once more if someone asks for that.
    pub(super) async fn poll_on_schedule(
        &mut self,
        schedule: &mut Schedule,
        handover: &Slot<CandidateVersion>,
    ) -> PollEnd {
        let mut discover_at = i64::MIN;
        self.status.update(|known| known.late_ticks = 0);
        if let Some(span) = self.status.take_backfill() {
            self.backfill(self.engine.clock.now_ms(), span).await;
        }
        let events = self.status.events();
        let writer = self.engine.horizon.writer();
        // A tick that is still due, because a call before it ended badly.
        let mut overdue: Option<(i64, u64)> = None;
        loop {
            let discover_interval = self.engine.options.load().poll.discover_interval.as_ms();
            let before = *schedule;
            let now_ms = self.engine.clock.now_ms();
            let (due_ms, missed) = overdue.take().unwrap_or_else(|| schedule.next(now_ms, self.engine.clock.steady()));
            writer.next_is_due(self.recorder.as_ref().map_or(due_ms, |recorder| recorder.earliest_ms(due_ms)));
            // False until the next tick, if there is no instance to hand events to.
            let mut listens = true;
            self.status.update(|known| known.next_poll_ms = Some(due_ms));
            let tick = tokio::time::sleep(Duration::from_millis(u64::try_from(due_ms - now_ms).unwrap_or(0)));
            let mut tick = std::pin::pin!(tick);
            let (went, polled) = loop {
                let work = tokio::select! {
                    biased;
                    () = &mut tick => CallReason::Tick,
                    candidate = handover.take() => {
                        // Saves what the observer counted since the last poll. The tick is left to the new version.
                        if events.is_some() {
                            let _ = self.collect(&mut PollOutcome::default()).await;
                            self.keeper.keep(self.engine, self.status).await;
                        }
                        *schedule = before;
                        return PollEnd::Replaced(Box::new(candidate));
                    }
                    () = self.status.told_to_poll() => CallReason::Asked,
                    events = next(events.as_deref()), if listens => CallReason::Told(events),
                };
                // Calls between two ticks do not count for the next tick.
                let mut went = PollOutcome::default();
                let done = match (work, events.as_deref()) {
                    (CallReason::Told(told), Some(queue)) => match self.calls.ready().await {
                        Ok(()) => self.tell(told, &mut went).await,
                        Err(error) => {
                            // The events were not handed over.
                            queue.give_back(told);
                            listens = false;
                            self.report(FailureKind::Observe, &error, &mut went)
                        }
                    },
                    (CallReason::Tick | CallReason::Told(_), _) => {
                        self.failing.clear();
                        let span = tracing::debug_span!("poll", plugin = &*self.status.name, instances = Empty);
                        let polled = self.poll(due_ms, missed, &mut discover_at, discover_interval, &mut went);
                        let polled = polled.instrument(span).await;
                        break (went, polled);
                    }
                    (CallReason::Asked, _) => self.collect(&mut went).await,
                };
                self.keeper.keep(self.engine, self.status).await;
                // A call that ends badly has the same consequences as in a tick. The tick itself is still due.
                if done.is_err() || went.ended_badly > 0 {
                    overdue = Some((due_ms, missed));
                    break (went, done);
                }
            };
            self.keeper.keep(self.engine, self.status).await;
            if std::mem::take(&mut self.has_failed) {
                self.engine.metrics.health_checks_failed.with_label_values(&[&*self.status.name]).inc();
            }
            self.account();
            if let Err(ended) = polled {
                return ended;
            }
            let next = self.poll_state.recent_failures.after(went, Instant::now());
            if let Some(why) = self.poll_state.probation.take() {
                if !went.came_back && went.ended_badly + went.tried_in_vain > 0 {
                    return PollEnd::Quarantined(why);
                }
                self.leave_quarantine();
            }
            match next {
                Consequence::GoOn => {
                    self.status.enter(PluginState::Running);
                    self.status.polled();
                    if went == (PollOutcome { came_back: true, ..PollOutcome::default() }) {
                        self.has_run_well().await;
                    }
                }
                Consequence::Quarantine(why) => return PollEnd::Quarantined(why),
                Consequence::Wait(wait) => {
                    writer.rests();
                    let until_ms = Some(retry_at_ms(self.engine, wait));
                    self.status.update(|known| (known.next_poll_ms, known.retry_at_ms) = (until_ms, until_ms));
                    self.status.forget(OperatorOrder::Release);
                    self.status.enter(PluginState::Backoff);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.status.ordered(OperatorOrder::Release) => {}
                        candidate = handover.take() => return PollEnd::Replaced(Box::new(candidate)),
                    }
                    // The plugin had to wait, so the ticks in the meantime were not late.
                    self.status.update(|known| (known.late_ticks, known.retry_at_ms) = (0, None));
                }
            }
        }
    }

    /// Polls the plugin for one tick, in all its roles.
    async fn poll(
        &mut self,
        due_ms: i64,
        missed: u64,
        discover_at: &mut i64,
        discover_interval: i64,
        went: &mut PollOutcome,
    ) -> Result<(), PollEnd> {
        let (metrics, name) = (&self.engine.metrics, [&*self.status.name]);
        metrics.plugin_polls.with_label_values(&name).inc();
        metrics.plugin_polls_missed.with_label_values(&name).inc_by(missed);
        self.status.update(|known| {
            known.polls_missed += missed;
            known.late_ticks = if missed > 0 { known.late_ticks.saturating_add(1) } else { 0 };
        });
        if self.recorder.is_some() {
            // If the clock was set back, discovery must not wait until the clock has caught up.
            if due_ms >= *discover_at || *discover_at - due_ms > discover_interval {
                *discover_at = due_ms.saturating_add(discover_interval);
                self.discover(due_ms, went).await?;
            }
            self.sample(due_ms, went).await?;
        }
        self.collect(went).await
    }

    /// Asks a source for the state of its application, and puts the answer into the snapshot.
    async fn collect(&mut self, went: &mut PollOutcome) -> Result<(), PollEnd> {
        if !self.status.has(Role::Source) {
            return Ok(());
        }
        let called = Instant::now();
        let (tick, span) = (self.tick(self.now()), self.call_span("collect", None));
        let stats = called_in(span, self.calls.collect(tick)).await;
        self.called(called.elapsed());
        let (now_ms, snapshots) = (self.engine.clock.now_ms(), &self.engine.snapshots);
        let (metrics, name) = (&self.engine.metrics.core, &*self.status.name);
        metrics.received(name, "stats", 1);
        match stats {
            Ok(stats) => {
                metrics.processed(name, "stats", "ok", 1);
                snapshots.put(&self.status.name, stats, now_ms, self.status.interval());
                went.came_back = true;
                self.works(FailureKind::Collect);
                Ok(())
            }
            Err(error) => {
                metrics.processed(name, "stats", "failed", 1);
                metrics.failed(name, "stats", 1);
                snapshots.failed(&self.status.name, now_ms);
                self.report(FailureKind::Collect, &error, went)
            }
        }
    }

    /// Hands the events of its application to an observer.
    async fn tell(&mut self, events: Vec<Event>, went: &mut PollOutcome) -> Result<(), PollEnd> {
        let (count, name) = (events.len() as u64, &*self.status.name);
        let called = Instant::now();
        let (tick, span) = (self.tick(self.now()), self.call_span("observe", None));
        let told = called_in(span, self.calls.observe(tick, events)).await;
        self.called(called.elapsed());
        let metrics = &self.engine.metrics.core;
        match told {
            Ok(()) => {
                metrics.processed(name, "event", "ok", count);
                went.came_back = true;
                self.works(FailureKind::Observe);
                Ok(())
            }
            Err(error) => {
                metrics.processed(name, "event", "failed", count);
                metrics.failed(name, "event", count);
                self.report(FailureKind::Observe, &error, went)
            }
        }
    }

    /// Returns a span for a call. What the plugin logs during the call belongs to the span.
    fn call_span(&self, call: &'static str, instances: Option<usize>) -> Span {
        tracing::debug_span!(
            "call",
            otel.name = call,
            otel.status_code = Empty,
            otel.status_description = Empty,
            plugin = &*self.status.name,
            instances = instances.map(|instances| instances as i64)
        )
    }

    fn called(&self, took: Duration) {
        self.status.called(took);
        self.engine.metrics.plugin_call_seconds.with_label_values(&[&*self.status.name]).observe(took.as_secs_f64());
    }

    /// Makes this version the one to restore if a newer one does not work.
    async fn has_run_well(&mut self) {
        self.status.update(|known| known.has_run_well = true);
        let Some((good, digest)) = self.poll_state.copy.take() else { return };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || good.has_run_well(&digest)).await {
            tracing::warn!(plugin = &*self.status.name, %error, "cannot keep a copy of this version to restore later");
        }
    }

    /// Returns the stamp of a tick that was due at `due_ms`.
    fn stamp(&self, due_ms: i64) -> Stamp {
        self.engine.clock.stamp(due_ms, self.status.interval())
    }

    fn now(&self) -> Stamp {
        self.stamp(self.engine.clock.now_ms())
    }

    fn tick(&self, stamp: Stamp) -> Tick {
        Tick {
            at_ms: u64::try_from(stamp.at_ms).unwrap_or(0),
            monotonic_ns: u64::try_from(stamp.steady.as_nanos()).unwrap_or(u64::MAX),
            budget_ms: u32::try_from(self.status.limits.cpu.as_millis()).unwrap_or(u32::MAX),
            interval: self.status.interval(),
        }
    }

    /// Counts and logs a failed call. Returns an error if polling must end.
    fn report(&mut self, what: FailureKind, error: &CallError, went: &mut PollOutcome) -> Result<(), PollEnd> {
        self.has_failed = true;
        if matches!(error, CallError::Stuck(_) | CallError::Stopped) {
            return Err(PollEnd::Lost(error.clone(), went.came_back));
        }
        count(self.engine, self.status, error);
        self.status.failed(self.engine.clock.now_ms(), error);
        if let Some(why) = error.invalid() {
            return Err(PollEnd::Invalid(why.to_owned()));
        }
        self.fails(what, &plain(&error.to_string()));
        went.ended_badly += usize::from(error.is_end());
        went.came_back |= matches!(error, CallError::Failed(_));
        Ok(())
    }

    fn fails(&mut self, what: FailureKind, reason: &str) {
        if self.failing.insert(what) {
            self.status.failure_log.failed(&self.status.name, what, reason);
        }
    }

    fn works(&self, what: FailureKind) {
        if !self.failing.contains(&what) {
            self.status.failure_log.works(&self.status.name, what);
        }
    }

    /// Ends quarantine, because a retry worked.
    fn leave_quarantine(&mut self) {
        let retries = self.poll_state.pauses.lift(Instant::now());
        self.status.update(|known| known.quarantined = None);
        tracing::info!(plugin = &*self.status.name, retries, "works again and is out of quarantine");
    }

    fn account(&mut self) {
        let now = self.calls.used();
        let metrics = &self.engine.metrics;
        let name = [&*self.status.name];
        let before = std::mem::replace(&mut self.accounted, now);
        let now = &self.accounted;
        metrics.plugin_cpu_seconds.with_label_values(&name).inc_by(now.cpu.saturating_sub(before.cpu).as_secs_f64());
        metrics.plugin_memory_bytes.with_label_values(&name).set(i64::try_from(now.memory).unwrap_or(i64::MAX));
        metrics.workers_spawned.inc_by(now.spawned - before.spawned);
        metrics.workers_stopped.with_label_values(&["crashed"]).inc_by(now.crashed - before.crashed);
        metrics.workers_stopped.with_label_values(&["idle_timeout"]).inc_by(now.idled - before.idled);
        let (cpu, spawned) = (now.cpu.saturating_sub(before.cpu), now.spawned - before.spawned);
        let dropped = now.log_lines_dropped - before.log_lines_dropped;
        metrics.plugin_log_lines_dropped.with_label_values(&name).inc_by(dropped);
        metrics.plugin_metrics_overflow.with_label_values(&name).inc_by(now.overflowed - before.overflowed);
        let ignored = |reason| metrics.plugin_metrics_ignored.with_label_values(&[&*self.status.name, reason]);
        ignored("handle").inc_by(now.wrong_handles - before.wrong_handles);
        ignored("value").inc_by(now.wrong_values - before.wrong_values);
        self.status.update(|known| {
            known.memory_bytes = now.memory;
            known.last_call_cpu = now.last_cpu;
            known.cpu += cpu;
            known.workers_spawned += spawned;
            known.log_lines_dropped += dropped;
        });
    }
}

/// Makes a call in a span, and marks the span if the call fails.
async fn called_in<T>(span: Span, call: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    let answer = call.instrument(span.clone()).await;
    if let Err(error) = &answer {
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", error.reason());
    }
    answer
}

impl<C: PluginCalls> Drop for Poller<'_, C> {
    fn drop(&mut self) {
        self.account();
        if self.accounted.is_live {
            self.engine.metrics.workers_stopped.with_label_values(&["graceful"]).inc();
        }
        self.status.retire_worker();
        self.status.update(|known| known.memory_bytes = 0);
        self.engine.metrics.plugin_memory_bytes.with_label_values(&[&*self.status.name]).set(0);
    }
}
