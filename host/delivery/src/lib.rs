//! Sends alerts to other servers: to Alertmanagers, and as messages to webhooks.
//!
//! * [`Deliveries`]: starts and stops what sends. [`options`]: the servers to send to. [`check`]: finds mistakes in
//!   that.
//! * `alertmanager`: one Alertmanager. `targets`: where Alertmanagers are.
//! * `webhook`: one webhook: the alerts that it knows, and messages about those that it does not.
//! * `client`: requests, with credentials and TLS. `backoff`: when to try again. `report`: counts them.
//! * `payload`: alerts as other servers read them.

mod alertmanager;
mod backoff;
mod check;
mod client;
mod deliveries;
pub mod options;
mod payload;
mod report;
mod targets;
mod webhook;

pub use check::check;
pub use deliveries::Deliveries;
