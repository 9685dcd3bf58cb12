//! Address space for plugins, where it is limited (`ulimit -v`, `LimitAS=`). An allocation that fails ends the host, so a plugin
//! starts only if what it reserves is beside what the host may come to need for itself, and what plugins that run have.
//!
//! A plugin keeps its room while it is restarted: nobody else can take it meanwhile.

use crate::memory;
use crate::options::Options;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Threads that may work off the server's threads at a time, each for as long as its disk or its compiler takes: twice as many
/// as range queries by default, so that those alone cannot keep all others waiting.
pub const BLOCKING_THREADS: usize = 128;

/// Bytes of the stack of each of the runtime's threads: what parses and compiles on them is bounded in depth.
pub const THREAD_STACK: usize = 1 << 20;

/// Other threads, the events kept for streams that come back, and what the allocator has between two pieces.
const OTHER: u64 = 96 << 20;

/// Address space of plugins.
#[derive(Debug)]
pub(crate) struct Rooms {
    limit: Option<u64>,
    /// Bytes the process had mapped before there were plugins.
    began: u64,
    taken: Arc<AtomicU64>,
}

/// The room of one plugin. Free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    bytes: u64,
    is_bounded: bool,
    taken: Arc<AtomicU64>,
}

/// There is not enough address space for a plugin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no room for it: RLIMIT_AS allows the host {} MiB of address space, of which {} MiB are left for plugins beside what the \
     host and running plugins need, and it needs {} MiB; raise the limit (`ulimit -v` before the start, or LimitAS= of the \
     service), lower store.max_memory, http.max_answer_bytes or stream.max_buffer_bytes, or remove a plugin, then reload it",
    limit >> 20, left >> 20, needed.div_ceil(1 << 20)
)]
pub struct NoRoom {
    limit: u64,
    left: u64,
    needed: u64,
}

// === impl Rooms ===

impl Rooms {
    /// Looks at this process as it is now, before there are plugins.
    pub(crate) fn of_process() -> Self {
        Self { limit: memory::address_space(), began: memory::mapped().unwrap_or_default(), taken: Arc::default() }
    }

    /// Takes room for a plugin, where there is a limit.
    pub(crate) fn take(&self, needed: u64, options: &Options, memory: usize) -> Result<Room, NoRoom> {
        let room = |bytes| Room { bytes, is_bounded: self.limit.is_some(), taken: self.taken.clone() };
        let Some(limit) = self.limit else { return Ok(room(0)) };
        let most = limit.saturating_sub(self.began).saturating_sub(of_host(options, memory));
        let take = |taken: u64| taken.checked_add(needed).filter(|taken| *taken <= most);
        match self.taken.fetch_update(Relaxed, Relaxed, take) {
            Ok(_) => Ok(room(needed)),
            Err(taken) => Err(NoRoom { limit, left: most.saturating_sub(taken), needed }),
        }
    }
}

/// Bytes the host may come to need, beside what it has when it begins: what its pools allow.
fn of_host(options: &Options, memory: usize) -> u64 {
    let Options { store, metrics, stream, serving, .. } = options;
    let pools = store.memory() + store.block_cache.get() as u64 + metrics.size();
    let streams = stream.buffer_bytes(memory) as u64;
    pools + streams + serving + (BLOCKING_THREADS * THREAD_STACK) as u64 + OTHER
}

impl Room {
    /// Whether so much fits into it. All does where there is no limit.
    pub(crate) fn holds(&self, needed: u64) -> bool {
        !self.is_bounded || needed <= self.bytes
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn rooms(limit: Option<u64>) -> Rooms {
        Rooms { limit, began: 100 * MIB, taken: Arc::default() }
    }

    #[test]
    fn a_plugin_beyond_the_limit_is_refused_and_one_that_leaves_makes_room() {
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
    fn without_a_limit_there_is_room_for_all() {
        assert!(rooms(None).take(u64::MAX, &Options::default(), usize::MAX).is_ok());
    }
}
