//! The statistics of a made-up application.

use crate::shape::{noise, period, wave};
use dropsonde_guest::{CacheStats, ChannelStats, EnvelopeStats, HistoryStats, PresenceStats, TokenStats};

/// The length of the waves.
const SECONDS: f64 = 300.0;

pub(crate) fn channels(_: u64, at: f64) -> ChannelStats {
    let patterns = [("room.*", 80.0), ("user.*", 240.0), ("system", 6.0)];
    let count = |nth: usize, mean: f64| (mean * (1.0 + 0.3 * wave(at, SECONDS, nth as f64 / 3.0))).round() as i64;
    let by_pattern: Vec<(String, i64)> =
        patterns.iter().enumerate().map(|(nth, (name, mean))| ((*name).to_owned(), count(nth, *mean))).collect();
    ChannelStats { total_active: by_pattern.iter().map(|(_, count)| count).sum(), by_pattern }
}

pub(crate) fn envelopes(seed: u64, at: f64) -> EnvelopeStats {
    let rate_per_second = 420.0 + 150.0 * wave(at, SECONDS, 0.1) + 20.0 * noise(seed, period(at, 1.0));
    // Totals of a day, so that they stay small.
    let of_day = at % 86_400.0;
    let by_aspect = [("chat", 0.7), ("presence", 0.2), ("audit", 0.1)]
        .map(|(name, share)| (name.to_owned(), (of_day * 420.0 * share) as i64));
    EnvelopeStats { rate_per_second, by_aspect: by_aspect.to_vec() }
}

pub(crate) fn presence(_: u64, at: f64) -> PresenceStats {
    let total_users = (900.0 + 250.0 * wave(at, SECONDS, 0.4)).round() as i64;
    PresenceStats { total_users, total_agents: 12 + total_users / 100, average_per_channel: total_users as f64 / 326.0 }
}

pub(crate) fn history(_: u64, at: f64) -> HistoryStats {
    let full = 0.5 + 0.35 * wave(at, 2.0 * SECONDS, 0.0);
    HistoryStats { total_envelopes_buffered: (100_000.0 * full) as i64, buffer_utilization_pct: 100.0 * full }
}

pub(crate) fn tokens(seed: u64, at: f64) -> TokenStats {
    let minute = period(at, 60.0);
    let issued_last_hour = 120 + (40.0 * noise(seed, minute)) as i64;
    TokenStats { issued_last_hour, revoked_last_hour: issued_last_hour / 9, active_count: 2_400 + issued_last_hour }
}

pub(crate) fn cache(seed: u64, at: f64) -> CacheStats {
    let size_entries = (50_000.0 + 8_000.0 * wave(at, SECONDS, 0.7)) as i64;
    CacheStats {
        hit_rate_pct: (93.0 + 4.0 * wave(at, SECONDS, 0.2) + noise(seed, period(at, 5.0))).min(100.0),
        size_bytes: size_entries * 2_048,
        size_entries,
        evictions_last_hour: 300 + (200.0 * noise(seed, period(at, 60.0))) as i64,
    }
}
