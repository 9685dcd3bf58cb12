//! Serves HTTP: parses, encodes, and holds no logic of its own.
//!
//! # Layout
//!
//! * `server`: connections, timeouts, the graceful end.
//! * `routes`: which path is whose; counts requests.
//! * `rights`: who may; `body`: what is sent.
//! * `instances`, `usage`, `snapshot`, `events`, `telemetry`, `stream`, `plugins`, `health`, `page`, `exposition`: the answers.
//! * `window`: the parameters of a range query.
//! * `error`: what a client reads when something is wrong.

mod body;
mod error;
mod events;
mod health;
mod instances;
mod page;
mod plugins;
mod prometheus;
mod rights;
mod routes;
mod server;
mod snapshot;
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
