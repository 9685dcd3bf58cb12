//! Reloads of the configuration: requests for them (`POST /v1/reload`), and their results.

use super::AppState;
use super::error::{ApiError, RefusalReason, json};
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
pub(crate) async fn post(State(app): AppState) -> Result<Response, ApiError> {
    let answered = app.reloads.ask().map_err(|why| {
        let status = match why {
            ReloadNotQueued::Embedded => StatusCode::CONFLICT,
            ReloadNotQueued::TooMany => StatusCode::TOO_MANY_REQUESTS,
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
    response.extensions_mut().insert(RefusalReason(reload.summary()));
    Ok(response)
}

/// The result of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReloadReport {
    /// The configuration file, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The reason why the configuration is refused; none if it is in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The parts that were changed.
    pub parts: Vec<ReloadPart>,
}

/// A part of the configuration that was changed: `[http]`, `[plugins.load]`, or a key that needs a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReloadPart {
    pub part: String,
    pub outcome: PartOutcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Needs of the plugin that are not granted, like `read /proc/loadavg`. The plugin runs without them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// The result of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PartOutcome {
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
pub struct ReloadQueue {
    asks: mpsc::Sender<ReloadReply>,
    asked: Mutex<Option<mpsc::Receiver<ReloadReply>>>,
    trouble: Mutex<Option<String>>,
    /// Changed keys that need a restart.
    restart: Mutex<Vec<String>>,
}

/// The sender that gets the result of a reload.
pub type ReloadReply = oneshot::Sender<ReloadReport>;

/// The reason why a reload cannot be requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReloadNotQueued {
    #[error("there is no configuration file to reload: this host is part of a program that sets its configuration")]
    Embedded,
    #[error("{MOST_WAITING} reloads are already waiting; try again when they are done")]
    TooMany,
}

// === impl ReloadQueue ===

impl Default for ReloadQueue {
    fn default() -> Self {
        let (asks, asked) = mpsc::channel(MOST_WAITING);
        Self { asks, asked: Mutex::new(Some(asked)), trouble: Mutex::default(), restart: Mutex::default() }
    }
}

impl ReloadQueue {
    /// Requests a reload from the owner of the configuration.
    pub(crate) fn ask(&self) -> Result<oneshot::Receiver<ReloadReport>, ReloadNotQueued> {
        if self.asked.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Err(ReloadNotQueued::Embedded);
        }
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(answer).map_err(|_| ReloadNotQueued::TooMany)?;
        Ok(answered)
    }

    /// Returns the queue of requested reloads, for the owner of the configuration; none the second time.
    pub fn take_asked(&self) -> Option<mpsc::Receiver<ReloadReply>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes the problem that a reload found, until the next reload; none if all works.
    pub fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Notes the keys that a reload found changed and that need a restart, until the next reload.
    pub fn set_waiting_for_restart(&self, report: &ReloadReport) {
        let parts = report.parts.iter().filter(|part| part.outcome == PartOutcome::Restart);
        let keys = parts.map(|part| part.part.clone()).collect();
        *self.restart.lock().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    /// Returns the changed keys that need a restart.
    pub(crate) fn waiting_for_restart(&self) -> Vec<String> {
        self.restart.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns why the configuration that was read last is not in force, or does not work; none if it works.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// === impl ReloadReport ===

impl ReloadReport {
    /// Returns whether all parts work, as far as they can without a restart.
    pub fn is_good(&self) -> bool {
        self.error.is_none() && self.failed().next().is_none()
    }

    /// Returns the parts that do not work.
    pub fn failed(&self) -> impl Iterator<Item = &ReloadPart> {
        self.parts.iter().filter(|part| part.outcome == PartOutcome::Failed)
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
        for ReloadPart { part, outcome, error, missing } in &self.parts {
            let error = error.as_deref().unwrap_or_default();
            match outcome {
                PartOutcome::Applied if missing.is_empty() => {
                    tracing::info!(part, "applied this part of the configuration");
                }
                PartOutcome::Applied => {
                    let missing = missing.join(", ");
                    tracing::warn!(part, missing, "applied this part, but it does not grant what its plugin needs");
                }
                PartOutcome::Restart => {
                    tracing::warn!(key = part, "this key changed; restart the host to apply it");
                }
                PartOutcome::Failed => tracing::error!(part, error, "this part of the configuration does not work"),
                PartOutcome::NotApplied => tracing::warn!(part, "not applied, because another part failed"),
                PartOutcome::Waiting => {
                    tracing::warn!(part, error, "applied this part, but its plugin is not running yet")
                }
            }
        }
        match &self.error {
            None => tracing::info!("reloaded the configuration"),
            Some(error) => tracing::error!(error, "cannot reload the configuration; keeping the previous one"),
        }
    }
}

impl ReloadPart {
    pub fn new(part: impl Into<String>, outcome: PartOutcome) -> Self {
        Self { part: part.into(), outcome, error: None, missing: Vec::new() }
    }

    pub fn failed(part: impl Into<String>, why: impl Into<String>) -> Self {
        Self { error: Some(why.into()), ..Self::new(part, PartOutcome::Failed) }
    }

    pub fn waiting(part: impl Into<String>, why: impl Into<String>) -> Self {
        Self { error: Some(why.into()), ..Self::new(part, PartOutcome::Waiting) }
    }
}
