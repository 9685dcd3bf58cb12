//! The HTTP server: it parses requests and encodes answers, and holds no logic of its own.
//!
//! # Layout
//!
//! * [`App`] (`app`): the state that handlers share.
//! * `server`: accepts connections (`listener`, `tls`), agrees on a protocol, and shuts down gracefully; `refuse`:
//!   refuses connections over a limit.
//! * `connection`: one connection, until a stream takes its socket over; `write_timeout`: a socket with a write timeout;
//!   `http2_requests`: the unfinished requests of an HTTP/2 connection; `peer`: the client.
//! * `routes`: all operations, and the right that each needs; `openapi`: their description.
//! * `middleware`: the middleware that every request passes; `host_names`: the check of the host name; `rights`: the
//!   caller and its rights; `login`: browser sessions.
//! * `instances`, `instance_events`, `usage`, `stream`, `snapshot`, `source_events`, `host_history`, `plugins`,
//!   `reload`, `health`, `host`, `page`, `prometheus`: the handlers; `chunked`: answers that are made while the client reads
//!   them; `piece_body`: those whose pieces come as they come; `points_json`, `by_instance`: answers with many points, or with many instances.
//! * `series`: series by their labels; `series_stream`: their samples as they come. `promql`: Prometheus' query API.
//! * `longer`: longer history, from another database.
//! * `alerts`, `alert_stream`, `silences`: alerts, as a list and as they change, and who is not told of them.
//! * `content_negotiation`: the format that a scraper prefers; `body`: request bodies; `instance_selection`: the
//!   selection of instances; `range_query`: the parameters of a range query; `fields`: the field names of a query;
//!   `etag`: conditional answers.
//! * `blocking`: slow work outside the server's threads, and its limit; `answer_memory`: memory for unfinished answers.
//! * `error`: error answers.
//! * [`options`]: the configuration; [`tokens`]: tokens and sessions; [`reload`]: reloads of the configuration.
//! * [`writers`]: threads that write streams; `trace_context`: the trace that a request belongs to.
//! * [`handbook`]: the pages under `/docs`. `dashboard`: the files of the application at `/`, which are in `dashboard/`.

mod alert_stream;
mod alerts;
mod answer_memory;
mod app;
mod blocking;
mod body;
mod by_instance;
mod chunked;
mod connection;
mod content_negotiation;
mod dashboard;
mod error;
mod etag;
mod fields;
pub mod handbook;
mod health;
mod host;
mod host_history;
mod host_names;
mod http2_requests;
mod instance_events;
mod instance_selection;
mod instances;
mod listener;
mod login;
mod longer;
mod middleware;
mod openapi;
pub mod options;
mod page;
mod peer;
mod piece_body;
mod plugins;
mod points_json;
mod prometheus;
mod promql;
mod range_query;
mod refuse;
pub mod reload;
mod rights;
mod routes;
mod series;
mod series_stream;
mod server;
mod silences;
mod snapshot;
mod source_events;
mod stream;
mod tls;
pub mod tokens;
mod trace_context;
mod usage;
mod write_timeout;
pub mod writers;

pub use app::App;
pub use listener::{Listener, probe};
pub use options::ServerOptions;
pub use routes::is_reserved_path;
pub use server::Server;
pub use tls::{Tls, certificates};

use std::sync::Arc;

/// The state that handlers get.
type AppState = axum::extract::State<Arc<App>>;

/// The caller of a request.
type CallerExtension = axum::Extension<rights::RequestCaller>;
