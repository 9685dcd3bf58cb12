//! Records what one sampler, a plugin or a native one, reports: its instances are tracked, and its readings go to the
//! store and then to the hub. The recorder checks everything that a sampler reports. Readings of an instance never
//! reach a later instance of the same name.

use crate::Engine;
use crate::clock::Stamp;
use crate::conflict_reports::ColumnMasks;
use crate::plugins::Fields;
use crate::series::SeriesRecorder;
use crate::tracked::{API, Discovery, PluginName, PolledInstance};
use dropsonde_model::labels;
use dropsonde_model::names::is_reserved;
use dropsonde_sandbox::{CallError, Failure, Instance, Readings};
use dropsonde_store::{Frame, InstanceId};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tracing::field::Empty;

/// Rows written at a time. Between two pieces, others can track, untrack and pause instances.
const PIECE: usize = 256;

pub(crate) struct SampleRecorder {
    sampler: PluginName,
    fields: Fields,
    interval_ms: i64,
    /// The longest time from a tick to its readings, in milliseconds.
    latest_ms: i64,
    /// The time of the last call's readings, and whether the readings of the tick before were earlier.
    last: Option<(i64, bool)>,
    /// The usual duration of a call.
    usual: UsualDuration,
    /// The frame of each polled instance, with the instance's generation.
    frames: HashMap<InstanceId, (u64, Arc<Frame>)>,
    series: SeriesRecorder,
    /// Whether a reading was from before its tick.
    has_earlier: bool,
}

/// The usual duration of a call: the longest of the last calls, where older calls count less.
#[derive(Debug, Default)]
struct UsualDuration(Duration);

impl UsualDuration {
    /// Returns whether a call took about as long as usual. A longer duration becomes the usual one if it repeats.
    fn is_usual(&mut self, took: Duration, tolerance: Duration) -> bool {
        let is_usual = took.saturating_sub(self.0) <= tolerance;
        self.0 = if is_usual { took.max(self.0 - self.0 / 8) } else { self.0.saturating_add(tolerance) };
        is_usual
    }
}

/// The rows of a batch, counted by outcome.
#[derive(Default)]
struct RowCounts {
    ok: u64,
    failed: u64,
    dropped: u64,
    /// Rows without room: the sampler's share of memory is used up.
    refused: u64,
}

impl SampleRecorder {
    /// Creates a recorder. `deadline` is the longest duration of a call.
    pub(crate) fn new(sampler: PluginName, fields: Fields, interval: Duration, deadline: Duration) -> Self {
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self {
            series: SeriesRecorder::new(sampler.clone(), ms(interval)),
            sampler,
            fields,
            interval_ms: ms(interval),
            latest_ms: ms(deadline),
            last: None,
            usual: UsualDuration::default(),
            frames: HashMap::new(),
            has_earlier: false,
        }
    }

    /// Returns the earliest time that readings of the tick at `due_ms` can have.
    pub(crate) fn earliest_ms(&self, due_ms: i64) -> i64 {
        if self.has_earlier { due_ms.saturating_sub(self.interval_ms) } else { due_ms }
    }

    /// Returns the number of values in a row.
    pub(crate) fn columns(&self) -> usize {
        self.fields.metrics.len()
    }

    /// Tracks the instances that the sampler discovered, `most` at most. Returns a message for each problem.
    pub(crate) fn find(&self, engine: &Engine, found: Vec<Instance>, most: usize, at_ms: i64) -> Vec<String> {
        let mut wrong = Vec::new();
        let over = found.len().saturating_sub(most);
        let mut refused = over as u64;
        if over > 0 {
            wrong.push(format!(
                "discovered {} instances, of which the host takes {most}; raise limits.instances",
                found.len()
            ));
        }
        let mut instances = Vec::new();
        for Instance { id, labels } in found.into_iter().take(most) {
            match InstanceId::new(&id) {
                Ok(id) if is_reserved(id.as_str()) => refused += 1,
                Ok(id) => instances.push((id, labels::cleaned(labels))),
                Err(why) => {
                    refused += 1;
                    wrong.push(format!("a discovered instance is refused: {why}"));
                }
            }
        }
        let Discovery { refused: without_place, of_others, .. } = engine.discovered(&self.sampler, instances, at_ms);
        refused += without_place;
        engine.metrics.core.errors(&self.sampler, "instances_refused", refused);
        self.tell_of_others(engine, &of_others);
        wrong
    }

    /// Reports the instances that the sampler lists and other owners have: in the log when these instances change, and
    /// on the plugin's page as long as there are any.
    fn tell_of_others(&self, engine: &Engine, of_others: &[(InstanceId, PluginName)]) {
        let (sampler, count) = (&self.sampler, of_others.len());
        let mut is_other = false;
        if let Some(status) = engine.plugins.get(sampler) {
            status.update(|known| is_other = known.conflicts.set_instances(of_others));
        }
        if count == 0 {
            return;
        }
        engine.metrics.core.errors(sampler, "instances_of_others", count as u64);
        let why = engine.plugins.get(sampler).and_then(|status| status.conflicts(|own| own.of_others(sampler)));
        if let Some(why) = why.filter(|_| is_other) {
            tracing::warn!(plugin = &**sampler, "{why}");
        }
    }

    /// Returns the instances that the sampler polls, sorted by id.
    pub(crate) fn polled(&mut self, engine: &Engine) -> Vec<PolledInstance> {
        let polled = engine.tracked.polled_by(&self.sampler);
        // An instance that is no longer polled may be forgotten, and begin again with another frame.
        let is_polled = |id: &InstanceId| polled.binary_search_by(|polled| polled.id.cmp(id)).is_ok();
        self.frames.retain(|id, _| is_polled(id));
        self.series.keep_only(engine.clock.now_ms(), is_polled);
        polled
    }

    /// Writes each row to the store, then publishes it to the hub. `took` is the duration of the call. Returns the
    /// instances that the sampler could not read, each with its failure.
    pub(crate) fn record(
        &mut self,
        engine: &Engine,
        stamp: Stamp,
        took: Duration,
        batch: &[PolledInstance],
        readings: Readings,
    ) -> Vec<(InstanceId, Failure)> {
        let at_ms = stamp.at_ms;
        let delay_ms = self.delay_ms(engine, stamp, took, !readings.offsets_ms.is_empty());
        // Readings are earlier than the ones before them only if the clock was set back.
        let goes_on = match self.last {
            // Another batch of the same tick.
            Some((last_ms, goes_on)) if last_ms == at_ms => goes_on,
            last => last.is_some_and(|(last_ms, _)| at_ms > last_ms),
        };
        self.last = Some((at_ms, goes_on));
        self.has_earlier |= readings.offsets_ms.iter().any(|offset_ms| *offset_ms < 0);
        let latest_ms = at_ms.saturating_add(self.latest_ms);
        let mut failures: HashMap<usize, Failure> =
            readings.failures.into_iter().map(|(row, failure)| (row as usize, failure)).collect();
        let columns = self.columns().max(1);
        let mut counts = RowCounts::default();
        let mut rows = batch.iter().zip(readings.values.chunks_exact(columns)).enumerate().peekable();
        let (mut masks, mut masked, mut taken) = (ColumnMasks::default(), Vec::new(), BTreeMap::new());
        let (mut gone, mut failed) = (Vec::new(), Vec::new());
        let mut published = 0;
        while rows.peek().is_some() {
            published += engine.tracked.while_polled(|is_polled| {
                let span = tracing::debug_span!("store", plugin = &*self.sampler, instances = Empty).entered();
                let mut stored = Vec::new();
                for (row, (polled, values)) in rows.by_ref().take(PIECE) {
                    match failures.remove(&row) {
                        Some(Failure::Gone) => {
                            gone.push(polled);
                            continue;
                        }
                        Some(failure) => {
                            counts.failed += 1;
                            failed.push((polled.id.clone(), failure));
                            continue;
                        }
                        None => {}
                    }
                    let mut values = values;
                    let is_own = polled.owner == self.sampler || is_reserved(&polled.owner);
                    let is_free = is_own || !polled.has_its_owner;
                    let mask = if is_free { &[][..] } else { masks.of(engine, &polled.owner, &self.fields) };
                    if !mask.is_empty() {
                        // The host ignores the fields that the instance's owner reads itself.
                        masked.clear();
                        masked.extend_from_slice(values);
                        for column in mask {
                            let Some(value) = masked.get_mut(*column) else { continue };
                            if std::mem::replace(value, f64::NAN).is_finite() {
                                taken.entry((polled.owner.clone(), *column)).or_insert_with(|| polled.id.clone());
                            }
                        }
                        values = &masked;
                    }
                    if values.iter().all(|value| !value.is_finite()) {
                        continue;
                    }
                    let offset_ms = i64::from(readings.offsets_ms.get(row).copied().unwrap_or(0));
                    // The reading is from before the last tick, or from after this call can have ended: it is not this
                    // tick's.
                    if !(-self.interval_ms..=self.latest_ms).contains(&offset_ms) {
                        engine.metrics.samples_dropped.with_label_values(&["offset"]).inc();
                        counts.dropped += 1;
                        continue;
                    }
                    // The instance was untracked or paused while the sampler read it.
                    if !is_polled(polled) {
                        engine.metrics.samples_dropped.with_label_values(&["untracked"]).inc();
                        continue;
                    }
                    let Some(frame) = self.frame(engine, polled) else {
                        counts.refused += 1;
                        continue;
                    };
                    let mut row_ms = at_ms.saturating_add(offset_ms);
                    let last_ms = frame.latest_at_ms().filter(|last_ms| goes_on && *last_ms <= latest_ms);
                    if let Some(last_ms) = last_ms {
                        row_ms = row_ms.max(last_ms.saturating_add(1));
                    }
                    let moved_ms = row_ms.saturating_sub(at_ms).saturating_sub(offset_ms) as f64;
                    if frame.push_read(row_ms, delay_ms - moved_ms, values) {
                        stored.push(polled);
                    } else {
                        counts.refused += 1;
                    }
                }
                counts.ok += stored.len() as u64;
                span.record("instances", stored.len() as i64);
                drop(span);
                publish(engine, &self.sampler, &stored)
            });
        }
        let reported = self.series.record(engine, at_ms, batch, readings.series);
        engine.metrics.core.errors(&self.sampler, "series_refused", reported.refused);
        engine.metrics.core.errors(&self.sampler, "series_of_others", reported.of_others);
        self.tell_of_conflicts(engine, taken);
        for polled in gone {
            engine.tracked.gone(&self.sampler, polled, at_ms);
            // If the instance begins again, it may have another frame.
            self.frames.remove(&polled.id);
        }
        for (_, failure) in &failed {
            engine.metrics.core.errors(&self.sampler, CallError::Failed(failure.clone()).reason(), 1);
        }
        self.count(engine, batch.len() as u64, &counts, published);
        failed
    }

    /// Writes rows of the past to the store, for history before the start.
    pub(crate) fn backfill(&mut self, engine: &Engine, at_ms: i64, batch: &[PolledInstance], readings: &Readings) {
        let columns = self.columns().max(1);
        let rows = batch.iter().zip(readings.values.chunks_exact(columns));
        for (polled, values) in rows.filter(|(_, values)| values.iter().any(|value| value.is_finite())) {
            if let Some(frame) = self.frame(engine, polled) {
                frame.push_read(at_ms, 0.0, values);
            }
        }
    }

    /// Reports the fields that the host ignored because the owners of the instances read them.
    fn tell_of_conflicts(&self, engine: &Engine, taken: BTreeMap<(PluginName, usize), InstanceId>) {
        let fields = self.fields.schema.fields();
        let named = taken
            .into_iter()
            .filter_map(|((owner, column), instance)| Some((instance, owner, fields.get(column)?.name.to_string())));
        let conflicts: Vec<_> = named.collect();
        let Some(status) = engine.plugins.get(&self.sampler) else { return };
        let first = conflicts.first().cloned();
        if first.is_some() {
            engine.metrics.core.errors(&self.sampler, "fields_of_others", conflicts.len() as u64);
        }
        let mut is_other = false;
        status.update(|known| is_other = known.conflicts.set_fields(conflicts));
        if let Some((instance, owner, field)) = first.filter(|_| is_other) {
            tracing::warn!(
                plugin = &*self.sampler, %instance, owner = &*owner, field,
                "ignoring a field that the instance's owner reads"
            );
        }
    }

    /// Counts a failed call that was for `count` instances.
    pub(crate) fn failed(&self, engine: &Engine, count: u64) {
        let metrics = &engine.metrics.core;
        metrics.received(&self.sampler, "sample", count);
        metrics.failed(&self.sampler, "sample", count);
        metrics.processed(&self.sampler, "sample", "failed", count);
    }

    /// Returns the milliseconds from the readings' times until they were taken, by the timeline. NaN means unknown: the
    /// call took so much longer than usual that it may have been held up, either before or after it read.
    fn delay_ms(&mut self, engine: &Engine, stamp: Stamp, took: Duration, has_offsets: bool) -> f64 {
        let tolerance = Duration::from_millis(u64::try_from(self.interval_ms / 10).unwrap_or(0));
        let is_usual = self.usual.is_usual(took, tolerance);
        if has_offsets {
            // The sampler gives the time of each reading, as an offset from the tick's time.
            engine.timeline.read_ms(stamp.steady) - stamp.late_ms as f64 - stamp.at_ms as f64
        } else if !is_usual {
            f64::NAN
        } else {
            engine.timeline.read_ms(stamp.steady) - stamp.at_ms as f64
        }
    }

    fn count(&self, engine: &Engine, received: u64, counts: &RowCounts, published: u64) {
        let (metrics, name, &RowCounts { ok, failed, dropped, refused }) =
            (&engine.metrics.core, &*self.sampler, counts);
        engine.metrics.samples_dropped.with_label_values(&["memory"]).inc_by(refused);
        let dropped = dropped + refused;
        metrics.received(name, "sample", received);
        metrics.processed(name, "sample", "ok", ok);
        metrics.processed(name, "sample", "failed", failed);
        metrics.processed(name, "sample", "dropped", dropped);
        // Rows without a signal, or of an instance that is gone or no longer polled.
        metrics.processed(name, "sample", "gap", received - ok - failed - dropped);
        metrics.failed(name, "sample", failed);
        metrics.published(name, "usage", published);
    }

    /// Returns an instance's frame; `None` if there is no room for its history.
    fn frame(
        &mut self,
        engine: &Engine,
        PolledInstance { id, generation, owner, .. }: &PolledInstance,
    ) -> Option<&Frame> {
        // The history of an instance that a program tracks uses the programs' share, whichever plugin reads the
        // instance.
        let owner = if **owner == *API { owner } else { &self.sampler };
        let made = || {
            let frame = engine.store.frame_if_room(owner, id, &self.fields.schema, self.interval_ms).ok()?;
            Some((*generation, frame))
        };
        let kept = match self.frames.entry(id.clone()) {
            Entry::Vacant(new) => new.insert(made()?),
            Entry::Occupied(mut kept) => {
                if kept.get().0 != *generation {
                    kept.insert(made()?);
                }
                kept.into_mut()
            }
        };
        Some(&kept.1)
    }
}

/// Publishes each instance's newest sample to its readers. Returns the number of samples.
fn publish(engine: &Engine, sampler: &str, stored: &[&PolledInstance]) -> u64 {
    let _span = tracing::debug_span!("publish", plugin = sampler, instances = stored.len() as i64).entered();
    let samples = stored.iter().filter_map(|polled| Some((polled, engine.store.latest(&polled.id)?)));
    let samples = samples.filter(|(_, sample)| !sample.values.is_empty());
    samples.map(|(polled, sample)| engine.hub.publish(&polled.id, &polled.labels, sample)).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usual(calls_ms: &[u64]) -> Vec<bool> {
        let mut usual = UsualDuration::default();
        let is_usual = |ms: &u64| usual.is_usual(Duration::from_millis(*ms), Duration::from_millis(100));
        calls_ms.iter().map(is_usual).collect()
    }

    #[test]
    fn a_call_much_longer_than_the_last_ones_is_unusual_until_it_repeats() {
        assert_eq!(usual(&[2, 3, 2100, 2, 2100, 4]), [true, true, false, true, false, true]);
        assert_eq!(usual(&[250, 250, 250, 250, 250]), [false, false, true, true, true], "a slow plugin");
        assert_eq!(usual(&[90, 1, 90, 1, 95, 2]), [true; 6], "large batches and small ones");
    }
}
