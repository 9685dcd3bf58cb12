//! One module per version of the WIT package. Each translates at its edge: nothing outside knows its types.

pub(crate) mod v0_1;

/// The package all plugins speak.
pub(crate) const PACKAGE: &str = "dropsonde:plugin/";

/// The versions this host speaks, as `major.minor`.
pub(crate) const SPOKEN: [&str; 1] = ["0.1"];
