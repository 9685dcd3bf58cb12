//! Asks a database that has longer history: that of this host from before its own begins, and that of other hosts.
//!
//! [`options`]: the database. `answer`: reads what it says. `cache`: answers that are known.

mod answer;
mod cache;
pub(crate) mod options;

use crate::client::{Client, Message};
use answer::AnswerError;
use anyhow::Result;
use bytes::Bytes;
use cache::{Cache, Lookup};
use dropsonde_engine::Engine;
use dropsonde_engine::long_history::{LongAnswer, LongHistory, LongQuery, LongSeries};
use dropsonde_engine::metrics::BreakerState;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use options::ReadThroughConfig;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Its name in metrics and in `/health`.
const DESTINATION: &str = "read_through";

/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 32 << 20;

/// Failures in a row after which the database is left in peace for a while.
const MOST_FAILURES: u32 = 3;

/// The time that it is left in peace.
const PEACE: Duration = Duration::from_secs(10);

/// The most questions at a time.
const AT_ONCE: usize = 4;

/// A database with longer history.
#[derive(Debug)]
pub(crate) struct ReadThrough {
    engine: Arc<Engine>,
    config: ReadThroughConfig,
    name: String,
    client: Client,
    headers: Vec<(HeaderName, HeaderValue)>,
    permits: Semaphore,
    cache: Mutex<Cache>,
    failures: Mutex<Failures>,
}

#[derive(Debug, Default)]
struct Failures {
    /// Since the last success.
    count: u32,
    /// Nothing is asked before this time.
    until: Option<Instant>,
    why: String,
}

impl ReadThrough {
    /// Takes over a configuration. The database stays as it is if nothing changes.
    pub(crate) fn reconfigure(
        engine: &Arc<Engine>,
        known: Option<Arc<Self>>,
        config: Option<ReadThroughConfig>,
    ) -> Option<Arc<Self>> {
        if known.as_ref().map(|known| &known.config) == config.as_ref() {
            return known;
        }
        engine.remotes.forget(DESTINATION);
        engine.metrics.remotes.forget(DESTINATION);
        engine.metrics.core.forget_remote(DESTINATION);
        let now = config.and_then(|config| match Self::new(engine.clone(), config) {
            Ok(now) => Some(Arc::new(now)),
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "cannot read longer history");
                None
            }
        });
        engine.long_history.set(now.clone().map(|now| now as Arc<dyn LongHistory>));
        now
    }

    fn new(engine: Arc<Engine>, config: ReadThroughConfig) -> Result<Self> {
        let client = Client::new(&config.access())?;
        let header = |(name, value)| Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?));
        let mut headers: Vec<_> = config.headers.iter().filter_map(header).collect();
        headers.push((CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")));
        Ok(Self {
            engine,
            name: config.name(),
            client,
            headers,
            permits: Semaphore::new(AT_ONCE),
            cache: Mutex::default(),
            failures: Mutex::default(),
            config,
        })
    }

    async fn answer(&self, query: LongQuery) -> LongAnswer {
        let rest = match lock(&self.cache).look_up(&query) {
            Lookup::Whole(series) => return Ok(series),
            Lookup::Beginning(rest) => rest,
            Lookup::Nothing => query.clone(),
        };
        self.may_ask()?;
        let turn = tokio::time::timeout(self.config.timeout.get(), self.permits.acquire()).await;
        let _turn = turn.map_err(|_| "other questions to it take too long".to_owned())?;
        let began = Instant::now();
        let series = self.exchange(&rest).await;
        let (core, metrics) = (&self.engine.metrics.core, &self.engine.metrics.remotes);
        core.remote_connected(DESTINATION, series.is_ok());
        let outcome = if series.is_ok() { "ok" } else { "failed" };
        metrics.requests.with_label_values(&[DESTINATION, outcome]).inc();
        metrics.seconds.with_label_values(&[DESTINATION]).observe(began.elapsed().as_secs_f64());
        let series = match series {
            Ok(series) => series,
            Err((why, is_down)) => {
                if is_down {
                    self.fails(&why);
                }
                return Err(why);
            }
        };
        core.remote_rtt(DESTINATION, began.elapsed());
        core.remote_breaker(DESTINATION, BreakerState::Closed);
        self.engine.remotes.works(DESTINATION);
        *lock(&self.failures) = Failures::default();
        Ok(lock(&self.cache).add(&query, &rest, series))
    }

    /// Returns why the database is not asked now.
    fn may_ask(&self) -> Result<(), String> {
        let failures = lock(&self.failures);
        match failures.until.filter(|until| *until > Instant::now()) {
            Some(_) => Err(format!("{}; it is asked again soon", failures.why)),
            None => Ok(()),
        }
    }

    fn fails(&self, why: &str) {
        let mut failures = lock(&self.failures);
        failures.count = failures.count.saturating_add(1);
        why.clone_into(&mut failures.why);
        let is_open = failures.count >= MOST_FAILURES;
        failures.until = is_open.then(|| Instant::now() + PEACE);
        drop(failures);
        let state = if is_open { BreakerState::Open } else { BreakerState::Closed };
        self.engine.metrics.core.remote_breaker(DESTINATION, state);
        self.engine.remotes.fails(DESTINATION, why, self.engine.clock.now_ms());
    }

    /// Asks the database. An error says whether the database does not work at all.
    async fn exchange(&self, query: &LongQuery) -> Result<Vec<LongSeries>, (String, bool)> {
        let seconds = |ms: i64| format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000));
        // VictoriaMetrics moves the times of its values otherwise.
        let parameters = [
            ("query", query.query.clone()),
            ("start", seconds(query.start_ms)),
            ("end", seconds(query.end_ms)),
            ("step", seconds(query.step_ms)),
            ("nocache", "1".to_owned()),
        ];
        let form: Vec<String> = parameters
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)))
            .collect();
        let message = Message {
            method: Method::POST,
            url: format!("{}/api/v1/query_range", self.config.url.trim_end_matches('/')),
            headers: self.headers.clone(),
            body: Bytes::from(form.join("&")),
        };
        let answer = self.client.ask_up_to(message, LONGEST_ANSWER).await.map_err(|error| (error.why, true))?;
        if !answer.status.is_success() {
            // The error of a query comes in the same form as an answer.
            return match answer::series(&answer.body) {
                Err(AnswerError::Refused(why)) => Err((why, false)),
                _ => Err((answer.to_string(), true)),
            };
        }
        if answer.body.is_empty() {
            return Err((format!("its answer is cut short or larger than {} MiB", LONGEST_ANSWER >> 20), false));
        }
        let read = tokio::task::spawn_blocking(move || answer::series(&answer.body)).await;
        let read = read.unwrap_or_else(|_| Err(AnswerError::Unreadable("its answer cannot be read".to_owned())));
        read.map_err(|error| match error {
            AnswerError::Refused(why) => (why, false),
            AnswerError::Unreadable(why) => (why, true),
        })
    }
}

impl LongHistory for ReadThrough {
    fn name(&self) -> &str {
        &self.name
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.config.external_labels
    }

    fn ask(&self, query: LongQuery) -> Pin<Box<dyn Future<Output = LongAnswer> + Send + '_>> {
        Box::pin(self.answer(query))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
