//! The versions of the WIT package, one module each. Each module translates its own types; no other module uses them.

pub(crate) mod v0_1;

/// The WIT package that all plugins use.
pub(crate) const PACKAGE: &str = "dropsonde:plugin/";

/// The versions that this host supports, as `major.minor`.
pub(crate) const SPOKEN: [&str; 1] = ["0.1"];
