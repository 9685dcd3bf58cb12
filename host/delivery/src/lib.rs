//! Sends what a host knows to other servers: samples to databases, and alerts to Alertmanagers and webhooks. Reads
//! longer history from one of them.
//!
//! * [`Deliveries`]: starts and stops what sends. [`options`]: the servers to send to. [`check`]: finds mistakes in
//!   that.
//! * `samples`: sends samples, by remote write or OTLP. `alerts`: sends alerts. `read_through`: asks a
//!   database for history that is longer than that of this host.
//! * `client`: requests; `access`: credentials and certificates for them; `proxy`: proxies between. `backoff`: when to try again.

mod access;
mod alerts;
mod backoff;
mod check;
mod client;
mod deliveries;
pub mod options;
mod proxy;
mod read_through;
mod samples;

pub use check::check;
pub use deliveries::Deliveries;
pub use samples::{Feedback, KeptSeries, as_text, kept_cursor, send_kept};
