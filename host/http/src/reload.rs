//! Reloads of the configuration: requests for them (`POST /v1/reload`), and their results.

use super::Shared;
use super::error::{ApiError, Refused, json};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Reloads that can wait to begin. Clients beyond this are told to try again.
const MOST_WAITING: usize = 8;

/// The longest time that a client waits. Meanwhile plugins whose sections changed are compiled, started and tried.
const PATIENCE: Duration = Duration::from_secs(120);

/// Answers with the result of each part: 200 if all parts work, 422 if the configuration is refused or a part fails.
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
            let why = "the reload is still running; the log and /health will show its result";
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

/// The result of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reload {
    /// The configuration file, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The reason why the configuration is refused; none if it is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The parts that were changed.
    pub parts: Vec<Part>,
}

/// A part of the configuration that was changed: `[http]`, `[plugins.load]`, or a key that needs a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    pub part: String,
    pub outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Needs of the plugin that are not granted, like `read /proc/loadavg`. The plugin runs without them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// The result of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The part is in force.
    Applied,
    /// The part needs a restart. Until then the previous value is in force.
    Restart,
    /// The part does not work.
    Failed,
    /// The part would work, but the previous one stays in force because another part does not work.
    NotApplied,
    /// The part is in force, but its plugin is not running yet.
    Waiting,
}

/// The queue of requested reloads, and the problem that the last reload found.
#[derive(Debug)]
pub struct Reloads {
    asks: mpsc::Sender<Answer>,
    asked: Mutex<Option<mpsc::Receiver<Answer>>>,
    trouble: Mutex<Option<String>>,
}

/// The sender that gets the result of a reload.
pub type Answer = oneshot::Sender<Reload>;

/// The reason why a reload cannot be requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAsked {
    #[error("there is no configuration file to reload: this host is part of a program that sets its configuration")]
    Embedded,
    #[error("{MOST_WAITING} reloads are already waiting; try again when they are done")]
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
    /// Requests a reload from the owner of the configuration.
    pub(crate) fn ask(&self) -> Result<oneshot::Receiver<Reload>, NotAsked> {
        if self.asked.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Err(NotAsked::Embedded);
        }
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(answer).map_err(|_| NotAsked::TooMany)?;
        Ok(answered)
    }

    /// Returns the queue of requested reloads, for the owner of the configuration; none the second time.
    pub fn take_asked(&self) -> Option<mpsc::Receiver<Answer>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes the problem that a reload found, until the next reload; none if all works.
    pub fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Returns why the configuration that was read last is not in force, or does not work; none if it works.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// === impl Reload ===

impl Reload {
    /// Returns whether all parts work, as far as they can without a restart.
    pub fn is_good(&self) -> bool {
        self.error.is_none() && self.failed().next().is_none()
    }

    /// Returns the parts that do not work.
    pub fn failed(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.outcome == Outcome::Failed)
    }

    /// Returns the outcome in one word, for metrics.
    pub fn outcome(&self) -> &'static str {
        match (&self.error, self.is_good()) {
            (Some(_), _) => "refused",
            (None, false) => "failed",
            (None, true) => "applied",
        }
    }

    /// Returns one line for a service manager.
    pub fn summary(&self) -> String {
        let failed: Vec<_> = self.failed().map(|part| part.part.as_str()).collect();
        match (&self.error, failed.is_empty()) {
            (Some(error), _) => {
                let first = error.lines().next().unwrap_or_default();
                format!("refused the new configuration: {first}")
            }
            (None, true) => "reloaded the configuration".to_owned(),
            (None, false) => {
                format!("reloaded the configuration; these parts do not work: {}", failed.join(", "))
            }
        }
    }

    /// Logs the result of each part and of the whole reload.
    pub fn log(&self) {
        for Part { part, outcome, error, missing } in &self.parts {
            let error = error.as_deref().unwrap_or_default();
            match outcome {
                Outcome::Applied if missing.is_empty() => {
                    tracing::info!(part, "applied this part of the configuration");
                }
                Outcome::Applied => {
                    let missing = missing.join(", ");
                    tracing::warn!(part, missing, "applied this part, but it does not grant what its plugin needs");
                }
                Outcome::Restart => {
                    tracing::warn!(key = part, "this key changed; restart the host to apply it");
                }
                Outcome::Failed => tracing::error!(part, error, "this part of the configuration does not work"),
                Outcome::NotApplied => tracing::warn!(part, "not applied, because another part failed"),
                Outcome::Waiting => tracing::warn!(part, error, "applied this part, but its plugin is not running yet"),
            }
        }
        match &self.error {
            None => tracing::info!("reloaded the configuration"),
            Some(error) => tracing::error!(error, "cannot reload the configuration; keeping the previous one"),
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
