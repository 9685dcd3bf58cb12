//! Sets up tools and makes packages, for `cargo dev`.
//!
//! # Layout
//!
//! * [`setup`]: finds and fetches tools.
//! * [`package`]: makes packages of the host.

pub mod package;
pub mod setup;

/// The version of the host.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The features of a host for other machines.
pub const FEATURES: &str = "authoring,otlp";
