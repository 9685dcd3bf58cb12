//! Black-box tests: they start the real binary with real components and talk to it as users do.
//!
//! # Layout
//!
//! * `harness`: a running host, an HTTP client that shows every byte, the guests.
//! * `access`: tokens, logins and the audit log; `exposure`: other machines, sites and host names; `abuse`: malformed
//!   and slow requests; `clients`: limits per peer.
//! * `reconfigure`: reloads of the configuration; `supervised`: notifications to the service manager; `api`: the
//!   OpenAPI document; `operating`: mistakes of operators; `folders`: unreadable and missing folders.
//! * `http`, `reads`, `stream`, `tls`: the API for reading; `tracking`: the API for instances.
//! * `metrics`, `own_metrics`, `prometheus`, `monitoring`: the metrics, the alerts and the dashboard. `series`: metrics
//!   in history.
//! * `dashboard`: the page in a real browser, which `browser/scenarios.mjs` drives.
//! * `rules`: commands on rule files; `alerts`: rules and alerts in a running host; `delivery`: who is told of
//!   alerts; `alert_generator`: the specification of what sends alerts, point by point.
//! * `remote_write`, `otlp`: samples that are sent elsewhere. `read_through`: history that is read from elsewhere.
//! * `tracing`: spans and log lines.
//! * `confined`: filters and limits that service managers and containers set.
//! * `shares`: limits per plugin; `ownership`: instances that several plugins discover.
//! * `sandbox`: limits of plugins; `grants`: what plugins may read; `hostile`: plugins that misbehave; `compiling`:
//!   plugins that take long to compile.
//! * `configuration`: where it is found, and the commands that show it; `doctor`.
//! * `lifecycle`: start, stop, configuration, saved state of plugins.
//! * `reload`: plugins that are added, replaced and removed while the host runs.
//! * `snapshot`: sources, events of applications, and the snapshot.
//! * `clocks`: wall clocks that are set, and processes that are paused.
//! * `history`: history after a restart, after a crash, and on a broken disk.
//! * `commands`, `store_commands`: the command line; `pipes`: commands whose output pipe is closed.
//! * `embedding`: the host as a part of another program, and the examples.
//! * `procfs`, `scraping`, `bundled`: the bundled plugins, and `serve --demo`; `servers`: those plugins beside real
//!   servers.
//! * `artifacts`: plugins in registries, and their signatures.
//! * `packages`: the packages of the host, installed and run as users do.
//! * `authoring`: from a plugin's template to a sample; `handbook`: its links, keys and configurations.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that panics says what is wrong"
)]

mod abuse;
mod access;
mod alert_generator;
mod alerts;
mod api;
mod artifacts;
mod authoring;
mod bundled;
mod clients;
mod clocks;
mod commands;
mod compiling;
mod configuration;
mod confined;
mod dashboard;
mod delivery;
mod embedding;
mod exposure;
mod folders;
mod grants;
mod handbook;
mod harness;
mod history;
mod hostile;
mod http;
mod kept_samples;
mod lifecycle;
mod metrics;
mod monitoring;
mod operating;
mod otlp;
mod own_metrics;
mod ownership;
mod packages;
mod pipes;
mod procfs;
mod prometheus;
mod promql;
mod read_through;
mod reads;
mod reconfigure;
mod reload;
mod remote_write;
mod rules;
mod sandbox;
mod scraping;
mod series;
mod series_stream;
mod servers;
mod shares;
mod snapshot;
mod store_commands;
mod stream;
mod supervised;
mod tls;
mod tracing;
mod tracking;
