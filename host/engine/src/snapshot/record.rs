use super::NUMBERS;
use crate::Engine;
use dropsonde_store::{InstanceId, InvalidInstanceId, Schema, StoredField};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;

/// The id under which the snapshot is an instance in history and in streams. No other instance can have it.
const INSTANCE: &str = "dropsonde:snapshot";

/// The name of the snapshot's sampler. No plugin can have it.
const SAMPLER: &str = "dropsonde:snapshot";

/// Returns the id of the snapshot as an instance.
pub fn instance() -> Result<InstanceId, InvalidInstanceId> {
    InstanceId::new(INSTANCE)
}

/// Puts the snapshot's numbers into history and streams at every interval, while there is any source.
pub async fn record_in_history(engine: Arc<Engine>, mut stopping: watch::Receiver<bool>) {
    let Ok(id) = instance() else { return };
    let fields = NUMBERS.iter().map(|number| StoredField::gauge(number.field)).collect();
    let (schema, labels) = (Schema::new(SAMPLER, fields), Arc::default());
    loop {
        let interval = engine.options.load().snapshot.interval.get();
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = stopping.wait_for(|&stopping| stopping) => return,
        }
        if engine.snapshots.is_empty() {
            continue;
        }
        let now_ms = engine.clock.now_ms();
        let began = Instant::now();
        let document = engine.snapshots.document(now_ms);
        engine.metrics.core.took("snapshot", "aggregate", began.elapsed());
        let values: Vec<f64> = NUMBERS.iter().map(|number| number.value(&document.aggregate)).collect();
        engine.store.frame(&id, &schema, interval_ms).push(now_ms, &values);
        if let Some(sample) = engine.store.latest(&id) {
            engine.hub.publish(&id, &labels, sample);
            engine.metrics.core.published("snapshot", "snapshot", 1);
        }
    }
}
