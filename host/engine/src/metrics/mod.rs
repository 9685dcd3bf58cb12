//! The metrics of the host itself, and of native services beside it. Samples are not among them.
//!
//! * [`MetricRegistry`], [`Registrar`] (`registry`): metrics of named services.
//! * [`CoreMetrics`] (`core`): the metrics that every service has, with a method to record each.
//! * [`HostMetrics`] (`host`): the host's metrics about itself. [`RuleMetrics`]: those of groups of rules.

mod core;
mod host;
mod registry;
mod rules;

pub use self::core::{BreakerState, CoreMetrics, ServiceStatus};
pub(crate) use self::core::{HEALTH_STATUS, SERVICE_STATUS};
pub use host::{HostMetrics, status_class};
pub use rules::RuleMetrics;
pub use registry::{MetricRegistry, Registrar, RegistrationError};
