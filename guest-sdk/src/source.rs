use crate::{Config, Failure, Need, Tick};

/// The statistics of an application, by section. A section that the source knows nothing about is `None`. That is not
/// the same as zero.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    pub channels: Option<ChannelStats>,
    pub envelopes: Option<EnvelopeStats>,
    pub presence: Option<PresenceStats>,
    pub history: Option<HistoryStats>,
    pub tokens: Option<TokenStats>,
    pub cache: Option<CacheStats>,
}

/// Open channels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChannelStats {
    pub total_active: i64,
    pub by_pattern: Vec<(String, i64)>,
}

/// Sent messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EnvelopeStats {
    pub rate_per_second: f64,
    pub by_aspect: Vec<(String, i64)>,
}

/// Users and agents that are present.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PresenceStats {
    pub total_users: i64,
    pub total_agents: i64,
    pub average_per_channel: f64,
}

/// Buffered messages.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct HistoryStats {
    pub total_envelopes_buffered: i64,
    /// How full the buffer is, from 0 to 100.
    pub buffer_utilization_pct: f64,
}

/// Access tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenStats {
    pub issued_last_hour: i64,
    pub revoked_last_hour: i64,
    pub active_count: i64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CacheStats {
    /// The share of requests that the cache answered, from 0 to 100.
    pub hit_rate_pct: f64,
    pub size_bytes: i64,
    pub size_entries: i64,
    pub evictions_last_hour: i64,
}

/// A plugin that describes an application as a whole.
///
/// It implements the sections that it knows something about; the others are `None`.
///
/// ```
/// use dropsonde_guest::{ChannelStats, Failure, Source, Tick, export_source, files};
///
/// #[derive(Default)]
/// struct Rooms;
///
/// impl Source for Rooms {
///     fn channels(&mut self, _tick: &Tick) -> Result<Option<ChannelStats>, Failure> {
///         let total_active = files::entries("/run/chat/rooms")?.len() as i64;
///         Ok(Some(ChannelStats { total_active, ..ChannelStats::default() }))
///     }
/// }
/// export_source!(Rooms);
/// ```
pub trait Source: Default + 'static {
    /// Returns the grants that the plugin needs with this configuration. The host calls it before `init`, without any
    /// grant.
    fn needs(_config: &Config) -> Result<Vec<Need>, Failure> {
        Ok(Vec::new())
    }

    /// Prepares the plugin with its configuration.
    fn init(&mut self, _config: &Config) -> Result<(), Failure> {
        Ok(())
    }

    fn channels(&mut self, _tick: &Tick) -> Result<Option<ChannelStats>, Failure> {
        Ok(None)
    }

    fn envelopes(&mut self, _tick: &Tick) -> Result<Option<EnvelopeStats>, Failure> {
        Ok(None)
    }

    fn presence(&mut self, _tick: &Tick) -> Result<Option<PresenceStats>, Failure> {
        Ok(None)
    }

    fn history(&mut self, _tick: &Tick) -> Result<Option<HistoryStats>, Failure> {
        Ok(None)
    }

    fn tokens(&mut self, _tick: &Tick) -> Result<Option<TokenStats>, Failure> {
        Ok(None)
    }

    fn cache(&mut self, _tick: &Tick) -> Result<Option<CacheStats>, Failure> {
        Ok(None)
    }

    /// Returns all sections. Override it if the sections share work.
    fn collect(&mut self, tick: &Tick) -> Result<Stats, Failure> {
        Ok(Stats {
            channels: self.channels(tick)?,
            envelopes: self.envelopes(tick)?,
            presence: self.presence(tick)?,
            history: self.history(tick)?,
            tokens: self.tokens(tick)?,
            cache: self.cache(tick)?,
        })
    }
}
