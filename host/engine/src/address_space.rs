//! Address space for plugins, where it is limited (`ulimit -v`, `LimitAS=`). A failed allocation ends the host.
//! Therefore a plugin starts only if its reservation fits beside the reservations of running plugins and the most that
//! the host itself can need.
//!
//! A plugin keeps its reservation while it restarts, so that no other plugin can take it meanwhile.

use crate::memory;
use crate::options::Options;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The most threads that do blocking work beside the server's threads, each for as long as its disk or its compiler
/// takes.
pub const BLOCKING_THREADS: usize = 64;

/// The most threads that run queries of history: as many as range queries by default.
pub const QUERY_THREADS: usize = 64;

/// The size of the stack of each of the runtime's threads, in bytes. It suffices because parsing and compiling on them
/// have a bounded depth.
pub const THREAD_STACK: usize = 1 << 20;

/// Bytes for other threads, for the events kept for readers that come back, and for the holes of the allocator.
const OTHER: u64 = 96 << 20;

/// The address space for plugins.
#[derive(Debug)]
pub(crate) struct AddressSpace {
    /// The limit of the process's address space, in bytes; none if there is no limit.
    limit: Option<u64>,
    /// Bytes that the process had mapped before there were plugins.
    began: u64,
    /// Bytes that plugins have reserved.
    taken: Arc<AtomicU64>,
}

/// The address space reserved for one plugin. Dropping it frees it.
#[derive(Debug)]
pub(crate) struct Reservation {
    bytes: u64,
    is_bounded: bool,
    taken: Arc<AtomicU64>,
}

/// The error when there is not enough address space for a plugin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not enough address space for the plugin: RLIMIT_AS allows the host {} MiB, of which {} MiB are left for plugins \
     beside the needs of the host and of running plugins, and it needs {} MiB; raise the limit (`ulimit -v` before the \
     start, or LimitAS= of the service), lower store.max_memory, http.max_answer_bytes or stream.max_buffer_bytes, or \
     remove another plugin, then reload this one",
    limit >> 20, left >> 20, needed.div_ceil(1 << 20)
)]
pub struct NotEnoughAddressSpace {
    limit: u64,
    left: u64,
    needed: u64,
}

// === impl AddressSpace ===

impl AddressSpace {
    /// Reads the limit and the mapped bytes of this process, before there are plugins.
    pub(crate) fn of_process() -> Self {
        Self { limit: memory::address_space(), began: memory::mapped().unwrap_or_default(), taken: Arc::default() }
    }

    /// Reserves address space for a plugin, if there is a limit.
    pub(crate) fn take(
        &self,
        needed: u64,
        options: &Options,
        memory: usize,
    ) -> Result<Reservation, NotEnoughAddressSpace> {
        let room = |bytes| Reservation { bytes, is_bounded: self.limit.is_some(), taken: self.taken.clone() };
        let Some(limit) = self.limit else { return Ok(room(0)) };
        let most = limit.saturating_sub(self.began).saturating_sub(of_host(options, memory));
        let take = |taken: u64| taken.checked_add(needed).filter(|taken| *taken <= most);
        match self.taken.fetch_update(Relaxed, Relaxed, take) {
            Ok(_) => Ok(room(needed)),
            Err(taken) => Err(NotEnoughAddressSpace { limit, left: most.saturating_sub(taken), needed }),
        }
    }
}

/// Returns the bytes that the host may come to need beside those mapped at the start: the sizes of its pools.
fn of_host(options: &Options, memory: usize) -> u64 {
    let Options { store, metrics, stream, serving, .. } = options;
    let pools = store.memory() + store.block_cache.get() as u64 + 2 * metrics.size();
    let streams = stream.buffer_bytes(memory) as u64;
    pools + streams + serving + ((BLOCKING_THREADS + QUERY_THREADS) * THREAD_STACK) as u64 + OTHER
}

impl Reservation {
    /// Returns whether so many bytes fit into the room. Without a limit, any number does.
    pub(crate) fn holds(&self, needed: u64) -> bool {
        !self.is_bounded || needed <= self.bytes
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn rooms(limit: Option<u64>) -> AddressSpace {
        AddressSpace { limit, began: 100 * MIB, taken: Arc::default() }
    }

    #[test]
    fn address_space_beyond_the_limit_is_refused_until_a_plugin_frees_its_own() {
        let options = Options::default();
        let of_host = of_host(&options, 2 << 30);
        let rooms = rooms(Some(100 * MIB + of_host + 150 * MIB));
        let take = || rooms.take(70 * MIB, &options, 2 << 30);
        let (first, _second) = (take().unwrap(), take().unwrap());
        let refused = take().unwrap_err().to_string();
        assert!(refused.contains("10 MiB are left") && refused.contains("it needs 70 MiB"), "{refused}");
        drop(first);
        assert!(take().is_ok());
    }

    #[test]
    fn without_a_limit_any_reservation_succeeds() {
        assert!(rooms(None).take(u64::MAX, &Options::default(), usize::MAX).is_ok());
    }
}
