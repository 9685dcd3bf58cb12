//! Sends requests to one server, again and again until it takes them or refuses them for good.

use super::destination::Destination;
use super::feedback::Feedback;
use super::request::{Format, Outcome, ReadyRequest, Verdict};
use crate::client::{Answer, Client, Message, SendError, secret};
use anyhow::Result;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Mutex as AsyncMutex;

/// The pauses between attempts: the first one, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(30), Duration::from_secs(5));

/// The longest wait that a server can ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// Failures in a row after which the circuit breaker is open: one request at a time tries whether the server is back.
const MOST_FAILURES: u32 = 5;

/// The time between two looks whether certificates have changed.
const LOOK: Duration = Duration::from_secs(10);

/// Sends requests to one server. Several at a time share what is known of it.
#[derive(Debug)]
pub(super) struct Sender {
    destination: Destination,
    feedback: Arc<dyn Feedback>,
    client: Arc<Mutex<ClientOfFiles>>,
    attempts: Mutex<Attempts>,
    /// Held by the one request that tries whether the server is back.
    trial: AsyncMutex<()>,
}

/// A client, and the versions of the files that it was made of.
#[derive(Debug)]
struct ClientOfFiles {
    client: Client,
    files: Vec<(PathBuf, Option<SystemTime>)>,
    looked: Instant,
}

#[derive(Debug, Default)]
struct Attempts {
    /// Failures since the last success.
    failures: u32,
    /// When the last of them was.
    failed: Option<Instant>,
    /// No request is sent before this time.
    until: Option<Instant>,
}

impl Sender {
    pub(super) fn new(destination: Destination, feedback: Arc<dyn Feedback>) -> Result<Self> {
        let client = Arc::new(Mutex::new(ClientOfFiles::new(&destination)?));
        Ok(Self { destination, feedback, client, attempts: Mutex::default(), trial: AsyncMutex::default() })
    }

    /// Sends a request until the server takes it or refuses it for good.
    pub(super) async fn send(&self, format: &Format, request: ReadyRequest) -> Outcome {
        loop {
            let trial = self.wait().await;
            let began = Instant::now();
            let (why, asked) = match self.attempt(format, &request).await {
                Ok(answer) => match format.verdict(request.samples, &answer) {
                    Verdict::Later => (answer.to_string(), answer.retry_after()),
                    Verdict::Other(outcome) => {
                        self.works(began);
                        return outcome;
                    }
                    Verdict::Done { taken, reason, why } => {
                        self.works(began);
                        drop(trial);
                        self.end(&request, taken, &reason, &why);
                        return Outcome::Done;
                    }
                },
                Err(error) => (error.why, error.retry_after),
            };
            self.fails(&why, asked);
        }
    }

    /// Returns the client; a new one if its certificates have changed.
    async fn client(&self) -> Client {
        let (known, is_due) = {
            let known = lock(&self.client);
            (known.client.clone(), known.is_due())
        };
        if !is_due {
            return known;
        }
        let (client, destination) = (self.client.clone(), self.destination.clone());
        tokio::task::spawn_blocking(move || lock(&client).current(&destination)).await.unwrap_or(known)
    }

    async fn attempt(&self, format: &Format, request: &ReadyRequest) -> Result<Answer, SendError> {
        let config = &self.destination.config;
        let url = match (&config.url, &config.url_file) {
            (Some(url), _) => url.clone(),
            (None, Some(file)) => secret(file).await?,
            (None, None) => return Err(SendError::later("it has no URL")),
        };
        let further = config.headers.iter();
        let further = further
            .filter_map(|(name, value)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?)));
        let message = Message {
            method: Method::POST,
            url: self.destination.complete_url(&url),
            headers: format.headers().into_iter().chain(further).collect(),
            body: request.body.clone(),
        };
        self.client().await.ask(message).await
    }

    /// Waits until a request may be sent. While the server fails, one request at a time tries.
    async fn wait(&self) -> Option<tokio::sync::MutexGuard<'_, ()>> {
        if lock(&self.attempts).failures == 0 {
            return None;
        }
        let trial = self.trial.lock().await;
        loop {
            let (failures, until) = {
                let attempts = lock(&self.attempts);
                (attempts.failures, attempts.until)
            };
            if failures == 0 {
                return None;
            }
            // Another request may have failed meanwhile.
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until.into()).await,
                None => {
                    if failures >= MOST_FAILURES {
                        self.feedback.tries();
                    }
                    return Some(trial);
                }
            }
        }
    }

    /// Notes that a request worked that began at a time.
    fn works(&self, began: Instant) {
        let mut attempts = lock(&self.attempts);
        let is_news = attempts.failed.is_none_or(|failed| failed <= began);
        let is_back = is_news && attempts.failures > 0;
        if is_news {
            *attempts = Attempts::default();
        }
        drop(attempts);
        self.feedback.works(began.elapsed(), is_back);
    }

    fn fails(&self, why: &str, asked: Option<Duration>) {
        let now = Instant::now();
        let mut attempts = lock(&self.attempts);
        let pause = PAUSES.0.saturating_mul(1 << attempts.failures.min(16));
        // Several hosts do not come back at the same moment.
        let jitter = (RandomState::new().hash_one(0) % 1024) as f64 / 2048.0;
        let pause = pause.mul_f64(1.0 + jitter).min(PAUSES.1).max(asked.unwrap_or_default().min(LONGEST_ASKED));
        attempts.until = attempts.until.max(Some(now + pause));
        (attempts.failed, attempts.failures) = (Some(now), attempts.failures.saturating_add(1));
        let is_down = attempts.failures >= MOST_FAILURES;
        drop(attempts);
        self.feedback.fails(why, is_down);
    }

    /// Notes that the server took some samples of a request, and why it refuses the others.
    fn end(&self, request: &ReadyRequest, taken: usize, reason: &str, why: &str) {
        let refused = request.samples.saturating_sub(taken);
        if refused > 0 {
            self.feedback.refused(refused, reason, why, request.example.as_ref());
        }
        self.feedback.took(taken, request.body.len());
    }
}

impl ClientOfFiles {
    fn new(destination: &Destination) -> Result<Self> {
        // First, so that a change meanwhile is noticed.
        let files = Self::versions(destination);
        Ok(Self { client: Client::new(&destination.config.access())?, files, looked: Instant::now() })
    }

    fn versions(destination: &Destination) -> Vec<(PathBuf, Option<SystemTime>)> {
        let version = |file: &PathBuf| std::fs::metadata(file).and_then(|about| about.modified()).ok();
        destination.config.access().certificate_files().map(|file| (file.clone(), version(file))).collect()
    }

    /// Returns whether it is time to look at the files.
    fn is_due(&self) -> bool {
        !self.files.is_empty() && self.looked.elapsed() >= LOOK
    }

    /// Returns the client; a new one if its files have changed and can be read.
    fn current(&mut self, destination: &Destination) -> Client {
        if self.is_due() {
            self.looked = Instant::now();
            if self.files != Self::versions(destination)
                && let Ok(new) = Self::new(destination)
            {
                *self = new;
            }
        }
        self.client.clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
