//! Who serves what the engine knows: it has a part in `/health` and in the host's metrics.

use crate::places::Places;
use std::fmt::Debug;

/// What the engine asks of it.
pub trait Front: Debug + Send + Sync {
    /// What is wrong with it.
    fn troubles(&self) -> Vec<String>;

    /// Open connections that are no streams.
    fn connections(&self) -> usize;

    /// What its clients share.
    fn pools(&self) -> Vec<ClientPool<'_>>;
}

/// A pool that clients share.
#[derive(Debug)]
pub struct ClientPool<'a> {
    /// Its name in metrics and on pages: what it is of, and its unit.
    pub name: &'static str,
    /// The configuration key that makes a client's share larger; empty if there is none.
    pub key: &'static str,
    pub places: &'a Places,
}
