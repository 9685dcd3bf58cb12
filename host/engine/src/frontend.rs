//! The server of the engine's data, as the engine sees it. It has a part in `/health` and in the host's metrics.

use crate::quota::Quota;
use std::fmt::Debug;

/// A server of the engine's data.
pub trait Frontend: Debug + Send + Sync {
    /// Returns what is wrong with the server, a sentence each.
    fn troubles(&self) -> Vec<String>;

    /// Returns the number of open connections that are not streams.
    fn connections(&self) -> usize;

    /// Returns the pools that the server's clients share.
    fn pools(&self) -> Vec<ClientPool<'_>>;
}

/// A pool that clients share.
#[derive(Debug)]
pub struct ClientPool<'a> {
    /// The pool's name in metrics and on pages: its content and its unit.
    pub name: &'static str,
    /// The configuration key that makes a client's share larger; empty if there is none.
    pub key: &'static str,
    /// The places that clients take.
    pub places: &'a Quota,
}
