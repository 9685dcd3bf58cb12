//! A sampler's part of a tick: discovery, and readings in batches.

use super::{PluginCalls, PollEnd, PollOutcome, Poller, called_in};
use crate::clock::Stamp;
use crate::plugins::batches::CallEnd;
use crate::plugins::failure_log::FailureKind;
use crate::plugins::plain;
use crate::plugins::status::SetAsideInstance;
use crate::tracked::PolledInstance;
use dropsonde_sandbox::{CallError, Readings, Tick};
use std::time::{Duration, Instant};
use tokio::runtime::{Handle, RuntimeFlavor};
use tracing::Span;

/// The most calls of one tick that may end badly. After each of them, the next call needs a fresh instance.
const MOST_ENDS: usize = 4;

impl<C: PluginCalls> Poller<'_, C> {
    pub(super) async fn discover(&mut self, due_ms: i64, went: &mut PollOutcome) -> Result<(), PollEnd> {
        let stamp = self.stamp(due_ms);
        let at_ms = stamp.at_ms;
        let (tick, span) = (self.tick(stamp), self.call_span("discover", None));
        let answer = called_in(span, self.calls.discover(tick)).await;
        let found = match answer {
            Ok(found) => {
                self.works(FailureKind::Discover);
                self.status.update(|known| known.failed_discoveries = 0);
                found
            }
            // An answer to discovery says nothing about the plugin's samples.
            Err(error) => {
                let came_back = went.came_back;
                self.status.update(|known| known.failed_discoveries = known.failed_discoveries.saturating_add(1));
                // A later discovery is not a first one, even if it is the first to succeed.
                self.status.take_first_discovery();
                let reported = self.report(FailureKind::Discover, &error, went);
                went.came_back = came_back;
                return reported;
            }
        };
        let Some(recorder) = &self.recorder else { return Ok(()) };
        let (engine, most) = (self.engine, self.status.limits.instances);
        let wrong = off_runtime(found.len(), || recorder.find(engine, found, most, at_ms));
        if let Some(first) = wrong.first() {
            self.fails(FailureKind::Discovered, first);
        }
        self.works(FailureKind::Discovered);
        for why in wrong {
            self.status.failed_because(at_ms, why);
        }
        Ok(())
    }

    /// Makes the history before the first tick, if the plugin is one that can. A call that fails leaves a gap.
    pub(super) async fn backfill(&mut self, due_ms: i64, span: Duration) {
        let mut went = PollOutcome::default();
        if self.discover(due_ms, &mut went).await.is_err() {
            return;
        }
        let Some(instances) = self.recorder.as_mut().map(|recorder| recorder.polled(self.engine)) else { return };
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let interval_ms = ms(self.status.interval()).max(1);
        let begin_ms = due_ms.saturating_sub(ms(span));
        let now = self.tick(self.stamp(due_ms));
        for at_ms in (1..).map(|nth| begin_ms.saturating_add(nth * interval_ms)).take_while(|at_ms| *at_ms < due_ms) {
            let tick = Tick { at_ms: u64::try_from(at_ms).unwrap_or(0), ..now };
            let readings = self.calls.sample(tick, &instances).await;
            if let (Ok(readings), Some(recorder)) = (readings, &mut self.recorder) {
                recorder.backfill(self.engine, at_ms, &instances, &readings);
            }
        }
    }

    pub(super) async fn sample(&mut self, due_ms: i64, went: &mut PollOutcome) -> Result<(), PollEnd> {
        let Some(recorder) = &mut self.recorder else { return Ok(()) };
        let instances = recorder.polled(self.engine);
        self.status.update(|known| known.instances = instances.len());
        Span::current().record("instances", instances.len() as i64);
        let aside = self.poll_state.batches.set_aside().len();
        let (mut changed, mut came_back) = (false, false);
        for batch in self.poll_state.batches.of(&instances, Instant::now()) {
            if self.poll_state.batches.is_call_too_much() {
                self.engine.metrics.samples_dropped.with_label_values(&["budget"]).inc_by(batch.len() as u64);
                continue;
            }
            if went.ended_badly + went.tried_in_vain >= MOST_ENDS {
                self.engine.metrics.samples_dropped.with_label_values(&["poison"]).inc_by(batch.len() as u64);
                continue;
            }
            let (called, stamp) = (Instant::now(), self.stamp(due_ms));
            let (tick, span) = (self.tick(stamp), self.call_span("sample", Some(batch.len())));
            let readings = called_in(span, self.calls.sample(tick, &batch)).await;
            let took = called.elapsed();
            self.called(took);
            let error = match readings {
                Ok(readings) => {
                    self.record(stamp, took, &batch, readings);
                    went.came_back = true;
                    came_back = true;
                    changed |= self.poll_state.batches.came_back(&batch, self.share_of_budget(took));
                    continue;
                }
                Err(error) => error,
            };
            self.recorder.iter().for_each(|recorder| recorder.failed(self.engine, batch.len() as u64));
            let known = self.poll_state.batches.is_set_aside(&batch);
            match &error {
                // The call did not fail because of its instances.
                CallError::NoInstance(_) | CallError::Stopped => {}
                CallError::Failed(_) => {
                    changed |= self.poll_state.batches.came_back(&batch, self.share_of_budget(took));
                }
                error => {
                    let reason = plain(&error.to_string());
                    self.poll_state.batches.ended_badly(&batch, &reason, end_of(error), Instant::now());
                    changed = true;
                }
            }
            let before = went.ended_badly;
            self.report(FailureKind::Sample, &error, went)?;
            if known {
                went.tried_in_vain += went.ended_badly - before;
                went.ended_badly = before;
            }
            if matches!(error, CallError::NoInstance(_)) {
                break;
            }
        }
        self.poll_state.batches.settle(Instant::now());
        self.status.sampled(self.engine.metrics.core.samples_stored(&self.status.name));
        if came_back {
            self.works(FailureKind::Sample);
            self.works(FailureKind::Readings);
        }
        off_runtime(instances.len(), || self.engine.publish_workloads());
        if changed || self.poll_state.batches.set_aside().len() != aside {
            self.show_set_aside();
        }
        Ok(())
    }

    /// Returns the share that the last call used of its CPU time or of its deadline, whichever is larger.
    fn share_of_budget(&self, took: Duration) -> f64 {
        let limits = &self.status.limits;
        let cpu = self.calls.used().last_cpu.as_secs_f64() / limits.cpu.as_secs_f64();
        cpu.max(took.as_secs_f64() / limits.deadline.as_secs_f64())
    }

    fn show_set_aside(&self) {
        let (now, now_ms) = (Instant::now(), self.engine.clock.now_ms());
        let waiting = self.poll_state.batches.set_aside().iter().map(|(id, aside)| SetAsideInstance {
            instance: id.clone(),
            reason: aside.reason.clone(),
            times: aside.times,
            retry_at_ms: now_ms
                .saturating_add_unsigned(aside.retry_at.saturating_duration_since(now).as_millis() as u64),
        });
        let waiting = waiting.collect();
        self.status.update(|known| known.set_aside = waiting);
    }

    fn record(&mut self, stamp: Stamp, took: Duration, batch: &[PolledInstance], readings: Readings) {
        let Some(recorder) = &mut self.recorder else { return };
        let engine = self.engine;
        let failed = off_runtime(batch.len(), || recorder.record(engine, stamp, took, batch, readings));
        let failed: Vec<_> = failed.into_iter().map(|(id, failure)| format!("{id}: {failure}")).collect();
        if let Some(first) = failed.first() {
            self.fails(FailureKind::Readings, &plain(first));
        }
        for why in failed {
            self.status.failed_because(stamp.at_ms, why);
        }
    }
}

/// Does work whose time grows with a number of instances. Where there are many, the runtime's other tasks go on on
/// other threads meanwhile.
fn off_runtime<T>(instances: usize, work: impl FnOnce() -> T) -> T {
    const FEW: usize = 256;
    let has_others = Handle::current().runtime_flavor() == RuntimeFlavor::MultiThread;
    if instances > FEW && has_others { tokio::task::block_in_place(work) } else { work() }
}

/// Returns how a call without readings ended.
fn end_of(error: &CallError) -> CallEnd {
    match error {
        CallError::CpuExhausted { .. } | CallError::DeadlineExceeded { .. } => CallEnd::TooSlow,
        error if error.is_want() => CallEnd::TooMuch,
        _ => CallEnd::Broke,
    }
}
