//! HTTP requests to the origins that the operator grants, with the granted methods and paths. A name is resolved once;
//! its address is checked, and the connection goes to that address. Redirects are returned like any other response.
//! Proxies in the environment are ignored.

mod address;
pub(crate) mod exchange;
pub(crate) mod handler;
mod origin;
mod path;
mod rule;
mod send;

pub(crate) use origin::Origins;
pub(crate) use send::{Connections, Http};
