//! Counts requests, and notes whether servers take them.

use crate::client::SendError;
use dropsonde_engine::Engine;
use std::time::Instant;

/// Sends a request with some alerts to a server, and counts it.
pub(crate) async fn report(
    engine: &Engine,
    name: &str,
    alerts: usize,
    sending: impl Future<Output = Result<(), SendError>>,
) -> Result<(), SendError> {
    let began = Instant::now();
    let result = sending.await;
    let metrics = &engine.metrics.remotes;
    let outcome = if result.is_ok() { "ok" } else { "failed" };
    metrics.requests.with_label_values(&[name, outcome]).inc();
    metrics.alerts.with_label_values(&[name, outcome]).inc_by(alerts as u64);
    metrics.seconds.with_label_values(&[name]).observe(began.elapsed().as_secs_f64());
    let now_ms = engine.clock.now_ms();
    match &result {
        Ok(()) => {
            metrics.last_success.with_label_values(&[name]).set(now_ms as f64 / 1000.0);
            engine.remotes.works(name);
        }
        Err(error) => engine.remotes.fails(name, &error.why, now_ms),
    }
    result
}
