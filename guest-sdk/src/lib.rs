//! Write Dropsonde plugins in Rust.
//!
//! A sampler is a type that implements [`Sampler`], with one line of [`export_sampler!`]:
//!
//! ```
//! use dropsonde_guest::{Failure, Field, Instance, Reading, Sampler, Tick, export_sampler, files};
//!
//! #[derive(Default)]
//! struct Load;
//!
//! impl Sampler for Load {
//!     fn fields(&self) -> Vec<Field> {
//!         vec![Field::gauge("load_1m", "1-minute load average").precision(0.01)]
//!     }
//!     fn discover(&mut self, _tick: &Tick) -> Result<Vec<Instance>, Failure> {
//!         Ok(vec![Instance::new("host")])
//!     }
//!     fn sample(&mut self, instance: &str) -> Result<Reading, Failure> {
//!         // It knows only this machine; any other instance does not exist here.
//!         if instance != "host" {
//!             return Err(Failure::Gone);
//!         }
//!         let text = files::read_to_string("/proc/loadavg")?;
//!         let first = text.split_whitespace().next().unwrap_or_default();
//!         Ok(Reading::from([first.parse()?]))
//!     }
//! }
//! export_sampler!(Load);
//! ```
//!
//! The crate is a `cdylib`; `dropsonde plugin build` turns it into one `.wasm` file. It also compiles and runs
//! natively, where [`files`], [`http`], [`clock`], [`log`](mod@log), [`metrics`], [`series`] and [`state`] work without a
//! host. So `cargo test` needs no host.
//!
//! # Layout
//!
//! * [`Sampler`], [`Instance`], [`Reading`], [`Readings`]: for samplers.
//! * [`Source`], [`Stats`]: for sources. [`counters`]: counting, for sources and samplers.
//! * [`Observer`], [`Event`]: for observers. [`export_plugin!`]: exports a plugin with several roles.
//! * [`Field`], [`Aggregation`]: the fields of a sampler.
//! * [`Config`], [`Need`], [`Failure`], [`Description`], [`Tick`]: the types that every plugin exchanges with the host.
//! * [`files`], [`http`], [`env`](mod@env), [`clock`], [`log`](mod@log), [`metrics`], [`series`], [`state`]: the
//!   functions that the host offers.

mod contract;
mod export;
mod field;
mod observer;
mod sampler;
mod source;

pub mod clock;
pub mod counters;
pub mod env;
pub mod files;
pub mod http;
pub mod log;
pub mod metrics;
pub mod series;
pub mod state;

/// The code that `export_plugin!` expands to. Not part of the API.
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod glue;

pub use contract::{Config, Description, Failure, Need, Tick};
pub use field::{Aggregation, Field, Kind};
pub use observer::{Event, Observer};
pub use sampler::{Instance, Reading, Readings, Sampler};
pub use source::{CacheStats, ChannelStats, EnvelopeStats, HistoryStats, PresenceStats, Source, Stats, TokenStats};
