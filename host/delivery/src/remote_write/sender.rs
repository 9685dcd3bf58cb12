//! Sends requests to one server, again and again until it takes them or refuses them for good.

use super::feedback::Feedback;
use super::options::{RemoteWriteConfig, Version};
use super::request::headers;
use crate::client::{Answer, Client, Message, SendError, secret};
use anyhow::Result;
use bytes::Bytes;
use dropsonde_model::Labels;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
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

/// The header in which a server of version 2 tells how many samples it wrote.
const SAMPLES_WRITTEN: HeaderName = HeaderName::from_static("x-prometheus-remote-write-samples-written");

/// A request that is ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct ReadyRequest {
    pub(super) version: Version,
    pub(super) samples: usize,
    pub(super) body: Bytes,
    /// The labels of one of its series, for people.
    pub(super) example: Option<Labels>,
}

/// The end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The server has it, or will never take it.
    Done,
    /// The server does not understand version 2.
    TooNew,
    /// The server takes only smaller requests.
    TooLarge,
}

/// Sends requests to one server. Several at a time share what is known of it.
#[derive(Debug)]
pub(super) struct Sender {
    config: RemoteWriteConfig,
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
    pub(super) fn new(config: RemoteWriteConfig, feedback: Arc<dyn Feedback>) -> Result<Self> {
        let client = Arc::new(Mutex::new(ClientOfFiles::new(&config)?));
        Ok(Self { config, feedback, client, attempts: Mutex::default(), trial: AsyncMutex::default() })
    }

    /// Sends a request until the server takes it or refuses it for good.
    pub(super) async fn send(&self, request: ReadyRequest) -> Outcome {
        loop {
            let trial = self.wait().await;
            let began = Instant::now();
            let answer = self.attempt(&request).await;
            let (why, asked) = match answer {
                Ok(answer) if answer.status.is_success() => {
                    self.works(began);
                    drop(trial);
                    return self.taken(&request, &answer);
                }
                Ok(answer) if is_refusal(answer.status) => {
                    self.works(began);
                    drop(trial);
                    return self.refused(&request, &answer);
                }
                Ok(answer) => (answer.to_string(), answer.retry_after()),
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
        let (client, config) = (self.client.clone(), self.config.clone());
        tokio::task::spawn_blocking(move || lock(&client).current(&config)).await.unwrap_or(known)
    }

    async fn attempt(&self, request: &ReadyRequest) -> Result<Answer, SendError> {
        let url = match (&self.config.url, &self.config.url_file) {
            (Some(url), _) => url.clone(),
            (None, Some(file)) => secret(file).await?,
            (None, None) => return Err(SendError::later("it has no URL")),
        };
        let further = self.config.headers.iter();
        let further = further
            .filter_map(|(name, value)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?)));
        let message = Message {
            method: Method::POST,
            url,
            headers: headers(request.version).into_iter().chain(further).collect(),
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

    fn taken(&self, request: &ReadyRequest, answer: &Answer) -> Outcome {
        let mut taken = request.samples;
        if request.version == Version::V2 {
            let written = answer.headers.get(SAMPLES_WRITTEN).and_then(|value| value.to_str().ok()?.parse().ok());
            // A server of version 1 answers like this to what it does not understand.
            let Some(written) = written else { return Outcome::TooNew };
            taken = taken.min(written);
            self.drop_samples(request, request.samples - taken, "not_written", "it wrote only some of them");
        }
        self.count(request, taken);
        Outcome::Done
    }

    fn refused(&self, request: &ReadyRequest, answer: &Answer) -> Outcome {
        match answer.status {
            StatusCode::UNSUPPORTED_MEDIA_TYPE if request.version == Version::V2 => return Outcome::TooNew,
            StatusCode::PAYLOAD_TOO_LARGE if request.samples > 1 => return Outcome::TooLarge,
            _ => {}
        }
        // Of version 2 it may have written the others.
        let written = answer.headers.get(SAMPLES_WRITTEN).and_then(|value| value.to_str().ok()?.parse().ok());
        let taken = written.unwrap_or(0).min(request.samples);
        self.drop_samples(request, request.samples - taken, answer.status.as_str(), &answer.to_string());
        self.count(request, taken);
        Outcome::Done
    }

    fn count(&self, request: &ReadyRequest, taken: usize) {
        self.feedback.took(taken, request.body.len());
    }

    fn drop_samples(&self, request: &ReadyRequest, samples: usize, reason: &str, why: &str) {
        if samples > 0 {
            self.feedback.refused(samples, reason, why, request.example.as_ref());
        }
    }
}

impl ClientOfFiles {
    fn new(config: &RemoteWriteConfig) -> Result<Self> {
        // First, so that a change meanwhile is noticed.
        let files = Self::versions(config);
        Ok(Self { client: Client::new(&config.access())?, files, looked: Instant::now() })
    }

    fn versions(config: &RemoteWriteConfig) -> Vec<(PathBuf, Option<SystemTime>)> {
        let version = |file: &PathBuf| std::fs::metadata(file).and_then(|about| about.modified()).ok();
        config.access().certificate_files().map(|file| (file.clone(), version(file))).collect()
    }

    /// Returns whether it is time to look at the files.
    fn is_due(&self) -> bool {
        !self.files.is_empty() && self.looked.elapsed() >= LOOK
    }

    /// Returns the client; a new one if its files have changed and can be read.
    fn current(&mut self, config: &RemoteWriteConfig) -> Client {
        if self.is_due() {
            self.looked = Instant::now();
            if self.files != Self::versions(config)
                && let Ok(new) = Self::new(config)
            {
                *self = new;
            }
        }
        self.client.clone()
    }
}

/// Returns whether an answer says that the request itself is wrong, so that it is wrong for ever. An answer that is about
/// the address or about credentials is not: an operator can mend that, and history keeps the samples until then.
fn is_refusal(status: StatusCode) -> bool {
    let is_about_access = matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::PAYMENT_REQUIRED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::PROXY_AUTHENTICATION_REQUIRED
    );
    let is_passing =
        matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS);
    status.is_client_error() && !is_about_access && !is_passing
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
