//! Helpers for tests: a running host, a client that shows every byte, and the guests' components.

mod alerting;
mod browser;
pub(crate) mod client;
mod collector;
pub(crate) mod components;
mod guests;
mod host;
mod kept_requests;
mod made_server;
mod otlp;
mod prometheus;
mod proxy;
mod remote_write;
mod server;
mod servers;
mod wall_clock;

pub(crate) use alerting::{Measured, Received, Receiver, host_with_rules, put_rules};
pub(crate) use browser::Browser;
pub(crate) use client::{EventStream, Response, connect_from, request, send, stream};
pub(crate) use collector::{Collector, attribute};
pub(crate) use guests::{app, verbs, verbs_version, workspace};
pub(crate) use host::{Host, StartHost, compiled_plugins, dropsonde, run, wait_until};
pub(crate) use kept_requests::{Reply, answer_requests};
pub(crate) use made_server::{MadeServer, respond};
pub(crate) use otlp::StrictCollector;
pub(crate) use prometheus::{Prometheus, prometheus_tool};
pub(crate) use proxy::TestProxy;
pub(crate) use remote_write::{ReceiverState, StrictReceiver};
pub(crate) use server::{SocketServer, TestServer};
pub(crate) use servers::{Nginx, Podman, Server, tool};
pub(crate) use wall_clock::SettableWallClock;
