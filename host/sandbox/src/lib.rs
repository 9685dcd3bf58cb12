//! Runs plugins: WebAssembly components that can use only what the operator granted.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use dropsonde_sandbox::{Grants, Need, Sandbox, Setup, Tick, Worker};
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! let sandbox = Arc::new(Sandbox::new()?);
//! let plugin = sandbox.load(&std::fs::read("load.wasm")?)?;
//! let grants = Grants::new([Need::Read("/proc/loadavg".to_owned())])?;
//! let setup = Setup { grants, ..Setup::named("load") };
//! let worker = Worker::start(&sandbox, plugin, setup).await?;
//! let tick = Tick { at_ms: 0, monotonic_ns: 0, budget_ms: 100, interval: Duration::from_secs(10) };
//! let readings = worker.sample(tick, vec!["host".to_owned()]).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! * `vocabulary`: the types that plugins and host exchange, independent of contract versions.
//! * `contract`: one module per version of the WIT package; each translates into `vocabulary`.
//! * [`Sandbox`] (`sandbox`, `ticker`, `compile_cache`, `compiler`, `compile_queue`, `instance_memory`): the compiler
//!   and runtime shared by all plugins.
//! * [`Plugin`] (`plugin`, `refusal`): a compiled and checked component; the reasons to refuse a file.
//! * [`Worker`] (`worker`, `worker_thread`, `instance`): a plugin's own thread, with its live instance.
//! * `budget`, `meter`, `limits`: the CPU budget and the other limits.
//! * [`Grants`] (`grants`): the capabilities that the operator grants. `capability`: one module per capability, with
//!   its grant, its limits and its tests.
//! * [`CallError`] (`error`): the ways in which a call can fail.
//! * [`replace`]: replaces a file atomically. It is in this crate because the compile cache needs it, and all other
//!   users depend on this crate.

mod budget;
mod capability;
mod compile_cache;
mod compile_queue;
mod compiler;
mod contract;
mod error;
mod grants;
mod instance;
mod instance_memory;
mod limits;
mod meter;
mod plugin;
mod refusal;
pub mod replace;
mod root;
mod sandbox;
mod ticker;
mod vocabulary;
mod worker;
mod worker_thread;

pub use capability::inputs::{Inputs, Recorder, Recording};
pub use capability::log::LogLine;
pub use capability::metrics::{
    BadDescriptor, DEFAULT_BUCKETS, Descriptor, MetricClaim, MetricConflict, MetricFamily, MetricHandles, MetricKind,
    MetricNames, NotRegistered, PluginMetrics, Series, SeriesReading, family,
};
pub use capability::series::{SeriesDefinition, SeriesDefinitions};
pub use capability::state::{SavedState, Trial};
pub use compile_cache::CacheFolder;
pub use compiler::{COMPILING, compile_as_child};
pub use dropsonde_model::Aggregation;
pub use error::{CallError, Trap};
pub use grants::{BadGrant, Grants};
pub use limits::Limits;
pub use plugin::{Interface, Plugin, Role, Shape};
pub use refusal::Refused;
pub use root::Root;
pub use sandbox::{Compile, Sandbox, SandboxError};
pub use vocabulary::{CacheStats, ChannelStats, EnvelopeStats, HistoryStats, PresenceStats, Stats, TokenStats};
pub use vocabulary::{Description, Event, Failure, Field, Instance, Kind, Need, Readings, ReportedSeries, Tick};
pub use worker::{Introduction, Setup, Worker, introduce};
pub use worker_thread::{Timed, Took, WorkerStats};
