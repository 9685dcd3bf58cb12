//! Native samplers and sources: parts of the program that embeds the host, polled on the same schedule as plugins.
//!
//! The host trusts them as it trusts the program. It does not cancel a poll that takes too long; such a poll delays no
//! other sampler or source. A poll that panics counts as failed.

use crate::snapshot::Source;
use dropsonde_store::InstanceId;
use std::sync::Arc;

pub use crate::plugins::BadNative;
pub use dropsonde_model::{Aggregation, Field, Kind};
pub use dropsonde_sandbox::{
    CacheStats, ChannelStats, EnvelopeStats, Failure, HistoryStats, Instance, PresenceStats, Readings, Stats,
    TokenStats,
};

/// A part of this process that measures instances.
pub trait Sampler: Send + 'static {
    /// Returns the sampler's name. The rules for plugin names apply. The section `[plugins.NAME]` of the configuration
    /// can set its interval and deadline.
    fn name(&self) -> &str;

    /// Returns the fields that the sampler measures. They must be the same in every call.
    fn fields(&self) -> Vec<Field>;

    /// Lists the instances to measure. The host calls this every `poll.discover_interval`; an instance that is no
    /// longer listed has ended.
    fn discover(&mut self) -> Result<Vec<Instance>, Failure> {
        Ok(Vec::new())
    }

    /// Measures one instance. Returns one value per field; NaN for a field without a signal.
    fn sample(&mut self, instance: &InstanceId) -> Result<Vec<f64>, Failure>;

    /// Measures several instances in one call.
    fn sample_all(&mut self, instances: &[InstanceId]) -> Readings {
        let columns = self.fields().len();
        let mut readings = Readings::default();
        for (row, instance) in instances.iter().enumerate() {
            let failure = match self.sample(instance) {
                Ok(values) if values.len() == columns => {
                    readings.values.extend(values);
                    continue;
                }
                Ok(values) => Failure::Unavailable(format!("returned {} values for {columns} fields", values.len())),
                Err(failure) => failure,
            };
            readings.values.resize(readings.values.len() + columns, f64::NAN);
            readings.failures.push((u32::try_from(row).unwrap_or(u32::MAX), failure));
        }
        readings
    }
}

/// A native sampler or source.
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
