//! The HTTP server: it parses requests and encodes answers, and holds no logic of its own.
//!
//! # Layout
//!
//! * `server`: accepts connections (`listener`, `tls`), agrees on a protocol, and shuts down gracefully; `turn_away`:
//!   refuses connections over a limit.
//! * `connection`: one connection, until a stream takes its socket over; `timed`: a socket with a write timeout;
//!   `flow`: the unfinished requests of an HTTP/2 connection; `peer`: the client.
//! * `routes`: all operations, and the right that each needs; `openapi`: their description.
//! * `door`: the middleware that every request passes; `names`: the check of the host name; `rights`: the caller and
//!   its rights; `login`: browser sessions.
//! * `instances`, `lifecycle`, `usage`, `stream`, `snapshot`, `events`, `telemetry`, `plugins`, `reload`, `health`,
//!   `page`, `prometheus`: the handlers; `pieces`: answers that are made while the client reads them; `rows`, `many`:
//!   answers with many points, or with many instances.
//! * `accept`: the format that a scraper prefers; `body`: request bodies; `select`: the selection of instances;
//!   `window`: the parameters of a range query; `fields`: the field names of a query; `etag`: conditional answers.
//! * `off_thread`: slow work outside the server's threads, and its limit; `answers`: memory for unfinished answers.
//! * `error`: error answers.
//! * [`options`]: the configuration; [`tokens`]: tokens and sessions; [`reload`]: reloads of the configuration.
//! * [`writers`]: threads that write streams; `trace_context`: the trace that a request belongs to.
//! * [`handbook`]: the pages under `/docs`.

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

/// The state that handlers get.
type Shared = axum::extract::State<Arc<App>>;

/// The caller of a request.
type Asking = axum::Extension<rights::Caller>;
