//! Sends samples to servers, by Prometheus' remote write or by OTLP. History is the queue: what a server has not taken stays
//! there, and is sent when the server is back, also after a restart of the host.
//!
//! ```text
//! history ──► catalogue: series ──► outbox: windows, divided into requests ──► sender ──► server
//!                with labels              ▲                                      │
//!                                         └──── cursor: what the server took ◄───┘
//! ```
//!
//! * [`destination`]: the servers. [`relabel`]: changes labels and chooses series. [`since`]: the time at which a new
//!   server begins.
//! * `history`: that of a running host, or that in files. `cursor`: the durable place in it. `catalogue`: the series and
//!   their samples.
//! * `outbox`: divides them into requests. `request`: one of them, in either protocol; `remote_write`, `otlp`: the
//!   protocols, `protobuf`: the fields of their messages.
//! * `sender`: sends requests. `feedback`: tells people how it goes.
//!
//! Windows are sent one after the other, and all samples of a series in one window are in one part of it. So a server
//! gets the samples of a series in the order of their time, although several requests are under way.

mod catalogue;
mod cursor;
pub(crate) mod destination;
mod feedback;
mod history;
mod otlp;
mod outbox;
mod protobuf;
pub(crate) mod relabel;
mod remote_write;
mod request;
mod sender;
pub(crate) mod since;

use anyhow::{Context as _, Result};
use catalogue::PARTS_AT_ONCE;
use cursor::Cursor;
use destination::{Destination, Version};
use dropsonde_engine::Engine;
use dropsonde_engine::remotes::RemoteProgress;
use dropsonde_model::text;
use dropsonde_store::FoundSeries;
use feedback::HostFeedback;
use history::{History, KeptHistory, LiveHistory};
use otlp::Starts;
use outbox::{Outbox, Plan, ReadyPart};
use request::{Format, Outcome};
use sender::Sender;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};
use xxhash_rust::xxh64::xxh64;

pub use feedback::{Feedback, as_text};

/// The folder of cursors in the data directory.
const FOLDER: &str = "sent";

/// The time between two looks at how far behind a server is.
const LOOK: Duration = Duration::from_secs(1);

/// The pause after something of this host's own fails.
const PAUSE: Duration = Duration::from_secs(5);

/// From this lag on, a server catches up.
const CATCHES_UP_MS: i64 = 30_000;

/// The servers that get samples, until it is dropped.
#[derive(Debug, Default)]
pub(crate) struct SampleDeliveries(BTreeMap<String, (Destination, JoinSet<()>)>);

/// One server that gets samples.
#[derive(Debug)]
struct SampleDelivery {
    history: Arc<dyn History>,
    feedback: Arc<dyn Feedback>,
    destination: Destination,
    name: String,
    cursor: Arc<Mutex<Cursor>>,
    outbox: Arc<Mutex<Outbox>>,
    sender: Arc<Sender>,
    permits: Arc<Semaphore>,
    progress: Progress,
}

/// How far a server is.
#[derive(Debug)]
struct Progress {
    sent_before_ms: AtomicI64,
    /// Bytes of a second of history, by the last windows.
    bytes_per_second: AtomicU64,
}

/// How the sending of a window ended.
enum WindowEnd {
    Sent {
        samples: usize,
        bytes: usize,
    },
    /// The rest must be made again, in another way.
    Again,
}

impl SampleDeliveries {
    /// Sends to other servers from now on. Those that stay as they are go on.
    pub(crate) async fn reconfigure(
        &mut self,
        engine: &Arc<Engine>,
        destinations: Vec<Destination>,
        data_dir: Option<&Path>,
    ) {
        let mut before = std::mem::take(&mut self.0);
        for destination in destinations {
            let name = destination.name();
            let same = match before.remove(&name) {
                Some((known, tasks)) if known == destination => Some(tasks),
                Some((_, mut tasks)) => {
                    // Its cursor is free before another one opens it.
                    tasks.shutdown().await;
                    None
                }
                None => None,
            };
            let tasks = same.unwrap_or_else(|| {
                let mut tasks = JoinSet::new();
                let file = data_dir.map(|folder| folder.join(FOLDER).join(format!("{name}.cursor")));
                tasks.spawn(follow(engine.clone(), destination.clone(), file));
                tasks
            });
            self.0.insert(name, (destination, tasks));
        }
        for (name, (_, mut tasks)) in before {
            tasks.shutdown().await;
            engine.remotes.forget(&name);
            engine.metrics.remotes.forget(&name);
            engine.metrics.core.forget_remote(&name);
        }
    }
}

/// Sends to one server for ever.
async fn follow(engine: Arc<Engine>, destination: Destination, file: Option<PathBuf>) {
    let name = destination.name();
    let feedback = Arc::new(HostFeedback::new(engine.clone(), name.clone()));
    loop {
        let (history, feedback) = (Arc::new(LiveHistory(engine.clone())), feedback.clone());
        let (own, file) = (destination.clone(), file.clone());
        let opened = spawn_blocking(move || SampleDelivery::open(history, feedback, own, file.as_deref())).await;
        let ended = match opened {
            Ok(Ok(remote)) => tokio::select! {
                ended = remote.run() => ended,
                () = remote.show_lag(&engine) => Ok(()),
            },
            Ok(Err(error)) => Err(error),
            Err(error) => Err(error.into()),
        };
        if let Err(error) = ended {
            engine.remotes.fails(&name, &text::error(&*error), engine.clock.now_ms());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// History in files that is sent to a server.
#[derive(Debug)]
pub struct KeptSeries {
    pub series: Vec<FoundSeries>,
    /// The times of the samples to send.
    pub window: Range<i64>,
}

/// Returns the file in a data directory in which the progress of [`send_kept`] is kept. `identity`: a text that tells
/// the server and the choice of samples.
pub fn kept_cursor(data_dir: &Path, identity: &str) -> PathBuf {
    data_dir.join(FOLDER).join(format!("send-{:016x}.cursor", xxh64(identity.as_bytes(), 0)))
}

/// Sends history in files to a server. `cursor`: the file in which its progress is kept, so that another call goes on
/// where this one ends.
pub async fn send_kept(
    kept: KeptSeries,
    destination: Destination,
    cursor: PathBuf,
    now_ms: i64,
    feedback: Arc<dyn Feedback>,
) -> Result<()> {
    let KeptSeries { series, window } = kept;
    let history = Arc::new(KeptHistory { series, window, now_ms });
    let opened = spawn_blocking(move || SampleDelivery::open(history, feedback, destination, Some(&cursor))).await;
    opened.context("opening history panicked")??.send_complete().await
}

impl SampleDelivery {
    fn open(
        history: Arc<dyn History>,
        feedback: Arc<dyn Feedback>,
        destination: Destination,
        file: Option<&Path>,
    ) -> Result<Self> {
        let now_ms = history.now_ms();
        let config = &destination.config;
        let since_ms = config.since.ms_before(now_ms).min(now_ms).max(history.kept_since_ms());
        let cursor = Cursor::open(file, since_ms, destination.fingerprint())?;
        let progress = Progress { sent_before_ms: cursor.sent_before_ms().into(), bytes_per_second: 0.into() };
        let starts = Starts::open(file.map(|file| file.with_extension("starts")));
        let outbox = Outbox::new(history.clone(), destination.clone(), cursor.began_ms(), starts)?;
        Ok(Self {
            name: destination.name(),
            outbox: Arc::new(Mutex::new(outbox)),
            sender: Arc::new(Sender::new(destination.clone(), feedback.clone())?),
            permits: Arc::new(Semaphore::new(config.shards)),
            cursor: Arc::new(Mutex::new(cursor)),
            progress,
            history,
            feedback,
            destination,
        })
    }

    /// Sends what is new, again and again, until something of this host's own fails.
    async fn run(&self) -> Result<()> {
        loop {
            self.send_complete().await?;
            tokio::time::sleep(self.destination.config.interval.get()).await;
        }
    }

    /// Sends all of history that is complete.
    async fn send_complete(&self) -> Result<()> {
        loop {
            let place = self.cursor(|cursor| cursor.place()).await?;
            let (from_ms, is_under_way) = (place.window.start, !place.window.is_empty());
            self.progress.sent_before_ms.store(from_ms, Ordering::Relaxed);
            let plan = self.outbox(move |outbox| outbox.plan(&place)).await?;
            match plan {
                Plan::Wait => return Ok(()),
                Plan::SetBack(now_ms) => {
                    tracing::warn!(
                        destination = self.name,
                        "the clock was set back; samples are sent from its time on"
                    );
                    self.cursor(move |cursor| cursor.set_back(now_ms)).await?;
                    self.outbox(move |outbox| outbox.set_back(now_ms)).await?;
                }
                Plan::CaughtUp(ahead_ms) => {
                    tracing::info!(destination = self.name, "the clock has caught up with what was sent before");
                    self.begin_at(ahead_ms).await?;
                }
                Plan::Expired(kept_ms) => {
                    self.feedback.expired(kept_ms.saturating_sub(from_ms));
                    self.begin_at(kept_ms).await?;
                }
                Plan::Send(window, parts) => {
                    if !is_under_way {
                        let own = window.clone();
                        self.cursor(move |cursor| cursor.begin(own, parts)).await?;
                    }
                    match self.send(&window, parts).await? {
                        WindowEnd::Again => self.outbox(move |outbox| outbox.rewind(from_ms)).await?,
                        WindowEnd::Sent { samples, bytes } => {
                            self.cursor(move |cursor| cursor.end(window.end)).await?;
                            self.feedback.sent_before(window.end);
                            let span_ms = window.end.saturating_sub(window.start).max(1) as u64;
                            let per_second = (bytes as u64).saturating_mul(1000) / span_ms;
                            self.progress.bytes_per_second.store(per_second, Ordering::Relaxed);
                            self.outbox(move |outbox| outbox.sent(&window, samples)).await?;
                        }
                    }
                }
            }
        }
    }

    /// Goes on at another time.
    async fn begin_at(&self, at_ms: i64) -> Result<()> {
        self.cursor(move |cursor| cursor.begin_at(at_ms)).await?;
        self.outbox(move |outbox| outbox.begin_at(at_ms)).await
    }

    /// Sends the parts of a window that the server has not taken yet.
    async fn send(&self, window: &Range<i64>, parts: usize) -> Result<WindowEnd> {
        let (mut sending, mut samples, mut bytes) = (JoinSet::new(), 0, 0);
        let (mut end, began) = (None, Instant::now());
        for first in (0..parts).step_by(PARTS_AT_ONCE) {
            let (own, cursor) = (window.clone(), self.cursor.clone());
            let wanted = first..first.saturating_add(PARTS_AT_ONCE).min(parts);
            let made = self.outbox(move |outbox| {
                let has = |part: usize| cursor.lock().unwrap_or_else(PoisonError::into_inner).has(part);
                outbox.make(&own, parts, &wanted, &has)
            });
            for ReadyPart { part, format, requests } in made.await?? {
                samples += requests.iter().map(|request| request.samples).sum::<usize>();
                bytes += requests.iter().map(|request| request.body.len()).sum::<usize>();
                let (sender, permits) = (self.sender.clone(), self.permits.clone());
                sending.spawn(async move {
                    let _permit = permits.acquire_owned().await;
                    for request in requests {
                        match sender.send(&format, request).await {
                            Outcome::Done => {}
                            outcome => return (part, outcome),
                        }
                    }
                    (part, Outcome::Done)
                });
            }
            // The next parts are made while these are sent, but not without bound.
            while sending.len() > PARTS_AT_ONCE.max(self.destination.config.shards) {
                end = self.joined(&mut sending).await?.or(end);
            }
            if end.is_some() {
                // The others would be refused for the same reason.
                break;
            }
            self.pace(window, bytes, began).await;
        }
        while !sending.is_empty() {
            end = self.joined(&mut sending).await?.or(end);
        }
        match end {
            None | Some(Outcome::Done) => return Ok(WindowEnd::Sent { samples, bytes }),
            Some(Outcome::TooNew) => {
                tracing::warn!(destination = self.name, "the server does not understand remote write 2.0; sending 1.0");
                self.outbox(|outbox| outbox.format = Format::RemoteWrite(Version::V1)).await?;
            }
            Some(Outcome::TooLarge) => {
                let most = self.outbox(Outbox::make_smaller).await?;
                tracing::warn!(destination = self.name, samples = most, "the server takes only smaller requests");
            }
        }
        Ok(WindowEnd::Again)
    }

    /// Waits until a part was sent. Returns why it cannot be sent as it is.
    async fn joined(&self, sending: &mut JoinSet<(usize, Outcome)>) -> Result<Option<Outcome>> {
        let Some(joined) = sending.join_next().await else { return Ok(None) };
        let (part, outcome) = joined.context("a task that sends samples panicked")?;
        if outcome == Outcome::Done {
            self.cursor(move |cursor| cursor.took(part)).await?;
            return Ok(None);
        }
        Ok(Some(outcome))
    }

    /// Waits as long as the rate demands at which a server may catch up.
    async fn pace(&self, window: &Range<i64>, bytes: usize, began: Instant) {
        if self.history.now_ms().saturating_sub(window.end) > CATCHES_UP_MS {
            let least = Duration::from_secs_f64(bytes as f64 / self.destination.config.catch_up_rate.get() as f64);
            tokio::time::sleep(least.saturating_sub(began.elapsed())).await;
        }
    }

    /// Reads or changes the cursor, whose file may be on a slow disk.
    async fn cursor<T: Send + 'static>(&self, work: impl FnOnce(&mut Cursor) -> T + Send + 'static) -> Result<T> {
        let cursor = self.cursor.clone();
        let done = spawn_blocking(move || work(&mut cursor.lock().unwrap_or_else(PoisonError::into_inner)));
        done.await.context("noting what was sent panicked")
    }

    /// Does work that may read files.
    async fn outbox<T: Send + 'static>(&self, work: impl FnOnce(&mut Outbox) -> T + Send + 'static) -> Result<T> {
        let outbox = self.outbox.clone();
        let done = spawn_blocking(move || work(&mut outbox.lock().unwrap_or_else(PoisonError::into_inner)));
        done.await.context("reading samples panicked")
    }

    /// Shows how far the server is behind, for ever.
    async fn show_lag(&self, engine: &Engine) {
        loop {
            let sent_ms = self.progress.sent_before_ms.load(Ordering::Relaxed);
            let lag_ms = engine.clock.now_ms().saturating_sub(sent_ms).max(0);
            let (metrics, lag) = (&engine.metrics.remotes, lag_ms as f64 / 1000.0);
            metrics.lag_seconds.with_label_values(&[&self.name]).set(lag);
            let bytes = self.progress.bytes_per_second.load(Ordering::Relaxed) as f64 * lag;
            metrics.lag_bytes.with_label_values(&[&self.name]).set(bytes);
            let progress = RemoteProgress { sent_before_ms: sent_ms, lag_bytes: bytes as u64 };
            engine.remotes.progress(&self.name, progress);
            tokio::time::sleep(LOOK).await;
        }
    }
}
