//! Accounts for the memory that a frame takes from the pools for history.

use super::{FrameView, OpenBlock, StoreResources};
use crate::archive::FrameKey;
use crate::{Layout, Pool, Schema};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that a frame takes without rows, with its name and its entries in maps.
const FRAME: u64 = 1024;

/// The memory that a frame takes from the pools, in bytes. Only the holder of the frame's writer changes it. It is
/// given back when the frame is dropped.
#[derive(Debug)]
pub(super) struct FrameMemory {
    shared: Arc<StoreResources>,
    key: FrameKey,
    layout: Layout,
    /// The charge for the newest rows: the size of their block once it is full.
    heads: AtomicU64,
    /// The charge for sealed blocks.
    sealed: AtomicU64,
}

impl FrameMemory {
    pub(super) fn none(key: FrameKey, layout: Layout, shared: Arc<StoreResources>) -> Self {
        Self { shared, key, layout, heads: AtomicU64::new(0), sealed: AtomicU64::new(0) }
    }

    fn owner(&self) -> &Arc<str> {
        &self.key.owner
    }

    /// Takes over `bytes` that were taken from the pool for the first rows. If the frame has a charge already, the
    /// bytes are given back.
    pub(super) fn begin_with(&self, bytes: u64) {
        if self.heads.compare_exchange(0, bytes, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.shared.heads.give_back(self.owner(), bytes);
        }
    }

    /// Takes what the newest rows of a view need in addition. Returns `false` if there is no room.
    pub(super) fn try_take(&self, view: &FrameView) -> bool {
        let (needed, taken) = (self.needed(view), self.heads.load(Ordering::Relaxed));
        if needed > taken {
            if self.shared.heads.take(self.owner(), needed - taken).is_err() {
                return false;
            }
            self.heads.store(needed, Ordering::Relaxed);
        }
        true
    }

    /// Takes what a view needs, even if there is no room. The keeper later evicts sealed blocks if there are too many.
    pub(super) fn take_anyway(&self, view: &FrameView) {
        let now = self.needed(view).max(self.heads.load(Ordering::Relaxed));
        set(&self.shared.heads, self.owner(), &self.heads, now);
        let blocks: u64 = view.blocks.iter().map(|blocks| blocks.bytes(&self.key.schema)).sum();
        let sealed = if view.blocks.is_empty() { 0 } else { FRAME + blocks };
        set(&self.shared.sealed, self.owner(), &self.sealed, sealed);
    }

    fn needed(&self, view: &FrameView) -> u64 {
        let opens = view.opens.iter().map(|open| open.full_bytes(self.layout, self.key.interval_ms));
        opens.max().map_or(0, |bytes| bytes + FRAME)
    }

    /// Gives back what was taken for further rows, because no more rows are expected.
    pub(super) fn give_back(&self, view: &FrameView) {
        let held: u64 = view.opens.iter().map(|open| open.bytes()).sum();
        let now = if view.opens.is_empty() { 0 } else { held + FRAME };
        set(&self.shared.heads, self.owner(), &self.heads, now);
    }
}

impl Drop for FrameMemory {
    fn drop(&mut self) {
        set(&self.shared.heads, self.owner(), &self.heads, 0);
        set(&self.shared.sealed, self.owner(), &self.sealed, 0);
    }
}

/// Returns what a frame takes with its first row, if all readings fit narrow columns.
pub(super) fn first_bytes(schema: &Schema, layout: Layout, interval_ms: i64) -> u64 {
    OpenBlock::new(schema, layout, 0, 0, 0, Vec::new(), &[]).full_bytes(layout, interval_ms) + FRAME
}

fn set(pool: &Pool, owner: &Arc<str>, charge: &AtomicU64, now: u64) {
    let before = charge.swap(now, Ordering::Relaxed);
    if now > before {
        pool.take_anyway(owner, now - before);
    } else if now < before {
        pool.give_back(owner, before - now);
    }
}
