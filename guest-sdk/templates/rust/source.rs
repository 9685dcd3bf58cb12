use dropsonde_guest::*;

/// How many channels are open: as many as the configuration says, `total`.
#[derive(Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Channels {
    total: i64,
}

impl Source for Channels {
    fn init(&mut self, config: &Config) -> Result<(), Failure> {
        *self = config.parse()?;
        Ok(())
    }

    fn collect(&mut self, _tick: &Tick) -> Result<Stats, Failure> {
        let channels = ChannelStats { total_active: self.total, ..ChannelStats::default() };
        Ok(Stats { channels: Some(channels), ..Stats::default() })
    }
}

export_source!(Channels);
