//! The engine of Dropsonde: it polls samplers and sources on a schedule, keeps their samples, and publishes them to
//! readers. It knows nothing of HTTP, commands or configuration files.
//!
//! Data flows one way: [`plugins`] and [`native`] samplers → `recorder` → store → [`hub`]; everything else reads.
//!
//! # Layout
//!
//! * [`RunningEngine`]: starts and stops everything. [`Engine`]: the state that its parts share, and its interface for
//!   others.
//! * [`options`]: the settings.
//! * [`clock`]: the clocks, and the schedule of polls. `timeline`: steady time, by which jumps of the wall clock are
//!   noticed.
//! * [`plugins`]: finds, loads, grants, polls and replaces plugins. [`native`]: samplers and sources of the embedding
//!   program.
//! * [`tracked`]: the tracked instances and the samplers that poll them. `conflict_reports`: plugins that report
//!   instances or fields of other owners.
//! * `recorder`: records the instances and readings that a sampler reports.
//! * [`series`]: labelled series in history. [`history`]: durable history; `horizon`: the time before
//!   which it is complete. [`hub`]: live fan-out. [`json`]: samples as JSON.
//! * [`service`]: the interface by which a program tracks instances and reads their samples. [`workload`]: several
//!   instances taken together.
//! * [`events`]: events that applications send to observers. [`mod@snapshot`]: the statistics of all sources in one
//!   document.
//! * [`mod@metrics`]: the metrics of the host and of native services. [`exposition`]: these and samples as text for
//!   Prometheus.
//! * [`rules`]: rules over history, and alerts. [`remotes`]: other servers that the host sends to;
//!   [`long_history`]: one that it reads from.
//! * [`health`]: the health of the host and its plugins. [`host_status`]: the host's use of resources. [`frontend`]: the
//!   server of the engine's data. [`audit`]: the log of changes.
//! * [`quota`]: quotas of clients. [`shares`]: the use of pools that owners and clients share. [`memory`],
//!   [`descriptors`], [`address_space`]: the limits of this process.
//! * [`disk_errors`]: errors of places that cannot be written.

pub mod address_space;
pub mod audit;
pub mod clock;
mod conflict_reports;
pub mod descriptors;
pub mod disk_errors;
mod engine;
pub mod events;
pub mod exposition;
pub mod frontend;
pub mod health;
pub mod history;
mod horizon;
pub mod host_status;
pub mod hub;
pub mod json;
pub mod long_history;
pub mod memory;
pub mod metrics;
pub mod native;
pub mod options;
pub mod plugins;
pub mod quota;
mod recorder;
pub mod remotes;
pub mod rules;
mod running;
pub mod series;
pub mod service;
pub mod shares;
pub mod snapshot;
pub mod timeline;
pub mod tracked;
pub mod workload;

pub use engine::Engine;
pub use options::{Options, machine_name};
pub use running::{EngineParts, HISTORY, RunningEngine};
