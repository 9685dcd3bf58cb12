//! The capabilities that the host offers to plugins, each in a file of its own. The capabilities share `denials` (the
//! requests that were not granted), `inputs` (the machine, or a recording of one) and `wasi` (the context with which
//! `env`, `dirs` and `log` reach components of any language).

pub(crate) mod denials;
pub(crate) mod dirs;
pub(crate) mod env;
pub(crate) mod files;
pub(crate) mod http;
pub(crate) mod inputs;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod series;
pub(crate) mod state;
pub(crate) mod wasi;
