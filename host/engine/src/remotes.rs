//! Other servers that this host sends to: whether they take what they get.

use crate::json;
use dropsonde_model::text;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Failures in a row before `/health` reports them: a server may be restarted.
const FAILURES: u32 = 3;

/// The servers that failed last, by name.
#[derive(Debug, Default)]
pub struct Remotes(Mutex<BTreeMap<String, FailingRemote>>);

#[derive(Debug)]
struct FailingRemote {
    since_ms: i64,
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
            failures: 0,
            why: String::new(),
        });
        known.failures = known.failures.saturating_add(1);
        if known.why != why {
            tracing::warn!(remote = name, error = why, "cannot send to a server; trying again");
            known.why = why.to_owned();
        }
    }

    /// Forgets a server that is no longer configured.
    pub fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    /// Returns what is wrong, a sentence each.
    pub fn troubles(&self) -> Vec<String> {
        let failing = self.lock();
        let told = failing.iter().filter(|(_, remote)| remote.failures >= FAILURES);
        let sentence = |(name, remote): (&String, &FailingRemote)| {
            let (since, why) = (json::time(remote.since_ms), text::harmless(&remote.why));
            format!("nothing can be sent to {name} since {since}: {why}; the host keeps trying")
        };
        told.map(sentence).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, FailingRemote>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert!(remotes.troubles().is_empty());
        remotes.fails("a", "too slow", 2000);
        assert_eq!(
            remotes.troubles(),
            ["nothing can be sent to a since 1970-01-01T00:00:00Z: too slow; the host keeps trying"]
        );
        remotes.works("a");
        assert!(remotes.troubles().is_empty());
    }
}
