//! Dropsonde, a telemetry host: polls sandboxed plugins on its own schedule, keeps what they measure, and serves it.
//!
//! # Embedded in another program
//!
//! The host runs beside what a program does otherwise, with samplers and sources of the program's own beside plugins:
//!
//! ```no_run
//! use dropsonde::config::Config;
//! use dropsonde::host::{Host, compile_if_told};
//! use dropsonde::native::{Failure, Field, Sampler};
//! use dropsonde::store::InstanceId;
//! use dropsonde::tracked::Wanted;
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
//!         // What is tracked beside the queues is not here.
//!         if queue.as_str() == "berlin" { Ok(vec![3.0]) } else { Err(Failure::Gone) }
//!     }
//! }
//!
//! fn main() -> anyhow::Result<ExitCode> {
//!     // The host compiles plugins in a child process of the same program. Without plugins there is no need.
//!     if let Some(compiled) = compile_if_told() {
//!         return Ok(compiled);
//!     }
//!     tokio::runtime::Runtime::new()?.block_on(async {
//!         let config = Config { data_dir: Some("shop-telemetry".into()), ..Config::default() };
//!         let host = Host::builder().config(config).sampler(Queues).start().await?;
//!         let berlin = InstanceId::new("berlin")?;
//!         host.service().track(Wanted { id: berlin.clone(), labels: Default::default(), samplers: None })?;
//!         println!("{}/v1/instances/{berlin}/usage", host.url());
//!         tokio::signal::ctrl_c().await?;
//!         host.stop().await;
//!         Ok(ExitCode::SUCCESS)
//!     })
//! }
//! ```
//!
//! [`service::Service`] reads, follows and tracks; [`host::Host::attach_to_events`] follows a platform;
//! [`metrics::HostMetrics`] takes the program's own metrics; [`history::HostHistory`] is durable history alone. Two hosts in
//! one process share nothing. The examples (`embedded`, `events`, `history`) show each.
//!
//! # Layout
//!
//! * [`config`]: what the operator says; [`reload`]: has another configuration take over.
//! * [`host`]: starts and stops everything; `builder`: in another program.
//! * [`cli`]: the commands. [`mod@tracing`]: what the host tells about its own work; `remote`: what it sends to.
//! * `bundled`: plugins that come with the binary.
//!
//! What it does is in crates of their own: [`engine`] polls and keeps, [`http`] serves, [`store`] is history; the sandbox runs
//! plugins, [`model`] has the words that all share.

mod builder;
mod bundled;
pub mod cli;
pub mod config;
pub mod host;
pub mod reload;
mod remote;
pub mod tracing;

pub use dropsonde_engine as engine;
/// For programs that embed the host.
pub use dropsonde_engine::{clock, events, health, history, hub, metrics, native, service, snapshot, tracked};
pub use dropsonde_http as http;
/// Words that all parts share: ids, labels, names, rights.
pub use dropsonde_model as model;
/// History: samples, queries.
pub use dropsonde_store as store;
