//! Serves HTTP: parses, encodes, and holds no logic of its own.
//!
//! # Layout
//!
//! * `server`: accepts, agrees on TLS (`tls`) and a protocol, ends gracefully; `connection`: one connection, until a stream
//!   takes its socket over.
//! * `routes`: which path is whose; counts requests.
//! * `rights`: who may; `body`: what is sent.
//! * `instances`, `lifecycle`, `usage`, `stream`, `snapshot`, `events`, `telemetry`, `plugins`, `health`, `page`,
//!   `prometheus`: the answers; `many`: one of very many.
//! * `select`: which instances; `window`: the parameters of a range query; `etag`: what need not be sent again.
//! * `off_thread`: what may take its time.
//! * `error`: what a client reads when something is wrong.

mod body;
mod connection;
mod error;
mod etag;
mod events;
mod health;
mod instances;
mod lifecycle;
mod many;
mod off_thread;
mod page;
mod plugins;
mod prometheus;
mod rights;
mod routes;
mod select;
mod server;
mod snapshot;
mod stream;
mod telemetry;
mod tls;
mod usage;
mod window;

pub(crate) use routes::is_taken;
pub use server::serve;
pub use tls::Tls;

use crate::core::Core;
use std::sync::Arc;

/// What handlers see.
type App = axum::extract::State<Arc<Core>>;
