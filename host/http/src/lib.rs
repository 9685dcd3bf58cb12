//! Serves HTTP: parses, encodes, and holds no logic of its own.
//!
//! # Layout
//!
//! * `server`: accepts (`listener`, `tls`), agrees on a protocol, ends gracefully; `turn_away`: whom there is no room for.
//! * `connection`: one connection, until a stream takes its socket over; `timed`: its socket; `flow`: its exchanges;
//!   `peer`: its other end.
//! * `routes`: all operations, and what each needs; `openapi`: what they are like.
//! * `door`: what every request passes; `names`: whom it is meant for; `rights`: who sends it, and may; `login`: browsers.
//! * `instances`, `lifecycle`, `usage`, `stream`, `snapshot`, `events`, `telemetry`, `plugins`, `reload`, `health`, `page`,
//!   `prometheus`: the answers; `pieces`: those made as they are read; `rows`, `many`: of many points, of many instances.
//! * `accept`: in which format; `body`: what is sent; `select`: which instances; `window`: the parameters of a range query; `fields`: those it names; `etag`: what need not be
//!   sent again.
//! * `off_thread`: what may take its time, and how much of that at once; `answers`: the memory of what is on its way.
//! * `error`: what a client reads when something is wrong.
//! * [`options`]: what an operator says; [`tokens`]: who may do what; [`reload`]: reading the configuration again.
//! * [`writers`]: threads that write streams. `trace_context`: which trace a request belongs to.
//! * [`handbook`]: the pages that `/docs` shows.

mod accept;
mod answers;
mod app;
mod body;
mod connection;
mod door;
mod error;
mod etag;
mod events;
mod fields;
mod flow;
pub mod handbook;
mod health;
mod instances;
mod lifecycle;
mod listener;
mod login;
mod many;
mod names;
mod off_thread;
mod openapi;
pub mod options;
mod page;
mod peer;
mod pieces;
mod plugins;
mod prometheus;
pub mod reload;
mod rights;
mod routes;
mod rows;
mod select;
mod server;
mod snapshot;
mod stream;
mod telemetry;
mod timed;
mod tls;
pub mod tokens;
mod trace_context;
mod turn_away;
mod usage;
mod window;
pub mod writers;

pub use app::App;
pub use listener::{Listener, probe};
pub use options::Options;
pub use routes::is_taken;
pub use server::Server;
pub use tls::{Tls, certificates};

use std::sync::Arc;

/// What handlers see.
type Shared = axum::extract::State<Arc<App>>;

/// Who asks.
type Asking = axum::Extension<rights::Caller>;
