//! Other servers that this host sends to: whether they take what they get.

use crate::json;
use dropsonde_model::text;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Failures in a row before `/health` reports them: a server may be restarted.
const FAILURES: u32 = 3;

/// The servers that something is wrong with, by name.
#[derive(Debug, Default)]
pub struct Remotes {
    failing: Mutex<BTreeMap<String, FailingRemote>>,
    /// The times of the oldest samples that servers have not got although history keeps them for not much longer.
    behind: Mutex<BTreeMap<String, i64>>,
}

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

    /// Notes the time of the oldest sample that a server has not got, if history keeps it for not much longer.
    pub fn is_behind(&self, name: &str, oldest_ms: Option<i64>) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = match oldest_ms {
            Some(oldest_ms) => behind.insert(name.to_owned(), oldest_ms).is_none(),
            None => {
                behind.remove(name);
                false
            }
        };
        if is_new {
            tracing::warn!(
                remote = name,
                "a server is so far behind that history may lose samples before it gets them"
            );
        }
    }

    /// Forgets a server that is no longer configured.
    pub fn forget(&self, name: &str) {
        self.lock().remove(name);
        self.is_behind(name, None);
    }

    /// Returns what is wrong, a sentence each.
    pub fn troubles(&self) -> Vec<String> {
        let failing = self.lock();
        let told = failing.iter().filter(|(_, remote)| remote.failures >= FAILURES);
        let sentence = |(name, remote): (&String, &FailingRemote)| {
            let (since, why) = (json::time(remote.since_ms), text::harmless(&remote.why));
            format!("nothing can be sent to {name} since {since}: {why}; the host keeps trying")
        };
        let behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        let late = |(name, oldest_ms): (&String, &i64)| {
            let since = json::time(*oldest_ms);
            format!("{name} has no samples since {since}: half of the time for which history keeps them is over")
        };
        told.map(sentence).chain(behind.iter().map(late)).collect()
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
        assert!(remotes.troubles().is_empty());
        remotes.fails("a", "too slow", 2000);
        assert_eq!(
            remotes.troubles(),
            ["nothing can be sent to a since 1970-01-01T00:00:00Z: too slow; the host keeps trying"]
        );
        remotes.works("a");
        assert!(remotes.troubles().is_empty());
        remotes.is_behind("a", Some(0));
        assert_eq!(
            remotes.troubles(),
            ["a has no samples since 1970-01-01T00:00:00Z: half of the time for which history keeps them is over"]
        );
        remotes.forget("a");
        assert!(remotes.troubles().is_empty());
    }
}
