//! Other servers that this host sends to: whether they take what they get.

use crate::json;
use crate::metrics::RemoteMetrics;
use dropsonde_model::text;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Failures in a row before `/health` reports them: a server may be restarted.
const FAILURES: u32 = 3;

/// A failure counts for so long, in milliseconds: nobody may have asked since. It is longer than the longest wait that a
/// server can ask for.
const CURRENT_MS: i64 = 900_000;

/// The servers that something is wrong with, by name.
#[derive(Debug, Default)]
pub struct Remotes {
    failing: Mutex<BTreeMap<String, FailingRemote>>,
    /// The servers that get samples.
    progress: Mutex<BTreeMap<String, RemoteProgress>>,
}

/// How far a server is that gets samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoteProgress {
    /// The time before which it has everything.
    pub sent_before_ms: i64,
    /// About how many bytes wait to be sent.
    pub lag_bytes: u64,
}

/// A server that gets samples, for people.
#[derive(Debug, Serialize)]
pub struct RemoteStatus {
    name: String,
    sent_before: String,
    lag_seconds: f64,
    lag_bytes: u64,
    samples: u64,
    samples_dropped: BTreeMap<String, u64>,
    /// Why it takes nothing now. Absent if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Debug)]
struct FailingRemote {
    since_ms: i64,
    /// The last failure.
    last_ms: i64,
    failures: u32,
    why: String,
}

impl Remotes {
    /// Notes that a server took what it got.
    pub fn works(&self, name: &str) {
        if self.lock().remove(name).is_some() {
            tracing::info!(remote = name, "the server works again");
        }
    }

    /// Notes that a server did not take what it got.
    pub fn fails(&self, name: &str, why: &str, now_ms: i64) {
        let mut failing = self.lock();
        let known = failing.entry(name.to_owned()).or_insert_with(|| FailingRemote {
            since_ms: now_ms,
            last_ms: now_ms,
            failures: 0,
            why: String::new(),
        });
        known.last_ms = now_ms;
        known.failures = known.failures.saturating_add(1);
        if known.why != why {
            tracing::warn!(remote = name, error = why, "a server does not work");
            known.why = why.to_owned();
        }
    }

    /// Notes how far a server is.
    pub fn progress(&self, name: &str, progress: RemoteProgress) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), progress);
    }

    /// Returns the servers that get samples.
    pub fn statuses(&self, metrics: &RemoteMetrics, now_ms: i64) -> Vec<RemoteStatus> {
        let (progress, failing) = (self.progress.lock().unwrap_or_else(PoisonError::into_inner), self.lock());
        let status = |(name, progress): (&String, &RemoteProgress)| RemoteStatus {
            name: name.clone(),
            sent_before: json::time(progress.sent_before_ms),
            lag_seconds: now_ms.saturating_sub(progress.sent_before_ms).max(0) as f64 / 1000.0,
            lag_bytes: progress.lag_bytes,
            samples: metrics.samples.with_label_values(&[name]).get(),
            samples_dropped: metrics.dropped(name),
            error: failing.get(name).map(|failing| text::harmless(&failing.why)),
        };
        progress.iter().map(status).collect()
    }

    /// Forgets a server that is no longer configured.
    pub fn forget(&self, name: &str) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.lock().remove(name);
    }

    /// Returns what is wrong, a sentence each. `kept_ms`: the time for which history keeps samples.
    pub fn troubles(&self, now_ms: i64, kept_ms: i64) -> Vec<String> {
        let failing = self.lock();
        let is_current = |remote: &FailingRemote| now_ms.saturating_sub(remote.last_ms) < CURRENT_MS;
        let told = failing.iter().filter(|(_, remote)| remote.failures >= FAILURES && is_current(remote));
        let sentence = |(name, remote): (&String, &FailingRemote)| {
            let (since, why) = (json::time(remote.since_ms), text::harmless(&remote.why));
            format!("the server {name} does not work since {since}: {why}")
        };
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let is_late = |progress: &RemoteProgress| now_ms.saturating_sub(progress.sent_before_ms) > kept_ms / 2;
        let late = progress.iter().filter(|(_, progress)| is_late(progress)).map(|(name, progress)| {
            let since = json::time(progress.sent_before_ms);
            format!("{name} has no samples since {since}: half of the time for which history keeps them is over")
        });
        told.map(sentence).chain(late).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, FailingRemote>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_fails_again_and_again_is_told_of_until_it_works() {
        let remotes = Remotes::default();
        remotes.fails("a", "refused", 0);
        remotes.fails("a", "refused", 1000);
        assert!(remotes.troubles(3000, 4000).is_empty());
        remotes.fails("a", "too slow", 2000);
        assert_eq!(remotes.troubles(3000, 4000), ["the server a does not work since 1970-01-01T00:00:00Z: too slow"]);
        assert!(remotes.troubles(1_000_000, i64::MAX).is_empty(), "nobody has asked it since");
        remotes.works("a");
        assert!(remotes.troubles(3000, 4000).is_empty());
        remotes.progress("a", RemoteProgress { sent_before_ms: 0, lag_bytes: 0 });
        assert_eq!(
            remotes.troubles(3000, 4000),
            ["a has no samples since 1970-01-01T00:00:00Z: half of the time for which history keeps them is over"]
        );
        remotes.forget("a");
        assert!(remotes.troubles(3000, 4000).is_empty());
    }
}
