//! Another database that has longer history: that of this host from before its own begins, and that of other hosts.

use crate::Engine;
use dropsonde_model::Labels;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A query in PromQL for its values at `start_ms`, and every `step_ms` after it up to `end_ms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LongQuery {
    pub query: String,
    pub start_ms: i64,
    pub end_ms: i64,
    pub step_ms: i64,
}

/// A series with its values, ascending in time.
pub type LongSeries = (Labels, Vec<(i64, f64)>);

/// The answer of a database, or why there is none: a sentence.
pub type LongAnswer = Result<Arc<Vec<LongSeries>>, String>;

/// A database with longer history.
pub trait LongHistory: Debug + Send + Sync {
    /// Returns its name, for people.
    fn name(&self) -> &str;

    /// Returns labels that all series of this host have there, and have not here.
    fn labels(&self) -> &BTreeMap<String, String>;

    /// Returns the longest time that people wait for it.
    fn longest(&self) -> Duration;

    /// Asks it. Takes no longer than [`LongHistory::longest`].
    fn ask(&self, query: LongQuery) -> Pin<Box<dyn Future<Output = LongAnswer> + Send + '_>>;
}

/// The database with longer history, if there is one.
#[derive(Debug, Default)]
pub struct LongHistories(Mutex<Option<Arc<dyn LongHistory>>>);

impl LongHistories {
    pub fn set(&self, database: Option<Arc<dyn LongHistory>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = database;
    }

    pub fn get(&self) -> Option<Arc<dyn LongHistory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Engine {
    /// Returns the time at which the history of this host begins: that of its oldest sample, but no earlier than
    /// `store.retention` allows.
    pub fn history_begins_ms(&self) -> i64 {
        let now_ms = self.clock.now_ms();
        let kept_ms = now_ms.saturating_sub(self.options.load().store.retention.as_ms());
        self.store.first_ms().unwrap_or(now_ms).max(kept_ms)
    }
}
