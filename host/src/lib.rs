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
//! Data flows one way: `plugins` → store → [`hub`]; everything else reads.
//!
//! * [`config`]: what the operator says.
//! * [`host`]: starts and stops everything; [`reload`]: has another configuration take over.
//! * [`history`]: what outlives the process.
//! * [`core`]: what the parts share.
//! * [`plugins`]: found, loaded, granted, polled, replaced; [`native`]: what the embedding program polls with.
//! * [`service`]: what it does with samples.
//! * [`clock`]: time, and when to poll.
//! * [`tracked`]: which instances there are and who polls them.
//! * `recorder`: what a sampler found and read, on its way to the store and the hub.
//! * [`hub`]: live fan-out; `writers`: threads that write streams; `json`: samples as JSON.
//! * `workload`: what several instances are together.
//! * [`mod@metrics`]: what is counted; [`exposition`]: all of it, and samples, for Prometheus; [`health`]: how the host is.
//! * [`tokens`]: who may read, and change something; [`audit`]: who did. `places`: how much there may be of
//!   something, in all and of one peer; `memory`: how much of it this process may have.
//! * [`events`]: what applications tell; [`mod@snapshot`]: what sources say of them, in one document.
//! * [`mod@tracing`]: what the host tells about its own work; `remote`: what it sends to.
//! * `nearest`: what a misspelt word was meant to be. `unwritable`: places where nothing can be written as they are.
//! * [`http`]: parses and encodes; no logic of its own.
//! * `handbook`: the pages of `docs`, for both.
//! * [`cli`]: the commands.

pub mod audit;
mod builder;
pub mod cli;
pub mod clock;
pub mod config;
mod conflicts;
pub mod core;
mod descriptors;
pub mod events;
pub mod exposition;
mod handbook;
pub mod health;
pub mod history;
pub mod host;
pub mod http;
pub mod hub;
mod json;
mod memory;
pub mod metrics;
pub mod native;
mod nearest;
mod places;
pub mod plugins;
mod recorder;
pub mod reload;
mod remote;
mod room;
pub mod service;
mod shares;
pub mod snapshot;
mod timeline;
pub mod tokens;
pub mod tracing;
pub mod tracked;
mod unwritable;
mod workload;
mod writers;

/// Words that all parts share: ids, labels, names, rights.
pub use dropsonde_model as model;
/// History: samples, queries.
pub use dropsonde_store as store;
