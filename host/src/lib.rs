//! Dropsonde, a telemetry host: polls sandboxed plugins on its own schedule, keeps what they measure, and serves it.
//!
//! # Embedded in another program
//!
//! The host runs beside what a program does otherwise, and its metrics are exposed with the host's own and the plugins':
//!
//! ```no_run
//! use dropsonde::clock::Clock;
//! use dropsonde::config::Config;
//! use dropsonde::host::{Host, compile_if_told};
//! use dropsonde::metrics::{HostMetrics, Registrar as _};
//! use std::process::ExitCode;
//!
//! fn main() -> anyhow::Result<ExitCode> {
//!     // The host compiles plugins in a child process of the same binary.
//!     if let Some(compiled) = compile_if_told() {
//!         return Ok(compiled);
//!     }
//!     tokio::runtime::Runtime::new()?.block_on(async {
//!         let metrics = HostMetrics::new()?;
//!         let orders = metrics.registry.counter_vec("shop", "shop_orders_total", "Orders taken.", &["country"])?;
//!         let config = Config { data_dir: Some("shop-telemetry".into()), ..Config::default() }.validated()?;
//!         let host = Host::start(config, Clock::system(), metrics).await?;
//!         println!("metrics at http://{}/metrics", host.address());
//!
//!         // shop_orders_total{country="de",service="shop"} 1
//!         orders.with_label_values(&["de"]).inc();
//!
//!         tokio::signal::ctrl_c().await?;
//!         host.stop().await;
//!         Ok(ExitCode::SUCCESS)
//!     })
//! }
//! ```
//!
//! # Layout
//!
//! Data flows one way: `plugins` → store → [`hub`]; everything else reads.
//!
//! * [`config`]: what the operator says.
//! * [`host`]: starts and stops everything.
//! * [`history`]: what outlives the process.
//! * [`core`]: what the parts share.
//! * [`plugins`]: found, loaded, granted, polled, replaced.
//! * [`clock`]: time, and when to poll.
//! * [`tracked`]: which instances there are and who polls them; [`labels`].
//! * `recorder`: what a sampler found and read, on its way to the store and the hub.
//! * [`hub`]: live fan-out; [`writers`]: the sockets of streams; `json`: samples as JSON.
//! * `workload`: what several instances are together.
//! * [`mod@metrics`]: what is counted; [`exposition`]: all of it, and samples, for Prometheus; [`health`]: how the host is.
//! * [`tokens`]: who may change something; [`audit`]: who did.
//! * [`events`]: what applications tell; [`mod@snapshot`]: what sources say of them, in one document.
//! * [`mod@tracing`]: what the host tells about its own work; `remote`: what it sends to.
//! * [`http`]: parses and encodes; no logic of its own.
//! * [`cli`]: the commands.

pub mod audit;
pub mod cli;
pub mod clock;
pub mod config;
pub mod core;
pub mod events;
pub mod exposition;
pub mod health;
pub mod history;
pub mod host;
pub mod http;
pub mod hub;
mod json;
pub mod labels;
pub mod metrics;
pub mod plugins;
mod recorder;
mod remote;
pub mod snapshot;
pub mod tokens;
pub mod tracing;
pub mod tracked;
mod workload;
pub mod writers;
