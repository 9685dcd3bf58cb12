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
use cache::{Cache, Known, Lookup};
use dropsonde_engine::Engine;
use dropsonde_engine::long_history::{LongAnswer, LongHistory, LongQuery, LongSeries};
use dropsonde_engine::metrics::BreakerState;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use options::ReadThroughConfig;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Its name in metrics and in `/health`.
pub(crate) const DESTINATION: &str = "read_through";

/// The longest answer that is read, in bytes.
const LONGEST_ANSWER: usize = 16 << 20;

/// Failures in a row after which the database is left in peace for a while.
const MOST_FAILURES: u32 = 3;

/// The time that it is left in peace.
const PEACE: Duration = Duration::from_secs(10);

/// The most questions at a time.
const AT_ONCE: usize = 2;

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
        let (known, rest) = match lock(&self.cache).look_up(&query) {
            Lookup::Whole(series) => return Ok(series),
            Lookup::Beginning(known, rest) => (Some(known), rest),
            Lookup::Nothing => (None, query.clone()),
        };
        self.may_ask()?;
        let (began, longest) = (Instant::now(), self.longest());
        let turn = tokio::time::timeout(longest, self.permits.acquire()).await;
        let _turn = turn.map_err(|_| "other questions to it take too long".to_owned())?;
        // It may have failed meanwhile.
        self.may_ask()?;
        let asked = tokio::time::timeout(longest.saturating_sub(began.elapsed()), self.exchange(&rest)).await;
        let answer = asked.unwrap_or_else(|_| {
            Err(AnswerError::Down(format!("it did not answer within {} s", longest.as_secs_f64())))
        });
        let (core, metrics) = (&self.engine.metrics.core, &self.engine.metrics.remotes);
        let works = !matches!(answer, Err(AnswerError::Down(_)));
        core.remote_connected(DESTINATION, works);
        metrics.requests.with_label_values(&[DESTINATION, if works { "ok" } else { "failed" }]).inc();
        metrics.seconds.with_label_values(&[DESTINATION]).observe(began.elapsed().as_secs_f64());
        if works {
            core.remote_rtt(DESTINATION, began.elapsed());
            core.remote_breaker(DESTINATION, BreakerState::Closed);
            self.engine.remotes.works(DESTINATION);
            *lock(&self.failures) = Failures::default();
        }
        let series = match answer {
            Ok(series) => series,
            Err(AnswerError::Refused(why)) => return Err(why),
            Err(AnswerError::Down(why)) => {
                self.fails(&why);
                return Err(why);
            }
        };
        let asked = known.as_ref().map_or(began, Known::asked);
        let series = Arc::new(match known {
            Some(known) => known.with(&query, series),
            None => series,
        });
        lock(&self.cache).keep(&query, &series, asked, self.engine.clock.now_ms());
        Ok(series)
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

    async fn exchange(&self, query: &LongQuery) -> Result<Vec<LongSeries>, AnswerError> {
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
        let answer = self.client.ask_up_to(message, LONGEST_ANSWER).await;
        let answer = answer.map_err(|error| AnswerError::Down(error.why))?;
        let is_about_query = matches!(answer.status, StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY);
        if !answer.status.is_success() && !is_about_query {
            return Err(AnswerError::Down(answer.to_string()));
        }
        if answer.body.is_empty() {
            let why = format!("its answer is cut short or larger than {} MiB", LONGEST_ANSWER >> 20);
            return Err(AnswerError::Refused(why));
        }
        let read = tokio::task::spawn_blocking(move || answer::series(&answer.body)).await;
        read.unwrap_or_else(|_| Err(AnswerError::Down("its answer cannot be read".to_owned())))
    }
}

impl LongHistory for ReadThrough {
    fn name(&self) -> &str {
        &self.name
    }

    fn labels(&self) -> &BTreeMap<String, String> {
        &self.config.external_labels
    }

    fn longest(&self) -> Duration {
        self.config.timeout.get()
    }

    fn ask(&self, query: LongQuery) -> Pin<Box<dyn Future<Output = LongAnswer> + Send + '_>> {
        Box::pin(self.answer(query))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
