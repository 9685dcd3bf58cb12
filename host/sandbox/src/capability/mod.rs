//! The capabilities that the host offers to plugins, one file each.

pub(crate) mod denials;
pub(crate) mod dirs;
pub(crate) mod env;
pub(crate) mod files;
pub(crate) mod http;
pub(crate) mod inputs;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod state;
pub(crate) mod wasi;
