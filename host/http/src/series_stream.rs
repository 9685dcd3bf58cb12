//! A stream of series: what history gets of them, as it comes. History is the reader's queue: one that is slow, or was
//! away for a moment, reads on where it stopped.

use super::blocking::query;
use super::error::ApiError;
use super::peer::Peer;
use super::piece_body::{PieceBody, Pieces};
use super::rights::RequestCaller;
use super::series::{LOOKBACK_MS, named, selected, selectors};
use super::stream::{self, LAST_EVENT_ID};
use crate::App;
use crate::range_query::QueryParameters;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use dropsonde_engine::hub::{PING, RETRY, StreamPermit};
use dropsonde_engine::json;
use dropsonde_engine::quota::QuotaPermit;
use dropsonde_model::Labels;
use dropsonde_promql::Matcher;
use dropsonde_store::{SeriesSelection, is_stale};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// Most series that one stream follows.
const MOST_FOLLOWED: usize = 10_000;

/// How long a reader may be away, in milliseconds, and get all that it missed.
const LONGEST_AWAY_MS: i64 = 300_000;

/// The longest time between two looks at history.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The longest time by which a sample may come late, in milliseconds: a poll takes no longer than its interval.
const LATEST_MS: i64 = 60_000;

/// Follows the series that the selectors of a request select.
pub(super) async fn follow(
    app: &Arc<App>,
    caller: &RequestCaller,
    parameters: &QueryParameters<'_>,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    if parameters.one("instance").or(parameters.one("label")).is_some() {
        return Err(ApiError::invalid("match[]", "give either series or instances, not both"));
    }
    let seen_ms = headers.get(LAST_EVENT_ID).and_then(|seen| seen.to_str().ok()?.parse().ok());
    let permit = stream::claim(app, caller)?;
    let reader = SeriesReader {
        app: app.clone(),
        peer: caller.peer.clone(),
        selectors: selectors(parameters)?,
        sent_ms: HashMap::new(),
        read_ms: seen_ms,
        memory: None,
    };
    let (reader, first) = reader.read().await?;
    let mut head = RETRY.to_vec();
    head.extend(first);
    let following = Following { reader, ends: app.engine.hub.ends(), last: Instant::now(), _permit: permit };
    Ok(stream::head(Body::new(PieceBody::new(head.into(), following))))
}

/// A stream after its first event.
struct Following {
    reader: SeriesReader,
    ends: watch::Receiver<()>,
    /// When something was sent last.
    last: Instant,
    _permit: StreamPermit,
}

/// Reads what history gets of some series.
struct SeriesReader {
    app: Arc<App>,
    peer: Peer,
    selectors: Vec<Vec<Matcher>>,
    /// The time of the last sample of each series that was sent, in milliseconds.
    sent_ms: HashMap<Labels, i64>,
    /// The time until which history was read; none before the first time.
    read_ms: Option<i64>,
    /// Memory for the series of the last look.
    memory: Option<QuotaPermit>,
}

// === impl Following ===

impl Pieces for Following {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        loop {
            let options = self.reader.app.engine.options.load();
            let (pause, heartbeat) = (options.poll.interval.get().min(LONGEST_PAUSE), options.stream.heartbeat.get());
            drop(options);
            tokio::select! {
                _ = self.ends.changed() => return None,
                () = sleep(pause) => {}
            }
            let (reader, event) = match self.reader.read().await {
                Ok(read) => read,
                // The series are too many now, or the host is too busy for so long that waiting is in vain.
                Err(why) => {
                    tracing::debug!(%why, "a stream of series ends");
                    return None;
                }
            };
            self.reader = reader;
            let piece = match event {
                event if !event.is_empty() => event.into(),
                _ if self.last.elapsed() >= heartbeat => Bytes::from_static(PING),
                _ => continue,
            };
            self.last = Instant::now();
            return Some((piece, self));
        }
    }
}

// === impl SeriesReader ===

impl SeriesReader {
    /// Returns what history got since the last time, as an event; empty if that is nothing.
    async fn read(mut self) -> Result<(Self, Vec<u8>), ApiError> {
        let now_ms = self.app.engine.clock.now_ms();
        let until_ms = self.app.engine.reach_ms(now_ms.saturating_add(1));
        let mut event = Vec::new();
        // The clock was set back, or the reader was away for too long: the newest samples come first again.
        if let Some(read_ms) =
            self.read_ms.filter(|read_ms| !(until_ms.saturating_sub(LONGEST_AWAY_MS)..=until_ms).contains(read_ms))
        {
            let from = json::time(read_ms.clamp(0, until_ms.max(0)));
            event.extend_from_slice(format!("event: reset\ndata: {{\"from\":\"{from}\"}}\n\n").as_bytes());
            (self.read_ms, self.sent_ms) = (None, HashMap::new());
        }
        let window = until_ms.saturating_sub(LOOKBACK_MS)..until_ms;
        // What is reserved for the series of this look takes the place of what the last one needed.
        drop(self.memory.take());
        let (selection, memory) = selected(&self.app, &self.peer, self.selectors.clone(), window).await?;
        let count = selection.series().len();
        if count > MOST_FOLLOWED {
            let why = format!("it selects {count} series, of which at most {MOST_FOLLOWED} can be followed; narrow it");
            return Err(ApiError::invalid("match[]", why));
        }
        self.memory = Some(memory);
        let (app, peer) = (self.app.clone(), self.peer.clone());
        query(&app, &peer, move || {
            let samples = match self.read_ms {
                None => self.newest(&selection, until_ms),
                Some(read_ms) => self.since(&selection, read_ms, until_ms),
            };
            self.read_ms = Some(until_ms);
            if samples.len() > 1 {
                event.extend_from_slice(format!("event: samples\nid: {until_ms}\ndata: ").as_bytes());
                event.extend(samples);
                event.extend_from_slice(b"]\n\n");
            }
            (self, event)
        })
        .await
    }

    /// Returns the newest sample of each series, as the beginning of a list.
    fn newest(&mut self, selection: &SeriesSelection, until_ms: i64) -> Vec<u8> {
        let mut list = vec![b'['];
        let newest = selection.newest(until_ms.saturating_sub(LOOKBACK_MS)..until_ms);
        for (series, newest) in selection.series().iter().zip(newest) {
            if let Some((at_ms, value)) = newest {
                self.sent_ms.insert(series.labels.clone(), at_ms);
                put(&mut list, &series.labels, at_ms, Some(value));
            }
        }
        list
    }

    /// Returns the samples that came since `read_ms`, as the beginning of a list. A sample can come late: its time is
    /// that of its poll.
    fn since(&mut self, selection: &SeriesSelection, read_ms: i64, until_ms: i64) -> Vec<u8> {
        let late_ms = |interval_ms: i64| interval_ms.clamp(0, LATEST_MS);
        let longest_ms = selection.series().iter().map(|series| late_ms(series.interval_ms)).max().unwrap_or(0);
        let window = read_ms.saturating_sub(longest_ms)..until_ms;
        let mut list = vec![b'['];
        for (series, samples) in selection.series().iter().zip(selection.samples(window)) {
            let known_ms = self.sent_ms.get(&series.labels).copied();
            let mut last_ms = known_ms.unwrap_or_else(|| read_ms.saturating_sub(late_ms(series.interval_ms)));
            let mut is_sent = known_ms.is_some();
            for (at_ms, value) in samples.at_ms.into_iter().zip(samples.values) {
                // Nobody was told of a series that ends before it began.
                if at_ms > last_ms && (is_sent || !is_stale(value)) {
                    put(&mut list, &series.labels, at_ms, Some(value).filter(|value| !is_stale(*value)));
                    (last_ms, is_sent) = (at_ms, true);
                }
            }
            if is_sent {
                self.sent_ms.insert(series.labels.clone(), last_ms);
            }
        }
        self.sent_ms.retain(|_, sent_ms| *sent_ms > until_ms.saturating_sub(2 * LOOKBACK_MS));
        list
    }
}

/// Adds a sample to a list; no value says that the series has ended.
fn put(list: &mut Vec<u8>, labels: &Labels, at_ms: i64, value: Option<f64>) {
    if list.len() > 1 {
        list.push(b',');
    }
    list.extend_from_slice(b"{\"series\":");
    list.extend(serde_json::to_vec(&named(labels)).unwrap_or_default());
    list.extend_from_slice(format!(",\"at\":\"{}\",\"value\":", json::time(at_ms)).as_bytes());
    json::number(list, value.unwrap_or(f64::NAN));
    list.push(b'}');
}
