use crate::cell::Cells;
use crate::rows::{PartCells, RowValues};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A cache of unpacked blocks, limited in bytes.
#[derive(Debug)]
pub(crate) struct BlockCache {
    cache: Cache<CacheKey, CacheEntry, ByBytes>,
    next_id: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// A block's id, valid for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BlockId(u64);

impl BlockId {
    pub(crate) fn after(self, nth: u64) -> Self {
        Self(self.0 + nth)
    }

    /// Returns whether the id is one of the `count` ids from `first` on.
    pub(crate) fn is_in(self, first: Self, count: u64) -> bool {
        (first.0..first.0 + count).contains(&self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum CacheKey {
    Values(BlockId),
    Parts(BlockId),
    Cells(BlockId),
}

#[derive(Debug, Clone)]
enum CacheEntry {
    Values(Arc<RowValues>),
    Parts(Arc<PartCells>),
    Cells(Arc<Cells>),
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<CacheKey, CacheEntry> for ByBytes {
    fn weight(&self, _: &CacheKey, entry: &CacheEntry) -> u64 {
        // 128 bytes are the cache's own cost of an entry.
        128 + match entry {
            CacheEntry::Values(values) => (values.at_ms.len() * 8 * (1 + values.columns.len())) as u64,
            CacheEntry::Parts(parts) => (parts.at_ms.len() * 8 + std::mem::size_of_val(&parts.cells[..])) as u64,
            CacheEntry::Cells(cells) => (size_of::<Cells>() + cells.bytes()) as u64,
        }
    }
}

impl BlockCache {
    pub(crate) fn new(bytes: u64) -> Self {
        // 32 KiB are a block of a frame with seven fields.
        let entries = usize::try_from(bytes / 32_768).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        Self {
            cache: Cache::with_weighter(entries, bytes, ByBytes),
            next_id: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    pub(crate) fn new_id(&self) -> BlockId {
        self.new_ids(1)
    }

    /// Reserves `count` consecutive ids and returns the first.
    pub(crate) fn new_ids(&self, count: u64) -> BlockId {
        BlockId(self.next_id.fetch_add(count, Ordering::Relaxed))
    }

    pub(crate) fn values<E>(
        &self,
        id: BlockId,
        unpack: impl FnOnce() -> Result<RowValues, E>,
    ) -> Result<Arc<RowValues>, E> {
        if let Some(CacheEntry::Values(values)) = self.get(CacheKey::Values(id)) {
            return Ok(values);
        }
        let values = Arc::new(unpack()?);
        self.cache.insert(CacheKey::Values(id), CacheEntry::Values(values.clone()));
        Ok(values)
    }

    pub(crate) fn parts<E>(
        &self,
        id: BlockId,
        unpack: impl FnOnce() -> Result<PartCells, E>,
    ) -> Result<Arc<PartCells>, E> {
        if let Some(CacheEntry::Parts(parts)) = self.get(CacheKey::Parts(id)) {
            return Ok(parts);
        }
        let parts = Arc::new(unpack()?);
        self.cache.insert(CacheKey::Parts(id), CacheEntry::Parts(parts.clone()));
        Ok(parts)
    }

    pub(crate) fn cells<E>(&self, id: BlockId, read: impl FnOnce() -> Result<Cells, E>) -> Result<Arc<Cells>, E> {
        if let Some(CacheEntry::Cells(cells)) = self.get(CacheKey::Cells(id)) {
            return Ok(cells);
        }
        let cells = Arc::new(read()?);
        self.cache.insert(CacheKey::Cells(id), CacheEntry::Cells(cells.clone()));
        Ok(cells)
    }

    fn get(&self, key: CacheKey) -> Option<CacheEntry> {
        let entry = self.cache.get(&key);
        let count = if entry.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        entry
    }

    /// Returns the number of hits, the number of misses, and the cached bytes.
    pub(crate) fn usage(&self) -> (u64, u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed), self.cache.weight())
    }
}
