//! Black-box tests: they start the real binary with real components and talk to it as users do.
//!
//! # Layout
//!
//! * `harness`: a running host, a client that shows every byte, the guests.
//! * `access`: who may do what; `exposure`: what strangers reach; `abuse`: what nobody should send; `clients`: greedy
//!   clients beside modest ones.
//! * `reconfigure`: another configuration while it runs; `supervised`: what a service manager hears; `api`: the description.
//! * `http`, `reads`, `stream`, `tls`: what clients see; `tracking`: what they say of instances.
//! * `metrics`, `own_metrics`, `prometheus`, `monitoring`: what Prometheus sees, and those who are woken by it.
//! * `tracing`: spans and log lines.
//! * `confined`: under the filters and limits that service managers and containers set.
//! * `shares`: greedy plugins beside modest ones.
//! * `sandbox`: what plugins cannot do; `grants`: what they may see; `hostile`: those that try;
//!   `compiling`: those that take long to compile.
//! * `lifecycle`: start, stop, configuration, what plugins keep.
//! * `reload`: plugins that appear, change and go while the host runs.
//! * `snapshot`: sources, what applications tell, and the document they make.
//! * `clocks`: wall clocks that are set, and processes that are held up.
//! * `history`: what is there after a restart, a crash, and on a disk that does not work.
//! * `commands`, `store_commands`: the command line; `pipes`: read no further than its reader likes.
//! * `embedding`: the host as a part of another program, and the examples.
//! * `procfs`: the bundled sampler on machines of all kinds.
//! * `authoring`: from the handbook's first plugins to a sample; `handbook`: links, keys and configurations in it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics says what is wrong"
)]

mod abuse;
mod access;
mod api;
mod authoring;
mod clients;
mod clocks;
mod commands;
mod compiling;
mod confined;
mod embedding;
mod exposure;
mod folders;
mod grants;
mod handbook;
mod harness;
mod history;
mod hostile;
mod http;
mod lifecycle;
mod metrics;
mod monitoring;
mod operating;
mod own_metrics;
mod ownership;
mod pipes;
mod procfs;
mod prometheus;
mod reads;
mod reconfigure;
mod reload;
mod sandbox;
mod shares;
mod snapshot;
mod store_commands;
mod stream;
mod supervised;
mod tls;
mod tracing;
mod tracking;
