//! Samplers and sources that are part of the program that embeds the host, polled beside plugins on the same schedule.
//!
//! They are trusted as the program is: a poll that takes too long is not ended, but it is the only one that waits, and one
//! that panics is a failed poll.

use crate::snapshot::Source;
use dropsonde_store::InstanceId;
use std::sync::Arc;

pub use crate::plugins::BadNative;
pub use dropsonde_model::{Aggregation, Field, Kind};
pub use dropsonde_sandbox::{
    CacheStats, ChannelStats, EnvelopeStats, Failure, HistoryStats, Instance, PresenceStats, Readings, Stats,
    TokenStats,
};

/// Something in this process that measures instances.
pub trait Sampler: Send + 'static {
    /// As a plugin could be called; the host's configuration may have a section of this name, for its interval and deadline.
    fn name(&self) -> &str;

    /// What it measures: the same whenever it is asked.
    fn fields(&self) -> Vec<Field>;

    /// What there is to be measured. Asked at `poll.discover_interval`; what it lists no more has ended.
    fn discover(&mut self) -> Result<Vec<Instance>, Failure> {
        Ok(Vec::new())
    }

    /// One value per field; NaN for what has no signal.
    fn sample(&mut self, instance: &InstanceId) -> Result<Vec<f64>, Failure>;

    /// The same of all it is asked about, at once.
    fn sample_all(&mut self, instances: &[InstanceId]) -> Readings {
        let columns = self.fields().len();
        let mut readings = Readings { values: Vec::new(), offsets_ms: Vec::new(), failures: Vec::new() };
        for (row, instance) in instances.iter().enumerate() {
            let failure = match self.sample(instance) {
                Ok(values) if values.len() == columns => {
                    readings.values.extend(values);
                    continue;
                }
                Ok(values) => Failure::Unavailable(format!("it gave {} values for {columns} fields", values.len())),
                Err(failure) => failure,
            };
            readings.values.resize(readings.values.len() + columns, f64::NAN);
            readings.failures.push((u32::try_from(row).unwrap_or(u32::MAX), failure));
        }
        readings
    }
}

/// What a program polls with.
pub enum Native {
    Sampler(Box<dyn Sampler>),
    Source(Arc<dyn Source>),
}

// === impl Native ===

impl Native {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Sampler(sampler) => sampler.name(),
            Self::Source(source) => source.name(),
        }
    }
}
