//! A sampler's tick: what it finds, what it reads in batches, each row to the store and to the hub.

use super::{Ended, Poller, Went};
use crate::config::RESERVED;
use crate::labels;
use crate::plugins::status::Waiting;
use crate::plugins::{Fields, plain};
use dropsonde_sandbox::{CallError, Failure, Readings};
use dropsonde_store::{Frame, InstanceId};
use std::collections::HashMap;
use std::time::Instant;
use tracing::Span;
use tracing::field::Empty;

/// Calls of one tick that may end badly: each costs the next one a fresh instance.
const MOST_ENDS: usize = 4;

impl Poller<'_> {
    pub(super) async fn discover(&mut self, at_ms: i64, went: &mut Went) -> Result<(), Ended> {
        let asked = self.worker.discover(self.tick(at_ms));
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
        let most = self.status.limits.instances;
        let over = found.len().saturating_sub(most);
        let mut refused = over as u64;
        if over > 0 {
            let why = format!("it discovered {} instances; {most} are taken (limits.instances)", found.len());
            self.status.failed_because(at_ms, why);
        }
        let mut instances = Vec::new();
        for instance in found.into_iter().take(most) {
            match InstanceId::new(&instance.id) {
                Ok(id) if id.as_str().starts_with(RESERVED) => refused += 1,
                Ok(id) => instances.push((id, labels::cleaned(instance.labels))),
                Err(why) => {
                    refused += 1;
                    self.status.failed_because(at_ms, format!("an instance it discovered is refused: {why}"));
                }
            }
        }
        let discovered = self.core.tracked.discovered(&self.status.name, instances, at_ms);
        refused += discovered.refused;
        for id in &discovered.forgotten {
            self.core.forget(id);
        }
        self.core.metrics.core.errors(&self.status.name, "instances_refused", refused);
        Ok(())
    }

    pub(super) async fn sample(&mut self, at_ms: i64, fields: &Fields, went: &mut Went) -> Result<(), Ended> {
        let instances = self.core.tracked.polled_by(&self.status.name);
        self.status.update(|known| known.instances = instances.len());
        Span::current().record("instances", instances.len() as i64);
        // What is no longer polled may be forgotten, and begin again with another frame.
        self.frames.retain(|id, _| instances.binary_search(id).is_ok());
        let aside = self.standing.batches.set_aside().len();
        let mut changed = false;
        for batch in self.standing.batches.of(&instances, Instant::now()) {
            if went.ended_badly + went.tried_in_vain >= MOST_ENDS {
                self.core.metrics.samples_dropped.with_label_values(&["poison"]).inc_by(batch.len() as u64);
                continue;
            }
            let asked: Vec<String> = batch.iter().map(ToString::to_string).collect();
            let called = Instant::now();
            let readings = self.worker.sample(self.tick(at_ms), asked);
            let readings = self.called_in(self.call_span("sample", Some(batch.len())), readings).await;
            self.called(called.elapsed());
            let error = match readings {
                Ok(readings) => {
                    self.record(at_ms, &batch, fields, readings);
                    went.came_back = true;
                    changed |= self.standing.batches.came_back(&batch);
                    continue;
                }
                Err(error) => error,
            };
            let (metrics, count) = (&self.core.metrics.core, batch.len() as u64);
            metrics.received(&self.status.name, "sample", count);
            metrics.failed(&self.status.name, "sample", count);
            metrics.processed(&self.status.name, "sample", "failed", count);
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

    /// Each row once: to the store, then to the hub.
    fn record(&mut self, at_ms: i64, instances: &[InstanceId], fields: &Fields, readings: Readings) {
        let columns = fields.metrics.len();
        let failures: HashMap<usize, Failure> =
            readings.failures.into_iter().map(|(row, failure)| (row as usize, failure)).collect();
        let rows = readings.values.chunks_exact(columns.max(1));
        let (mut failed, mut dropped, mut stored) = (0, 0, Vec::new());
        let span = tracing::debug_span!("store", plugin = &*self.status.name, instances = Empty).entered();
        for (row, (id, values)) in instances.iter().zip(rows).enumerate() {
            match failures.get(&row) {
                Some(Failure::Gone) => {
                    self.core.tracked.gone(&self.status.name, id, at_ms);
                    // Should it begin again, its history may be another.
                    self.frames.remove(id);
                    continue;
                }
                Some(failure) => {
                    failed += 1;
                    let error = CallError::Failed(failure.clone());
                    self.core.metrics.core.errors(&self.status.name, error.reason(), 1);
                    self.status.failed_because(at_ms, format!("{id}: {failure}"));
                    continue;
                }
                None => {}
            }
            if values.iter().all(|value| !value.is_finite()) {
                continue;
            }
            let offset = i64::from(readings.offsets_ms.get(row).copied().unwrap_or(0));
            // Read before the last tick, or after this call can have ended: not this tick's.
            let earliest = -self.interval_ms();
            let latest = i64::try_from(self.status.limits.deadline.as_millis()).unwrap_or(i64::MAX);
            if !(earliest..=latest).contains(&offset) {
                self.core.metrics.samples_dropped.with_label_values(&["offset"]).inc();
                dropped += 1;
                continue;
            }
            let replaced = self.frame(id, fields).push(at_ms.saturating_add(offset), values);
            self.core.metrics.samples_dropped.with_label_values(&["clock"]).inc_by(replaced as u64);
            stored.push(id);
        }
        span.record("instances", stored.len() as i64);
        drop(span);
        let ok = stored.len() as u64;
        let published = self.publish(&stored);
        let (metrics, name) = (&self.core.metrics.core, &*self.status.name);
        let received = instances.len() as u64;
        metrics.received(name, "sample", received);
        metrics.processed(name, "sample", "ok", ok);
        metrics.processed(name, "sample", "failed", failed);
        metrics.processed(name, "sample", "dropped", dropped);
        // Without a signal, or of an instance that is gone.
        metrics.processed(name, "sample", "gap", received - ok - failed - dropped);
        metrics.failed(name, "sample", failed);
        metrics.published(name, "usage", published);
    }

    /// Hands each instance's newest sample to who watches it; how many there were.
    fn publish(&self, instances: &[&InstanceId]) -> u64 {
        let count = instances.len() as i64;
        let _span = tracing::debug_span!("publish", plugin = &*self.status.name, instances = count).entered();
        let samples = instances.iter().filter_map(|id| Some((id, self.core.store.latest(id)?)));
        let samples = samples.filter(|(_, sample)| !sample.values.is_empty());
        samples.map(|(id, sample)| self.core.hub.publish(id, &sample)).count() as u64
    }

    fn frame(&mut self, id: &InstanceId, fields: &Fields) -> &Frame {
        let interval_ms = self.interval_ms();
        self.frames.entry(id.clone()).or_insert_with(|| self.core.store.frame(id, &fields.schema, interval_ms))
    }
}
