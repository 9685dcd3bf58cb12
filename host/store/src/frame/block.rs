use super::Readings;
use crate::archive::{PageEntry, Segment};
use crate::cache::{BlockCache, BlockId};
use crate::cell::Cells;
use crate::codec::{Chunk, CorruptData, PagePart};
use crate::rows::{PartCells, RawRows, RowValues};
use crate::{Layout, Schema};
use std::sync::{Arc, OnceLock};

/// Compressed rows that no longer change.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) id: BlockId,
    /// How many rows the frame ever had before this block.
    pub(crate) start_row: u64,
    pub(crate) rows: usize,
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) generation: u32,
    pub(crate) place: BlockPlace,
    /// The cells, one per field. They are read when they are first needed.
    cells: OnceLock<Cells>,
    /// Whether this object is temporary. If so, its cells are in the cache instead.
    is_passing: bool,
}

/// The place of a block: its chunk, and the page in that chunk.
#[derive(Debug, Clone)]
pub(crate) struct BlockPlace {
    pub(crate) bytes: ChunkBytes,
    pub(crate) page: u16,
}

#[derive(Debug, Clone)]
pub(crate) enum ChunkBytes {
    Memory(Arc<[u8]>),
    Stored { file: Arc<Segment>, offset: u64, length: u32 },
}

/// The error of a block whose rows cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnreadableBlock {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Corrupt(#[from] CorruptData),
}

impl BlockPlace {
    /// Returns the file, the offset and the page, which identify a place in files; `None` if the block is in memory.
    pub(crate) fn stored(&self) -> Option<(u64, u64, u16)> {
        match &self.bytes {
            ChunkBytes::Memory(_) => None,
            ChunkBytes::Stored { file, offset, .. } => Some((file.number, *offset, self.page)),
        }
    }

    /// Returns the number of the block's file; `None` if the block is in memory.
    pub(crate) fn file(&self) -> Option<u64> {
        match &self.bytes {
            ChunkBytes::Memory(_) => None,
            ChunkBytes::Stored { file, .. } => Some(file.number),
        }
    }
}

impl Block {
    pub(crate) fn new(
        id: BlockId,
        start_row: u64,
        rows: usize,
        (first_ms, last_ms): (i64, i64),
        generation: u32,
        place: BlockPlace,
        cells: Option<Cells>,
    ) -> Self {
        let cells = cells.map(OnceLock::from).unwrap_or_default();
        Self { id, start_row, rows, first_ms, last_ms, generation, place, cells, is_passing: false }
    }

    /// Makes a temporary block, for the time of one access.
    pub(super) fn unpacked(id: BlockId, start_row: u64, page: PageEntry) -> Self {
        let PageEntry { generation, first_ms, last_ms, rows, place } = page;
        let block = Self::new(id, start_row, rows, (first_ms, last_ms), generation, place, None);
        Self { is_passing: true, ..block }
    }

    /// Returns the block's entry in a file's index.
    pub(crate) fn page(&self) -> PageEntry {
        let Self { generation, first_ms, last_ms, rows, .. } = *self;
        PageEntry { generation, first_ms, last_ms, rows, place: self.place.clone() }
    }

    /// Returns the same block at another place.
    pub(crate) fn moved(&self, place: BlockPlace) -> Self {
        let cells = self.cells.clone();
        Self { id: self.id, place, cells, ..*self }
    }

    /// Returns the chunk if it is in memory alone.
    pub(crate) fn unstored(&self) -> Option<&[u8]> {
        match &self.place.bytes {
            ChunkBytes::Memory(bytes) => Some(bytes),
            ChunkBytes::Stored { .. } => None,
        }
    }

    /// Returns the bytes of memory that rows and cells take.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let rows = match &self.place.bytes {
            ChunkBytes::Memory(bytes) => bytes.len(),
            ChunkBytes::Stored { .. } => 0,
        };
        let cells = self.cells.get().map_or(0, Cells::bytes);
        ((rows + std::mem::size_of::<Self>()) as u64, cells as u64)
    }

    /// Returns the bytes of memory that the block takes once its cells are read.
    pub(crate) fn bytes(&self, schema: &Schema) -> u64 {
        let (rows, _) = self.memory();
        rows + Cells::most_bytes(schema.fields().len())
    }

    pub(crate) fn end_row(&self) -> u64 {
        self.start_row + self.rows as u64
    }

    /// Unpacks the rows.
    pub(crate) fn unpack(&self, schema: &Schema) -> Result<RawRows, UnreadableBlock> {
        let mut rows = self.with_chunk(schema, &mut Vec::new(), |chunk| chunk.rows(self.place.page.into()))?;
        rows.truncate(self.rows);
        Ok(rows)
    }

    /// Returns whether the pages of two blocks are in one chunk.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        match (&self.place.bytes, &other.place.bytes) {
            (ChunkBytes::Memory(bytes), ChunkBytes::Memory(others)) => Arc::ptr_eq(bytes, others),
            (ChunkBytes::Stored { file, offset, .. }, ChunkBytes::Stored { file: other, offset: at, .. }) => {
                file.number == other.number && offset == at
            }
            _ => false,
        }
    }

    /// Unpacks some columns of this block and of others whose pages are beside its own, and appends them: see
    /// [`Chunk::append`].
    pub(crate) fn append(
        &self,
        parts: &[PagePart],
        schema: &Schema,
        columns: &[usize],
        readings: &mut Readings,
    ) -> Result<(), UnreadableBlock> {
        let Readings { at_ms, columns: readings, chunk: read } = readings;
        self.with_chunk(schema, read, |chunk| chunk.append(parts, columns, at_ms, readings))
    }

    pub(crate) fn values(&self, schema: &Schema, cache: &BlockCache) -> Result<Arc<RowValues>, UnreadableBlock> {
        cache.values(self.id, || Ok(self.unpack(schema)?.into_values(schema)))
    }

    pub(crate) fn parts(
        &self,
        schema: &Schema,
        layout: Layout,
        cache: &BlockCache,
    ) -> Result<Arc<PartCells>, UnreadableBlock> {
        // The rows are unpacked only for their parts and are not worth room in the cache.
        cache.parts(self.id, || Ok(self.unpack(schema)?.into_values(schema).parts(schema, layout)))
    }

    /// Passes the block's cells to `look`.
    pub(crate) fn with_cells(
        &self,
        schema: &Schema,
        layout: Layout,
        cache: &BlockCache,
        look: impl FnOnce(&Cells),
    ) -> Result<(), UnreadableBlock> {
        if self.is_passing {
            look(&*cache.cells(self.id, || self.read_cells(schema, layout))?);
        } else if let Some(cells) = self.cells.get() {
            look(cells);
        } else {
            let cells = self.read_cells(schema, layout)?;
            look(self.cells.get_or_init(|| cells));
        }
        Ok(())
    }

    fn read_cells(&self, schema: &Schema, layout: Layout) -> Result<Cells, UnreadableBlock> {
        self.with_chunk(schema, &mut Vec::new(), |chunk| {
            let page = usize::from(self.place.page);
            let head = chunk.pages.get(page).ok_or(CorruptData)?;
            if head.rows == self.rows {
                return Ok(Cells::of(&head.cells, schema, self.rows));
            }
            let mut rows = chunk.rows(page)?;
            rows.truncate(self.rows);
            let cells = rows.into_values(schema).parts(schema, layout).whole(schema);
            Ok(Cells::of(&cells, schema, self.rows))
        })
    }

    /// Passes the block's chunk to `look`. If it is in a file, it is read into `read`.
    fn with_chunk<T>(
        &self,
        schema: &Schema,
        read: &mut Vec<u8>,
        look: impl FnOnce(Chunk<'_>) -> Result<T, CorruptData>,
    ) -> Result<T, UnreadableBlock> {
        let bytes = match &self.place.bytes {
            ChunkBytes::Memory(bytes) => bytes,
            ChunkBytes::Stored { file, offset, length } => file.chunk(*offset, *length, read)?,
        };
        Ok(look(Chunk::read(schema, bytes)?)?)
    }
}
