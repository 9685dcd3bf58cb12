//! Sends alerts to other servers: to Alertmanagers, and as messages to webhooks.
//!
//! * [`Deliveries`]: starts and stops what sends. [`options`]: whom to send to. [`check`]: finds what cannot work.
//! * `alertmanager`: one Alertmanager. `targets`: where Alertmanagers are.
//! * `webhook`: one webhook: what it was told, what it should know, and the message about the difference.
//! * `client`: requests, with credentials and TLS. `backoff`: when to try again.
//! * `payload`: alerts as other servers read them.

mod alertmanager;
mod backoff;
mod check;
mod client;
mod deliveries;
pub mod options;
mod payload;
mod targets;
mod webhook;

pub use check::check;
pub use deliveries::Deliveries;
