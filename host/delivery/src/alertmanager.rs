//! One Alertmanager: it is told of firing alerts again and again, and of resolved ones for some time.

use crate::backoff::Backoff;
use crate::client::{Client, Message, SendError};
use crate::payload::SentAlert;
use crate::targets::Target;
use bytes::Bytes;
use dropsonde_engine::Engine;
use hyper::Method;
use hyper::header::{self, HeaderValue};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// The most alerts of one request.
const AT_ONCE: usize = 256;

/// The end of a firing alert is so many times the longer of its interval and of the time between two sends away. Then a
/// few lost requests do not resolve it.
const VALID_INTERVALS: i64 = 4;

/// Tells one Alertmanager of alerts.
pub(crate) struct Alertmanager {
    engine: Arc<Engine>,
    target: Target,
    client: Client,
    /// The least time between two sends of an alert.
    resend_ms: i64,
    /// What was sent last, by the key of the alert: its evaluation, and whether it was resolved.
    sent: HashMap<String, (Option<i64>, bool)>,
}

impl Alertmanager {
    pub(crate) fn new(engine: Arc<Engine>, target: Target, resend_delay: Duration) -> anyhow::Result<Self> {
        let client = Client::new(&target.access)?;
        let resend_ms = i64::try_from(resend_delay.as_millis()).unwrap_or(i64::MAX);
        Ok(Self { engine, target, client, resend_ms, sent: HashMap::new() })
    }

    /// Sends alerts until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut revision = self.engine.rules.revision();
        let mut backoff = Backoff::default();
        self.engine.metrics.remotes.know(&self.target.name);
        loop {
            revision.mark_unchanged();
            match self.send_due().await {
                Ok(()) => {
                    backoff.reset();
                    // Alerts are sent after evaluations, and not in between. It fails only while the host stops.
                    let _ = revision.changed().await;
                }
                // What is sent after the pause is what is true then.
                Err(error) => sleep(backoff.pause(error.retry_after)).await,
            }
        }
    }

    /// Sends what is due; stops at the first failure.
    async fn send_due(&mut self) -> Result<(), SendError> {
        let (engine, now_ms) = (self.engine.clone(), self.engine.clock.now_ms());
        // There may be very many alerts.
        let listed = tokio::task::spawn_blocking(move || {
            let options = engine.options.load_full();
            let alerts = engine.rules.alerts();
            let sent = alerts.iter().filter_map(|listed| SentAlert::of(listed, &options));
            sent.map(|alert| (alert.key(), alert)).collect::<Vec<_>>()
        });
        let mut alerts = listed.await.unwrap_or_default();
        let known: std::collections::HashSet<&str> = alerts.iter().map(|(key, _)| key.as_str()).collect();
        self.sent.retain(|key, _| known.contains(key.as_str()));
        alerts.retain(|(key, alert)| self.is_due(key, alert));
        let waiting = self.engine.metrics.remotes.waiting.with_label_values(&[&self.target.name]);
        let mut left = alerts.len();
        waiting.set(left as i64);
        for some in alerts.chunks(AT_ONCE) {
            self.send(some, now_ms).await?;
            left -= some.len();
            waiting.set(left as i64);
            for (key, alert) in some {
                self.sent.insert(key.clone(), (alert.evaluated_ms, alert.resolved_ms.is_some()));
            }
        }
        Ok(())
    }

    fn is_due(&self, key: &str, alert: &SentAlert) -> bool {
        let Some((sent_ms, was_resolved)) = self.sent.get(key) else { return true };
        let is_new = *was_resolved != alert.resolved_ms.is_some();
        is_new
            || match (sent_ms, alert.evaluated_ms) {
                // A clock that was set back must not silence anybody.
                (Some(sent_ms), Some(now_ms)) => !(0..self.resend_ms).contains(&now_ms.saturating_sub(*sent_ms)),
                // Since the start, it was sent as it was kept.
                (None, Some(_)) => true,
                (_, None) => false,
            }
    }

    async fn send(&self, alerts: &[(String, SentAlert)], now_ms: i64) -> Result<(), SendError> {
        let valid_ms = |alert: &SentAlert| {
            let away_ms = VALID_INTERVALS.saturating_mul(alert.interval_ms.max(self.resend_ms));
            alert.evaluated_ms.unwrap_or(now_ms).saturating_add(away_ms)
        };
        let posted: Vec<_> = alerts.iter().map(|(_, alert)| alert.posted(valid_ms(alert))).collect();
        let message = Message {
            method: Method::POST,
            url: self.target.url.clone(),
            headers: vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))],
            body: Bytes::from(serde_json::to_vec(&posted).unwrap_or_default()),
        };
        report(&self.engine, &self.target.name, alerts.len(), self.client.send(message)).await
    }
}

/// Sends a request, and counts it.
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
