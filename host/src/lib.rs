//! Dropsonde, a telemetry host: it polls sandboxed plugins on its own schedule, keeps their samples as history, and
//! serves them over HTTP.
//!
//! # Layout
//!
//! * [`config`]: the operator's configuration. [`reload`]: applies another configuration while the host runs.
//! * [`host`]: starts and stops a host. `builder`: configures a host inside another program.
//! * [`cli`]: the commands.
//! * [`mod@tracing`]: the host's log and spans. `circuit_breaker`: metrics and a circuit breaker for a destination of
//!   requests.
//! * `bundled`: the plugins that are part of the binary.
//!
//! The parts of the host are crates of their own: [`engine`] polls plugins and records their samples, [`store`] keeps
//! history, [`http`] serves it, the sandbox runs plugins, and [`model`] has the types that all crates share.
//!
//! # Embedded in another program
//!
//! A program can start a host in its own process. Its own samplers and sources then run beside the plugins:
//!
//! ```no_run
//! use dropsonde::config::Config;
//! use dropsonde::host::{Host, compile_if_told};
//! use dropsonde::native::{Failure, Field, Sampler};
//! use dropsonde::store::InstanceId;
//! use dropsonde::tracked::TrackRequest;
//! use std::process::ExitCode;
//!
//! struct Queues;
//!
//! impl Sampler for Queues {
//!     fn name(&self) -> &str {
//!         "queues"
//!     }
//!
//!     fn fields(&self) -> Vec<Field> {
//!         vec![Field::gauge("orders_waiting", "Orders that nobody has begun with.")]
//!     }
//!
//!     fn sample(&mut self, queue: &InstanceId) -> Result<Vec<f64>, Failure> {
//!         // The host may ask about any tracked instance; this one is not a queue.
//!         if queue.as_str() == "berlin" { Ok(vec![3.0]) } else { Err(Failure::Gone) }
//!     }
//! }
//!
//! fn main() -> anyhow::Result<ExitCode> {
//!     // The host compiles plugins in a child process of the same program. Programs without plugins can omit this.
//!     if let Some(compiled) = compile_if_told() {
//!         return Ok(compiled);
//!     }
//!     tokio::runtime::Runtime::new()?.block_on(async {
//!         let config = Config { data_dir: Some("shop-telemetry".into()), ..Config::default() };
//!         let host = Host::builder().config(config).sampler(Queues).start().await?;
//!         let berlin = InstanceId::new("berlin")?;
//!         host.service().track(TrackRequest { id: berlin.clone(), labels: Default::default(), samplers: None })?;
//!         println!("{}/v1/instances/{berlin}/usage", host.url());
//!         tokio::signal::ctrl_c().await?;
//!         host.stop().await;
//!         Ok(ExitCode::SUCCESS)
//!     })
//! }
//! ```
//!
//! * [`service::Service`]: reads and follows samples, and tracks instances.
//! * [`host::Host::attach_to_events`]: tracks instances by a platform's events.
//! * [`metrics::HostMetrics`]: the host's metrics, beside which the program registers its own.
//! * [`history::HostHistory`]: durable history without a host.
//!
//! Two hosts in one process share nothing. The examples `embedded`, `events` and `history` are whole programs.

mod builder;
mod bundled;
#[cfg(feature = "otlp")]
mod circuit_breaker;
pub mod cli;
pub mod config;
pub mod host;
pub mod reload;
pub mod tracing;

pub use dropsonde_engine as engine;
/// Modules of the engine for programs that embed the host.
pub use dropsonde_engine::{clock, events, health, history, hub, metrics, native, service, snapshot, tracked};
pub use dropsonde_http as http;
/// Types that all crates share: ids, labels, names, rights.
pub use dropsonde_model as model;
/// The store of history: samples and queries.
pub use dropsonde_store as store;
