use dropsonde_guest::*;

/// Samples the load average. Configuration: `path`, the file to read.
#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Load {
    path: String,
}

impl Default for Load {
    fn default() -> Self {
        Self { path: "/proc/loadavg".to_owned() }
    }
}

impl Sampler for Load {
    fn needs(config: &Config) -> Result<Vec<Need>, Failure> {
        Ok(vec![Need::read(config.parse::<Self>()?.path)])
    }

    fn init(&mut self, config: &Config) -> Result<(), Failure> {
        *self = config.parse()?;
        Ok(())
    }

    fn fields(&self) -> Vec<Field> {
        vec![Field::gauge("load_avg_1m", "1-minute load average").precision(0.01)]
    }

    fn discover(&mut self, _tick: &Tick) -> Result<Vec<Instance>, Failure> {
        Ok(vec![Instance::new("host")])
    }

    fn sample(&mut self, instance: &str) -> Result<Reading, Failure> {
        // It knows only this machine; any other instance does not exist here.
        if instance != "host" {
            return Err(Failure::Gone);
        }
        let text = files::read_to_string(&self.path)?;
        Ok(Reading::from([text.split(' ').next().unwrap_or_default().parse()?]))
    }
}

export_sampler!(Load);
