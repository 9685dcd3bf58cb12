//! The metrics of the host itself, and of native services beside it. Samples are not among them.
//!
//! * [`MetricRegistry`], [`Registrar`] (`registry`): metrics of named services.
//! * [`CoreMetrics`] (`core`): the metrics that every service has, with a method to record each.
//! * [`HostMetrics`] (`host`): the host's metrics about itself. [`RuleMetrics`]: those of groups of rules.
//!   [`RemoteMetrics`]: those of servers that the host sends to.

mod core;
mod host;
mod registry;
mod remotes;
mod rules;

pub use self::core::{BreakerState, CoreMetrics, ServiceStatus};
pub(crate) use self::core::{HEALTH_STATUS, SERVICE_STATUS};
pub use host::{HostMetrics, status_class};
pub use registry::{MetricRegistry, Registrar, RegistrationError};
pub use remotes::RemoteMetrics;
pub use rules::RuleMetrics;
