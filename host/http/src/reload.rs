//! Reading the configuration again: who asks for it, and what came of it. `POST /v1/reload` asks.

use super::Shared;
use super::error::{ApiError, Refused, json};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Reloads that may be asked for and not begun; who comes later is told to try again.
const MOST_WAITING: usize = 8;

/// Longest time a client waits: plugins whose sections changed are compiled, started and tried meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);

/// Answers with what came of each part: 200 when all of it works, 422 when it is refused or a part fails.
pub(crate) async fn post(State(app): Shared) -> Result<Response, ApiError> {
    let answered = app.reloads.ask().map_err(|why| {
        let status = match why {
            NotAsked::Embedded => StatusCode::CONFLICT,
            NotAsked::TooMany => StatusCode::TOO_MANY_REQUESTS,
        };
        ApiError::new(status, why.to_string()).retry_after(1)
    })?;
    let unavailable = |why: &str| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why);
    let reload = match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(reload)) => reload,
        Ok(Err(_)) => return Err(unavailable("the host is stopping")),
        Err(_) => {
            let why = "the configuration is still being tried; the log and /health tell what comes of it";
            return Err(unavailable(why).retry_after(10));
        }
    };
    if reload.is_good() {
        return Ok(json(&reload));
    }
    let mut response = (StatusCode::UNPROCESSABLE_ENTITY, json(&reload)).into_response();
    response.extensions_mut().insert(Refused(reload.summary()));
    Ok(response)
}

/// What came of reading a configuration again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reload {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Why nothing of it is in force; none when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Those that were changed.
    pub parts: Vec<Part>,
}

/// A part of a configuration that was changed: `[http]`, `[plugins.load]`, or a key that takes a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    pub part: String,
    pub outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the plugin needs and is not granted, as in `read /proc/loadavg`: it runs without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is in force.
    Applied,
    /// It takes a restart, and is as it was until then.
    Restart,
    /// It does not work.
    Failed,
    /// It would work, and is as it was because another part does not.
    NotApplied,
    /// It is in force, and its plugin is not up yet.
    Waiting,
}

/// Where reloads are asked for, and what is wrong since the last one.
#[derive(Debug)]
pub struct Reloads {
    asks: mpsc::Sender<Answer>,
    asked: Mutex<Option<mpsc::Receiver<Answer>>>,
    trouble: Mutex<Option<String>>,
}

/// Gets what came of a reload.
pub type Answer = oneshot::Sender<Reload>;

/// Why a reload cannot be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAsked {
    #[error("there is no configuration file to read again: the program this host is part of says what is in it")]
    Embedded,
    #[error("{MOST_WAITING} reloads wait already; try again when they are done")]
    TooMany,
}

// === impl Reloads ===

impl Default for Reloads {
    fn default() -> Self {
        let (asks, asked) = mpsc::channel(MOST_WAITING);
        Self { asks, asked: Mutex::new(Some(asked)), trouble: Mutex::default() }
    }
}

impl Reloads {
    /// Asks whoever has the configuration to read it again.
    pub(crate) fn ask(&self) -> Result<oneshot::Receiver<Reload>, NotAsked> {
        if self.asked.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Err(NotAsked::Embedded);
        }
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(answer).map_err(|_| NotAsked::TooMany)?;
        Ok(answered)
    }

    /// What is asked for from now on, for whoever has the configuration; none a second time.
    pub fn take_asked(&self) -> Option<mpsc::Receiver<Answer>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps why that is, until the next reload.
    pub fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Why the configuration that was read last is not in force, or does not work, if so.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// === impl Reload ===

impl Reload {
    /// Whether all of it works, as far as it can without a restart.
    pub fn is_good(&self) -> bool {
        self.error.is_none() && self.failed().next().is_none()
    }

    /// The parts that do not work.
    pub fn failed(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.outcome == Outcome::Failed)
    }

    /// In one word, for metrics.
    pub fn outcome(&self) -> &'static str {
        match (&self.error, self.is_good()) {
            (Some(_), _) => "refused",
            (None, false) => "failed",
            (None, true) => "applied",
        }
    }

    /// One line for a service manager.
    pub fn summary(&self) -> String {
        let failed: Vec<_> = self.failed().map(|part| part.part.as_str()).collect();
        match (&self.error, failed.is_empty()) {
            (Some(error), _) => {
                let first = error.lines().next().unwrap_or_default();
                format!("the configuration was read again and refused: {first}")
            }
            (None, true) => "the configuration was read again and is in force".to_owned(),
            (None, false) => {
                format!("the configuration was read again and is in force; not working: {}", failed.join(", "))
            }
        }
    }

    pub fn log(&self) {
        for Part { part, outcome, error, missing } in &self.parts {
            let error = error.as_deref().unwrap_or_default();
            match outcome {
                Outcome::Applied if missing.is_empty() => {
                    tracing::info!(part, "this part of the configuration is in force");
                }
                Outcome::Applied => {
                    let missing = missing.join(", ");
                    tracing::warn!(part, missing, "this part is in force, and does not grant what its plugin needs");
                }
                Outcome::Restart => {
                    tracing::warn!(key = part, "this key changed; restart the host to apply it");
                }
                Outcome::Failed => tracing::error!(part, error, "this part of the configuration does not work"),
                Outcome::NotApplied => tracing::warn!(part, "not applied, because another part failed"),
                Outcome::Waiting => tracing::warn!(part, error, "this part is in force, and its plugin is not up yet"),
            }
        }
        match &self.error {
            None => tracing::info!("the configuration was read again"),
            Some(error) => tracing::error!(error, "the configuration stays as it was"),
        }
    }
}

impl Part {
    pub fn new(part: impl Into<String>, outcome: Outcome) -> Self {
        Self { part: part.into(), outcome, error: None, missing: Vec::new() }
    }

    pub fn failed(part: impl Into<String>, why: impl Into<String>) -> Self {
        Self { error: Some(why.into()), ..Self::new(part, Outcome::Failed) }
    }

    pub fn waiting(part: impl Into<String>, why: impl Into<String>) -> Self {
        Self { error: Some(why.into()), ..Self::new(part, Outcome::Waiting) }
    }
}
