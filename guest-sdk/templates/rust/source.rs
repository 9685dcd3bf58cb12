use dropsonde_guest::*;

/// Reports a number of open channels. Configuration: `total`, the number to report.
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
