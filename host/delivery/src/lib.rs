//! Sends what a host knows to other servers: samples to databases, and alerts to Alertmanagers and webhooks.
//!
//! * [`Deliveries`]: starts and stops what sends. [`options`]: the servers to send to. [`check`]: finds mistakes in
//!   that.
//! * `remote_write`: samples, as Prometheus sends them. `alerts`: alerts.
//! * `client`: requests; `access`: credentials and certificates for them. `backoff`: when to try again.

mod access;
mod alerts;
mod backoff;
mod check;
mod client;
mod deliveries;
pub mod options;
mod remote_write;

pub use check::check;
pub use deliveries::Deliveries;
pub use remote_write::{Feedback, KeptSeries, as_text, kept_cursor, send_kept};
