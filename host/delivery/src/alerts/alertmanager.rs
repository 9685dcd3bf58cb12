//! One Alertmanager: it is told of firing alerts again and again, and of resolved ones for some time.

use crate::alerts::payload::SentAlert;
use crate::alerts::report::report;
use crate::alerts::targets::Target;
use crate::backoff::Backoff;
use crate::client::{Client, Message, SendError};
use bytes::Bytes;
use dropsonde_engine::Engine;
use dropsonde_engine::rules::{GroupReport, ListedAlert};
use dropsonde_model::Labels;
use dropsonde_rules::AlertState;
use hyper::Method;
use hyper::header::{self, HeaderValue};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
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
    /// The last send of each alert, by its labels.
    sent: HashMap<Labels, LastSend>,
}

/// The state in which an alert was sent.
#[derive(Debug, Clone, Copy)]
struct LastSend {
    /// The evaluation that found it; none if it was kept over a restart.
    evaluated_ms: Option<i64>,
    is_resolved: bool,
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
                // After the pause, the alerts are read again.
                Err(error) => sleep(backoff.pause(error.retry_after)).await,
            }
        }
    }

    /// Sends what is due; stops at the first failure.
    async fn send_due(&mut self) -> Result<(), SendError> {
        let (engine, now_ms) = (self.engine.clone(), self.engine.clock.now_ms());
        let (resend_ms, mut sent) = (self.resend_ms, std::mem::take(&mut self.sent));
        // There may be very many alerts.
        let looked_through = tokio::task::spawn_blocking(move || {
            let (options, alerts) = (engine.options.load_full(), engine.rules.alerts());
            let known: HashSet<&Labels> = alerts.iter().map(|listed| &listed.alert.labels).collect();
            sent.retain(|labels, _| known.contains(labels));
            // Two rules can have the same alert: it fires if one of them says so.
            let is_active = |listed: &&ListedAlert| listed.alert.state != AlertState::Inactive;
            let active: HashSet<&Labels> = alerts.iter().filter(is_active).map(|listed| &listed.alert.labels).collect();
            let is_own = |listed: &&ListedAlert| is_active(listed) || !active.contains(&listed.alert.labels);
            let due = alerts.iter().filter(is_own).filter(|listed| is_due(&sent, listed, resend_ms));
            let due = due.filter_map(|listed| Some((listed.clone(), SentAlert::of(listed, &options)?)));
            (due.collect::<Vec<_>>(), sent)
        });
        let (due, sent) = looked_through.await.unwrap_or_default();
        self.sent = sent;
        let waiting = self.engine.metrics.remotes.waiting.with_label_values(&[&self.target.name]);
        let mut left = due.len();
        waiting.set(left as i64);
        for some in due.chunks(AT_ONCE) {
            self.send(some, now_ms).await?;
            left -= some.len();
            waiting.set(left as i64);
            let sends = some.iter().map(|(listed, _)| (listed.alert.labels.clone(), LastSend::of(listed)));
            self.sent.extend(sends);
        }
        Ok(())
    }

    async fn send(&self, alerts: &[(ListedAlert, SentAlert)], now_ms: i64) -> Result<(), SendError> {
        let valid_ms = |group: &GroupReport| {
            let away_ms = VALID_INTERVALS.saturating_mul(group.interval_ms.max(self.resend_ms));
            group.evaluated_ms.unwrap_or(now_ms).saturating_add(away_ms)
        };
        let posted = alerts.iter().map(|(listed, alert)| alert.posted(valid_ms(&listed.group)));
        let posted: Vec<_> = posted.collect();
        let message = Message {
            method: Method::POST,
            url: self.target.url.clone(),
            headers: vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))],
            body: Bytes::from(serde_json::to_vec(&posted).unwrap_or_default()),
        };
        report(&self.engine, &self.target.name, alerts.len(), self.client.send(message)).await
    }
}

impl LastSend {
    fn of(listed: &ListedAlert) -> Self {
        Self { evaluated_ms: listed.group.evaluated_ms, is_resolved: listed.alert.state == AlertState::Inactive }
    }
}

/// Returns whether an alert is to be sent, after what was sent before.
fn is_due(sent: &HashMap<Labels, LastSend>, listed: &ListedAlert, resend_ms: i64) -> bool {
    let now = LastSend::of(listed);
    let Some(before) = sent.get(&listed.alert.labels).filter(|before| before.is_resolved == now.is_resolved) else {
        return true;
    };
    match (before.evaluated_ms, now.evaluated_ms) {
        // A clock that was set back must not silence anybody.
        (Some(before_ms), Some(now_ms)) => !(0..resend_ms).contains(&now_ms.saturating_sub(before_ms)),
        // Since the start, it was sent as it was kept.
        (None, Some(_)) => true,
        (_, None) => false,
    }
}
