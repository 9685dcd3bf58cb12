//! Metrics that are counted here, as opposed to samples: the host's own, and those of native services beside it.
//!
//! * [`MetricRegistry`], [`Registrar`] (`registry`): metrics of named services.
//! * [`CoreMetrics`] (`core`): what every service has, and a method to record each.
//! * [`HostMetrics`] (`host`): what the host counts about itself.

mod core;
mod host;
mod registry;

pub use self::core::{Breaker, CoreMetrics, ServiceStatus};
pub(crate) use self::core::{HEALTH_STATUS, SERVICE_STATUS};
pub use host::{HostMetrics, status_class};
pub use registry::{MetricRegistry, RegisterError, Registrar};
