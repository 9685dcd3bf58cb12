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

    fn channels(&mut self, _tick: &Tick) -> Result<Option<ChannelStats>, Failure> {
        Ok(Some(ChannelStats { total_active: self.total, ..ChannelStats::default() }))
    }
}

export_source!(Channels);
