use super::aggregate::bounded;
use super::document::ListedSource;
use super::{Aggregate, Document};
use crate::tracked::PluginName;
use dropsonde_sandbox::Stats;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Intervals of a source after which its report is stale, and no longer part of the snapshot.
const STALE_INTERVALS: i64 = 3;

/// The reports of a host's sources, and the document of all of them.
#[derive(Debug)]
pub struct Snapshots(Mutex<SnapshotState>);

#[derive(Debug)]
struct SnapshotState {
    parts: BTreeMap<PluginName, SourceReport>,
    document: Arc<Document>,
    /// The time after which a report in the document is stale.
    until_ms: i64,
}

/// The last report of a source, and whether the source fails now.
#[derive(Debug)]
struct SourceReport {
    stats: Option<Stats>,
    at_ms: i64,
    interval_ms: i64,
    is_failing: bool,
    /// How many times the source answered or failed.
    answers: u64,
}

impl SourceReport {
    /// Returns the time after which the report is stale.
    fn until_ms(&self) -> i64 {
        self.at_ms.saturating_add(self.interval_ms.saturating_mul(STALE_INTERVALS))
    }

    /// Returns the report, unless it is stale.
    fn fresh(&self, now_ms: i64) -> Option<&Stats> {
        // A report from the future is not fresh either: after the wall clock was set back, it would stay for as long.
        let is_of_now = now_ms <= self.until_ms() && self.at_ms <= now_ms.saturating_add(self.interval_ms);
        self.stats.as_ref().filter(|_| is_of_now)
    }

    fn named(&self, name: &str, now_ms: i64) -> ListedSource {
        let status = match (self.fresh(now_ms), self.is_failing) {
            (Some(_), false) => "ok",
            (Some(_), true) => "failing",
            (None, _) => "stale",
        };
        ListedSource { name: name.to_owned(), at_ms: self.stats.as_ref().map(|_| self.at_ms), status }
    }
}

impl Snapshots {
    pub fn new(now_ms: i64) -> Self {
        let document = Arc::new(Document::of(Aggregate::default(), now_ms, &[]));
        Self(Mutex::new(SnapshotState { parts: BTreeMap::new(), document, until_ms: i64::MAX }))
    }

    /// Takes a report of a source.
    pub fn put(&self, source: &PluginName, stats: Stats, now_ms: i64, interval: Duration) {
        let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
        // A source may report anything at any length, so the report is bounded before it is kept.
        let stats = Some(bounded(stats));
        let mut state = self.lock();
        let answers = state.parts.get(source).map_or(0, |part| part.answers) + 1;
        state
            .parts
            .insert(source.clone(), SourceReport { stats, at_ms: now_ms, interval_ms, is_failing: false, answers });
        state.make(now_ms);
    }

    /// Notes that a source failed. Its last report stays until it is stale.
    pub fn failed(&self, source: &PluginName, now_ms: i64) {
        let mut state = self.lock();
        let none = SourceReport { stats: None, at_ms: i64::MIN, interval_ms: 0, is_failing: true, answers: 0 };
        let part = state.parts.entry(source.clone()).or_insert(none);
        part.answers += 1;
        if !std::mem::replace(&mut part.is_failing, true) || part.stats.is_none() {
            state.make(now_ms);
        }
    }

    /// Removes a source that is gone.
    pub fn remove(&self, source: &str, now_ms: i64) {
        let mut state = self.lock();
        if state.parts.remove(source).is_some() {
            state.make(now_ms);
        }
    }

    /// Returns the document of all sources.
    pub fn document(&self, now_ms: i64) -> Arc<Document> {
        let mut state = self.lock();
        if now_ms > state.until_ms {
            state.make(now_ms);
        }
        state.document.clone()
    }

    /// Returns the document of one source; none if there is no such source.
    pub fn of(&self, source: &str, now_ms: i64) -> Option<Document> {
        let state = self.lock();
        let part = state.parts.get(source)?;
        let aggregate = Aggregate::of(part.fresh(now_ms));
        let at_ms = if part.stats.is_some() { part.at_ms } else { now_ms };
        Some(Document::of(aggregate, at_ms, &[part.named(source, now_ms)]))
    }

    /// Returns whether there are no sources.
    pub fn is_empty(&self) -> bool {
        self.lock().parts.is_empty()
    }

    /// Returns how many times a source answered or failed.
    pub fn answers(&self, source: &str) -> u64 {
        self.lock().parts.get(source).map_or(0, |part| part.answers)
    }

    fn lock(&self) -> MutexGuard<'_, SnapshotState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotState {
    /// Makes the document anew.
    fn make(&mut self, now_ms: i64) {
        let aggregate = Aggregate::of(self.parts.values().filter_map(|part| part.fresh(now_ms)));
        let sources: Vec<ListedSource> = self.parts.iter().map(|(name, part)| part.named(name, now_ms)).collect();
        self.document = Arc::new(Document::of(aggregate, now_ms, &sources));
        let fresh = self.parts.values().filter(|part| part.fresh(now_ms).is_some());
        self.until_ms = fresh.map(SourceReport::until_ms).min().unwrap_or(i64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_sandbox::ChannelStats;

    fn channels(total_active: i64) -> Stats {
        let channels = ChannelStats { total_active, by_pattern: Vec::new() };
        Stats { channels: Some(channels), ..Stats::default() }
    }

    fn seen(snapshots: &Snapshots, now_ms: i64) -> (i64, Vec<String>) {
        let document: serde_json::Value = serde_json::from_slice(&snapshots.document(now_ms).json).unwrap();
        let sources = document["sources"].as_array().unwrap().iter();
        let sources = sources.map(|source| format!("{} {}", source["name"], source["status"]).replace('"', ""));
        (document["channels"]["total_active"].as_i64().unwrap(), sources.collect())
    }

    #[test]
    fn a_failing_source_stays_for_three_intervals_and_is_listed_as_failing_and_then_stale() {
        let (snapshots, a, b) = (Snapshots::new(0), "a".into(), "b".into());
        let interval = Duration::from_secs(1);
        snapshots.put(&a, channels(1), 0, interval);
        snapshots.put(&b, channels(2), 0, interval);
        assert_eq!(seen(&snapshots, 0), (3, vec!["a ok".to_owned(), "b ok".to_owned()]));
        snapshots.failed(&b, 1000);
        assert_eq!(seen(&snapshots, 1000).1, ["a ok", "b failing"]);
        snapshots.put(&a, channels(1), 3001, interval);
        assert_eq!(seen(&snapshots, 3001), (1, vec!["a ok".to_owned(), "b stale".to_owned()]));
        snapshots.put(&b, channels(5), 4000, interval);
        assert_eq!(seen(&snapshots, 4000).0, 6);
        snapshots.remove("b", 4500);
        assert_eq!(seen(&snapshots, 4500), (1, vec!["a ok".to_owned()]));
    }

    #[test]
    fn a_source_that_stops_reporting_is_stale_after_three_intervals() {
        let snapshots = Snapshots::new(0);
        snapshots.put(&"a".into(), channels(1), 0, Duration::from_secs(1));
        assert_eq!(seen(&snapshots, 3000).0, 1);
        assert_eq!(seen(&snapshots, 3001), (0, vec!["a stale".to_owned()]));
    }

    #[test]
    fn the_document_of_one_source_has_only_its_statistics() {
        let snapshots = Snapshots::new(0);
        snapshots.put(&"a".into(), channels(1), 0, Duration::from_secs(1));
        snapshots.put(&"b".into(), channels(2), 0, Duration::from_secs(1));
        assert_eq!(snapshots.of("b", 0).unwrap().aggregate.channels.total_active, 2);
        assert!(snapshots.of("c", 0).is_none());
    }
}
