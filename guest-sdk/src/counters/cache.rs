use super::Window;
use super::tokens::last_hour;
use crate::CacheStats;
use serde::{Deserialize, Serialize};

/// Counters of a cache: its hit rate since the start, its size, and its evictions within the last hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheCounters {
    hits: u64,
    misses: u64,
    bytes: u64,
    entries: u64,
    evicted: Window,
    /// The running total of evictions, as it was reported last.
    total: Option<u64>,
}

impl Default for CacheCounters {
    fn default() -> Self {
        Self { hits: 0, misses: 0, bytes: 0, entries: 0, evicted: last_hour(), total: None }
    }
}

impl CacheCounters {
    pub fn hit(&mut self, count: u64) {
        self.hits = self.hits.saturating_add(count);
    }

    pub fn missed(&mut self, count: u64) {
        self.misses = self.misses.saturating_add(count);
    }

    pub fn evicted(&mut self, count: u64, at_ms: u64, now_ms: u64) {
        self.evicted.add(count, at_ms, now_ms);
    }

    /// Takes the cache's own running total of evictions. The first total is only the starting point. A total below the
    /// last one means that the cache was restarted.
    pub fn evictions_total(&mut self, total: u64, now_ms: u64) {
        let since = match self.total.replace(total) {
            None => 0,
            Some(before) if total < before => total,
            Some(before) => total - before,
        };
        self.evicted.add(since, now_ms, now_ms);
    }

    pub fn set_size(&mut self, bytes: u64, entries: u64) {
        (self.bytes, self.entries) = (bytes, entries);
    }

    pub fn stats(&self, now_ms: u64) -> CacheStats {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (hits, asked) = (self.hits as f64, self.hits as f64 + self.misses as f64);
        CacheStats {
            hit_rate_pct: if asked > 0.0 { hits / asked * 100.0 } else { 0.0 },
            size_bytes: signed(self.bytes),
            size_entries: signed(self.entries),
            evictions_last_hour: signed(self.evicted.sum(now_ms)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_700_000_000_000;

    #[test]
    fn evictions_are_those_of_the_last_hour_however_rarely_it_is_asked() {
        let mut cache = CacheCounters::default();
        cache.evictions_total(1000, START);
        assert_eq!(cache.stats(START).evictions_last_hour, 0, "what was before is of another time");
        cache.evictions_total(1007, START + 7_200_000);
        assert_eq!(cache.stats(START + 7_200_000).evictions_last_hour, 7);
        cache.evictions_total(2, START + 7_201_000);
        assert_eq!(cache.stats(START + 7_201_000).evictions_last_hour, 9, "it began anew");
        assert_eq!(cache.stats(START + 10_800_000).evictions_last_hour, 0);
    }

    #[test]
    fn the_hit_rate_of_a_cache_nobody_asked_is_zero() {
        let mut cache = CacheCounters::default();
        assert_eq!(cache.stats(START).hit_rate_pct, 0.0);
        cache.hit(3);
        cache.missed(1);
        cache.set_size(4096, 7);
        let stats = cache.stats(START);
        assert_eq!((stats.hit_rate_pct, stats.size_bytes, stats.size_entries), (75.0, 4096, 7));
    }
}
