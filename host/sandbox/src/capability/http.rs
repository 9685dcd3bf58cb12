//! HTTP, to origins the operator names. A name is resolved once, where it leads to is checked, and that address is
//! connected to; redirects are answers like any other; no proxies are taken from the environment.

mod address;
mod origin;
mod send;

pub(crate) use origin::Origins;
pub(crate) use send::{Connections, Http};
