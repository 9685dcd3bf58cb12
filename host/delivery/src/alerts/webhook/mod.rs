//! One webhook. The alerts that it knows are compared with those that there are; it gets messages about the difference,
//! group by group.
//!
//! * `known`: keeps the alerts that it knows. `due`: compares. `notice`: a message, `body`: as different servers read
//!   it.
//! * `mute`: times in which nothing is sent.

mod body;
mod due;
mod known;
mod mute;
mod notice;

use crate::alerts::options::WebhookConfig;
use crate::alerts::payload::SentAlert;
use crate::alerts::report::report;
use crate::backoff::Backoff;
use crate::client::{AT_ONCE, Client, SendError, secret};
use dropsonde_engine::Engine;
use dropsonde_promql::Matcher;
use due::{Due, Timing};
use known::{GroupLabels, Known};
use notice::Notice;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// The time between two looks whether a group is due.
const LOOK: Duration = Duration::from_secs(1);

/// The longest time between two writes of the alerts that it knows. After a crash, messages since the last are sent
/// again.
const KEPT: Duration = Duration::from_secs(1);

/// The longest time for which alerts are taken as they were: a silence may begin or end.
const FRESH: Duration = Duration::from_secs(10);

/// Tells one webhook of alerts.
pub(crate) struct Webhook {
    engine: Arc<Engine>,
    config: WebhookConfig,
    name: String,
    matchers: Vec<Matcher>,
    client: Client,
    known: Known,
    /// Whether it knows something that is not written yet.
    has_news: bool,
    /// The alerts as they were, with the revision of the rules and the time.
    latest: Option<(u64, Instant, Arc<Groups>)>,
    /// The time since when groups wait that it was not told of yet.
    waiting: BTreeMap<GroupLabels, i64>,
}

/// Alerts by their keys.
type Alerts = BTreeMap<Arc<str>, Arc<SentAlert>>;

/// The alerts of one group.
#[derive(Debug, Clone, Default)]
struct GroupAlerts {
    alerts: Alerts,
    /// The keys of alerts that are withheld now: they are silenced, or it no longer wants them.
    withheld: BTreeSet<Arc<str>>,
}

/// A message about one group.
struct DueMessage {
    labels: GroupLabels,
    due: Due,
}

/// A message that was sent, and how that ended.
struct SentMessage {
    labels: GroupLabels,
    firing: Alerts,
    untold: usize,
    result: Result<(), SendError>,
}

type Groups = BTreeMap<GroupLabels, GroupAlerts>;

impl Webhook {
    pub(crate) fn new(engine: Arc<Engine>, config: WebhookConfig, data: Option<&Path>) -> anyhow::Result<Self> {
        let (name, matchers, client) = (config.name(), config.matchers(), Client::new(&config.access())?);
        // With other groups it would be told all again.
        let identity = format!("{name} {:?} {:?} {:?}", config.url, config.url_file, config.group_by);
        let known = Known::open(data, &name, &identity);
        Ok(Self {
            engine,
            config,
            name,
            matchers,
            client,
            known,
            has_news: false,
            latest: None,
            waiting: BTreeMap::new(),
        })
    }

    /// Tells of alerts until `stopping` turns true; then it still notes what it was told.
    pub(crate) async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let mut backoff = Backoff::default();
        self.engine.metrics.remotes.know(&self.name);
        loop {
            let pause = match self.tell_due().await {
                Ok(()) => {
                    backoff.reset();
                    LOOK
                }
                Err(error) => backoff.pause(error.retry_after),
            };
            tokio::select! {
                () = sleep(pause) => {}
                _ = stopping.wait_for(|&stopping| stopping) => return,
            }
        }
    }

    /// Tells of all groups that are due.
    async fn tell_due(&mut self) -> Result<(), SendError> {
        let now_ms = self.engine.clock.now_ms();
        if mute::is_muted(&self.config.mute, now_ms) {
            return Ok(());
        }
        let (due, waiting) = self.due(now_ms).await;
        let result = self.tell(due, waiting, now_ms).await;
        self.forget(now_ms);
        if self.has_news {
            self.keep().await;
        }
        result
    }

    /// Returns the messages that are due, and how many alerts it was not told of in all groups.
    async fn due(&mut self, now_ms: i64) -> (Vec<DueMessage>, usize) {
        let is_complete = self.engine.rules.is_complete();
        let groups = self.groups(now_ms).await;
        let mut labels: Vec<GroupLabels> = groups.keys().chain(self.known.groups.keys()).cloned().collect();
        labels.sort();
        labels.dedup();
        self.waiting.retain(|labels, _| groups.contains_key(labels));
        let timing = Timing::of(&self.config);
        let (mut messages, mut waiting) = (Vec::new(), 0);
        for labels in labels {
            let (alerts, known) = (groups.get(&labels), self.known.groups.get(&labels));
            let since_ms = *self.waiting.entry(labels.clone()).or_insert(now_ms);
            let due = due::due(known, alerts, &timing, since_ms, now_ms, is_complete);
            waiting += due.untold;
            if due.is_now {
                messages.push(DueMessage { labels, due });
            }
        }
        (messages, waiting)
    }

    /// Sends messages, some at a time. Stops at a failure that others would share; returns the last one.
    async fn tell(&mut self, due: Vec<DueMessage>, mut waiting: usize, now_ms: i64) -> Result<(), SendError> {
        let gauge = self.engine.metrics.remotes.waiting.with_label_values(&[&self.name]);
        gauge.set(waiting as i64);
        let (mut result, mut goes_on, mut kept) = (Ok(()), true, Instant::now());
        let mut due = due.into_iter();
        while goes_on && due.len() > 0 {
            let mut sending = JoinSet::new();
            for DueMessage { labels, due } in due.by_ref().take(AT_ONCE) {
                let Due { alerts, firing, untold, .. } = due;
                let sent = self.send(labels.clone(), alerts);
                sending.spawn(async move { SentMessage { labels, firing, untold, result: sent.await } });
            }
            while let Some(sent) = sending.join_next().await {
                let Ok(SentMessage { labels, firing, untold, result: sent }) = sent else { continue };
                match sent {
                    Ok(()) => {
                        waiting -= untold;
                        self.note(labels, firing, now_ms);
                    }
                    // The server may not like this message, and like the next one.
                    Err(error) => {
                        goes_on &= !error.can_work_later;
                        result = Err(error);
                    }
                }
            }
            gauge.set(waiting as i64);
            if kept.elapsed() > KEPT {
                self.keep().await;
                kept = Instant::now();
            }
        }
        result
    }

    /// Returns the alerts, by group.
    async fn groups(&mut self, now_ms: i64) -> Arc<Groups> {
        let revision = *self.engine.rules.revision().borrow();
        if let Some((known, at, groups)) = &self.latest
            && *known == revision
            && at.elapsed() < FRESH
        {
            return groups.clone();
        }
        let (engine, matchers, group_by) = (self.engine.clone(), self.matchers.clone(), self.config.group_by.clone());
        // There may be very many alerts.
        let sorted = tokio::task::spawn_blocking(move || {
            let options = engine.options.load_full();
            let mut groups = Groups::new();
            for listed in engine.rules.alerts() {
                let Some(alert) = SentAlert::of(&listed, &options) else { continue };
                let value = |name: &str| alert.labels.get(name).map_or("", String::as_str);
                let is_wanted = matchers.iter().all(|matcher| matcher.matches(value(&matcher.name)));
                let is_heard = is_wanted && engine.rules.silences.of(&listed.alert.labels, now_ms).is_empty();
                let group = groups.entry(group_labels(&alert, &group_by)).or_default();
                let key: Arc<str> = alert.key().into();
                if !is_heard {
                    group.withheld.insert(key);
                    continue;
                }
                // Two rules can have the same alert: it fires if one of them says so.
                let is_firing = |known: &Arc<SentAlert>| known.resolved_ms.is_none();
                if !group.alerts.get(&key).is_some_and(is_firing) {
                    group.alerts.insert(key, Arc::new(alert));
                }
            }
            Arc::new(groups)
        });
        let groups = sorted.await.unwrap_or_default();
        self.latest = Some((revision, Instant::now(), groups.clone()));
        groups
    }

    /// Returns a future that sends a message about a group.
    fn send(
        &self,
        labels: GroupLabels,
        alerts: Vec<Arc<SentAlert>>,
    ) -> impl Future<Output = Result<(), SendError>> + use<> {
        let external_url = self.engine.options.load().rules.external_url.clone();
        let nth = self.known.groups.get(&labels).map_or(0, |known| known.notices);
        let (engine, config, client, name) =
            (self.engine.clone(), self.config.clone(), self.client.clone(), self.name.clone());
        async move {
            // A group whose end nobody wants to hear of has no alerts left to tell.
            if alerts.is_empty() {
                return Ok(());
            }
            let count = alerts.len();
            let sent = async {
                let url = match (&config.url, &config.url_file) {
                    (None, Some(file)) => secret(file).await?,
                    (url, _) => url.clone().unwrap_or_default(),
                };
                let notice = Notice { receiver: &name, external_url: &external_url, labels, alerts, nth };
                client.send(body::message(config.format, &url, &notice)).await
            };
            report(&engine, &name, count, sent).await
        }
    }

    /// Notes that it was told of a group.
    fn note(&mut self, labels: GroupLabels, firing: Alerts, now_ms: i64) {
        self.waiting.remove(&labels);
        let known = self.known.groups.entry(labels).or_default();
        (known.firing, known.told_ms, known.notices) = (firing, now_ms, known.notices + 1);
        self.has_news = true;
    }

    /// Forgets groups that are over, and that nobody needs to be told of again soon.
    fn forget(&mut self, now_ms: i64) {
        let interval_ms = self.config.group_interval.as_ms();
        self.known
            .groups
            .retain(|_, known| !known.firing.is_empty() || now_ms.saturating_sub(known.told_ms) < interval_ms);
    }

    /// Writes the alerts that it knows, off the server's threads.
    async fn keep(&mut self) {
        self.has_news = false;
        let known = std::mem::take(&mut self.known);
        let kept = tokio::task::spawn_blocking(move || {
            known.keep();
            known
        });
        if let Ok(known) = kept.await {
            self.known = known;
        }
    }
}

/// Returns the labels of the group that an alert belongs to.
fn group_labels(alert: &SentAlert, group_by: &[String]) -> GroupLabels {
    if group_by.iter().any(|name| name == "...") {
        return alert.labels.clone();
    }
    let of = |name: &String| Some((name.clone(), alert.labels.get(name)?.clone()));
    group_by.iter().filter_map(of).collect()
}
