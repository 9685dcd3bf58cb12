//! The interface `source`.

use super::Exported;
use super::dropsonde::plugin::types as wit;
use crate::{CacheStats, ChannelStats, EnvelopeStats, HistoryStats, PresenceStats, Stats, TokenStats};
use crate::{Source, Tick};

wit_bindgen::generate!({
    inline: "package dropsonde:sdk; world source-part { export dropsonde:plugin/source@0.1.0; }",
    world: "dropsonde:sdk/source-part",
    path: "../wit",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "export_source_interface",
    default_bindings_module: "dropsonde_guest::glue::source",
    with: { "dropsonde:plugin/types@0.1.0": crate::glue::dropsonde::plugin::types },
});

use exports::dropsonde::plugin::source;

impl<E: Exported<Plugin: Source>> source::Guest for E {
    fn collect(tick: wit::Tick) -> Result<source::Stats, wit::Failure> {
        let tick = Tick::from(tick);
        Ok(E::with(|source| source.collect(&tick))?.into())
    }
}

impl From<Stats> for source::Stats {
    fn from(Stats { channels, envelopes, presence, history, tokens, cache }: Stats) -> Self {
        Self {
            channels: channels
                .map(|ChannelStats { total_active, by_pattern }| source::ChannelStats { total_active, by_pattern }),
            envelopes: envelopes.map(|EnvelopeStats { rate_per_second, by_aspect }| source::EnvelopeStats {
                rate_per_second,
                by_aspect,
            }),
            presence: presence.map(|PresenceStats { total_users, total_agents, average_per_channel }| {
                source::PresenceStats { total_users, total_agents, average_per_channel }
            }),
            history: history.map(|HistoryStats { total_envelopes_buffered, buffer_utilization_pct }| {
                source::HistoryStats { total_envelopes_buffered, buffer_utilization_pct }
            }),
            tokens: tokens.map(|TokenStats { issued_last_hour, revoked_last_hour, active_count }| source::TokenStats {
                issued_last_hour,
                revoked_last_hour,
                active_count,
            }),
            cache: cache.map(|CacheStats { hit_rate_pct, size_bytes, size_entries, evictions_last_hour }| {
                source::CacheStats { hit_rate_pct, size_bytes, size_entries, evictions_last_hour }
            }),
        }
    }
}
