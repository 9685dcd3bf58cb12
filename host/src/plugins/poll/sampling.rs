//! A sampler's tick: what it finds, and what it reads, in batches.

use super::{Ended, Poller, Went};
use crate::clock::Stamp;
use crate::plugins::plain;
use crate::plugins::status::Waiting;
use crate::tracked::Polled;
use dropsonde_sandbox::{CallError, Readings};
use std::time::{Duration, Instant};
use tracing::Span;

/// Calls of one tick that may end badly: each costs the next one a fresh instance.
const MOST_ENDS: usize = 4;

impl Poller<'_> {
    pub(super) async fn discover(&mut self, due_ms: i64, went: &mut Went) -> Result<(), Ended> {
        let stamp = self.stamp(due_ms);
        let at_ms = stamp.at_ms;
        let asked = self.worker.discover(self.tick(stamp));
        let answer = self.called_in(self.call_span("discover", None), asked).await;
        let found = match answer {
            Ok(found) => found,
            // That it answers here says nothing about its samples.
            Err(error) => {
                let came_back = went.came_back;
                let reported = self.report(&error, went);
                went.came_back = came_back;
                return reported;
            }
        };
        let Some(recorder) = &self.recorder else { return Ok(()) };
        for why in recorder.find(self.core, found, self.status.limits.instances, at_ms) {
            self.status.failed_because(at_ms, why);
        }
        Ok(())
    }

    pub(super) async fn sample(&mut self, due_ms: i64, went: &mut Went) -> Result<(), Ended> {
        let Some(recorder) = &mut self.recorder else { return Ok(()) };
        let instances = recorder.polled(self.core);
        self.status.update(|known| known.instances = instances.len());
        Span::current().record("instances", instances.len() as i64);
        let aside = self.standing.batches.set_aside().len();
        let mut changed = false;
        for batch in self.standing.batches.of(&instances, Instant::now()) {
            if went.ended_badly + went.tried_in_vain >= MOST_ENDS {
                self.core.metrics.samples_dropped.with_label_values(&["poison"]).inc_by(batch.len() as u64);
                continue;
            }
            let asked: Vec<String> = batch.iter().map(|polled| polled.id.to_string()).collect();
            let (called, stamp) = (Instant::now(), self.stamp(due_ms));
            let readings = self.worker.sample(self.tick(stamp), asked);
            let readings = self.called_in(self.call_span("sample", Some(batch.len())), readings).await;
            let took = called.elapsed();
            self.called(took);
            let error = match readings {
                Ok(readings) => {
                    self.record(stamp, took, &batch, readings);
                    went.came_back = true;
                    changed |= self.standing.batches.came_back(&batch);
                    continue;
                }
                Err(error) => error,
            };
            self.recorder.iter().for_each(|recorder| recorder.failed(self.core, batch.len() as u64));
            let known = self.standing.batches.is_set_aside(&batch);
            match &error {
                // Not for what it was asked.
                CallError::NoInstance(_) | CallError::Stopped => {}
                CallError::Failed(_) => changed |= self.standing.batches.came_back(&batch),
                error => {
                    let reason = plain(&error.to_string());
                    self.standing.batches.ended_badly(&batch, &reason, error.is_want(), Instant::now());
                    changed = true;
                }
            }
            let before = went.ended_badly;
            self.report(&error, went)?;
            if known {
                went.tried_in_vain += went.ended_badly - before;
                went.ended_badly = before;
            }
            if matches!(error, CallError::NoInstance(_)) {
                break;
            }
        }
        self.core.publish_workloads();
        if changed || self.standing.batches.set_aside().len() != aside {
            self.show_set_aside();
        }
        Ok(())
    }

    fn show_set_aside(&self) {
        let (now, now_ms) = (Instant::now(), self.core.clock.now_ms());
        let waiting = self.standing.batches.set_aside().iter().map(|(id, aside)| Waiting {
            instance: id.clone(),
            reason: aside.reason.clone(),
            times: aside.times,
            retry_at_ms: now_ms
                .saturating_add_unsigned(aside.retry_at.saturating_duration_since(now).as_millis() as u64),
        });
        let waiting = waiting.collect();
        self.status.update(|known| known.set_aside = waiting);
    }

    fn record(&mut self, stamp: Stamp, took: Duration, batch: &[Polled], readings: Readings) {
        let Some(recorder) = &mut self.recorder else { return };
        for (id, failure) in recorder.record(self.core, stamp, took, batch, readings) {
            self.status.failed_because(stamp.at_ms, format!("{id}: {failure}"));
        }
    }
}
