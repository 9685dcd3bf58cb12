//! Serves HTTP: parses, encodes, and holds no logic of its own.
//!
//! # Layout
//!
//! * `server`: connections, timeouts, the graceful end.
//! * `routes`: which path is whose; counts requests.
//! * `instances`, `usage`, `telemetry`, `stream`, `plugins`, `health`, `page`, `exposition`: the answers.
//! * `window`: the parameters of a range query.
//! * `error`: what a client reads when something is wrong.

mod error;
mod health;
mod instances;
mod page;
mod plugins;
mod prometheus;
mod routes;
mod server;
mod stream;
mod telemetry;
mod usage;
mod window;

pub(crate) use routes::is_taken;
pub use server::serve;

use crate::core::Core;
use std::sync::Arc;

/// What handlers see.
type App = axum::extract::State<Arc<Core>>;
