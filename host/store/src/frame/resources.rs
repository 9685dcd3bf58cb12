use crate::cache::BlockCache;
use crate::{Pool, StoreLimits};
use std::sync::atomic::AtomicU64;

/// The log may use 1 / `LOG` of the disk limit.
const LOG: u64 = 4;

/// State that all frames share.
#[derive(Debug)]
pub(crate) struct StoreResources {
    /// The most rows per frame that are in memory alone.
    pub(super) samples: u64,
    pub(crate) cache: BlockCache,
    /// Bytes of the newest rows in memory, by owner.
    pub(crate) heads: Pool,
    /// Bytes of sealed blocks in memory, by owner.
    pub(crate) sealed: Pool,
    /// Bytes of all files, by owner. One owner can use all that the others do not use. If the files are too large, the
    /// owner with most loses its oldest history.
    pub(crate) disk: Pool,
    /// Bytes of the log, by owner. They also count in `disk`.
    pub(crate) log: Pool,
    /// Labelled series, by owner.
    pub(crate) series: Pool,
    /// Whether blocks are written to files. If so, rows that are removed before they are written count as lost.
    pub(crate) archived: bool,
    /// Failed attempts to read a block.
    pub(crate) unreadable: AtomicU64,
    /// Rows that were dropped before they were in a file.
    pub(crate) lost_rows: AtomicU64,
    pub(crate) next_frame: AtomicU64,
    /// Rows written to all frames since the start.
    pub(super) writes: AtomicU64,
}

impl StoreResources {
    pub(crate) fn new(limits: &StoreLimits, archived: bool) -> Self {
        Self {
            samples: limits.samples.max(1) as u64,
            cache: BlockCache::new(limits.block_cache),
            heads: Pool::halved(limits.memory / 2),
            sealed: Pool::halved(limits.memory - limits.memory / 2),
            disk: Pool::new(limits.disk, 0),
            log: Pool::halved(limits.disk / LOG),
            series: Pool::halved(limits.series),
            archived,
            unreadable: AtomicU64::new(0),
            lost_rows: AtomicU64::new(0),
            next_frame: AtomicU64::new(0),
            writes: AtomicU64::new(0),
        }
    }
}
