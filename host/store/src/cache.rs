use crate::rows::{Parts, Values};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Unpacked blocks, as many as fit in a number of bytes.
#[derive(Debug)]
pub(crate) struct BlockCache {
    cache: Cache<Key, Entry, ByBytes>,
    next_id: AtomicU64,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Names a block as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BlockId(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Values(BlockId),
    Parts(BlockId),
}

#[derive(Debug, Clone)]
enum Entry {
    Values(Arc<Values>),
    Parts(Arc<Parts>),
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<Key, Entry> for ByBytes {
    fn weight(&self, _: &Key, entry: &Entry) -> u64 {
        // With what the cache itself needs for an entry.
        128 + match entry {
            Entry::Values(values) => (values.at_ms.len() * 8 * (1 + values.columns.len())) as u64,
            Entry::Parts(parts) => (parts.at_ms.len() * 8 + std::mem::size_of_val(&parts.cells[..])) as u64,
        }
    }
}

impl BlockCache {
    pub(crate) fn new(bytes: u64) -> Self {
        // A block of a frame with seven fields.
        let entries = usize::try_from(bytes / 32_768).unwrap_or(usize::MAX).clamp(16, 1 << 20);
        Self {
            cache: Cache::with_weighter(entries, bytes, ByBytes),
            next_id: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    pub(crate) fn new_id(&self) -> BlockId {
        BlockId(self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn values<E>(&self, id: BlockId, unpack: impl FnOnce() -> Result<Values, E>) -> Result<Arc<Values>, E> {
        if let Some(Entry::Values(values)) = self.get(Key::Values(id)) {
            return Ok(values);
        }
        let values = Arc::new(unpack()?);
        self.cache.insert(Key::Values(id), Entry::Values(values.clone()));
        Ok(values)
    }

    pub(crate) fn parts<E>(&self, id: BlockId, unpack: impl FnOnce() -> Result<Parts, E>) -> Result<Arc<Parts>, E> {
        if let Some(Entry::Parts(parts)) = self.get(Key::Parts(id)) {
            return Ok(parts);
        }
        let parts = Arc::new(unpack()?);
        self.cache.insert(Key::Parts(id), Entry::Parts(parts.clone()));
        Ok(parts)
    }

    fn get(&self, key: Key) -> Option<Entry> {
        let entry = self.cache.get(&key);
        let count = if entry.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        entry
    }

    /// How often a block was found, and how often not; how many bytes there are.
    pub(crate) fn usage(&self) -> (u64, u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed), self.cache.weight())
    }
}
