use crate::archive::{Page, Segment};
use crate::cache::{BlockCache, BlockId};
use crate::cell::Cells;
use crate::codec::{Chunk, Damaged};
use crate::rows::{Parts, Rows, Values};
use crate::{Layout, Schema};
use std::sync::{Arc, OnceLock};

/// Rows that change no more, compressed.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) id: BlockId,
    /// How many rows the frame ever had before these.
    pub(crate) start_row: u64,
    pub(crate) rows: usize,
    pub(crate) first_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) generation: u32,
    pub(crate) place: Place,
    /// One per field; read when first asked for.
    cells: OnceLock<Cells>,
    /// Whether it is itself there for a moment only: then the cache has its cells.
    is_passing: bool,
}

/// Where a block's chunk is, and which page of it the block is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) bytes: Bytes,
    pub(crate) page: u16,
}

#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    Memory(Arc<[u8]>),
    Stored { file: Arc<Segment>, offset: u64, length: u32 },
}

/// Why a block's rows cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

impl Place {
    /// Returns the file, the offset and the page, which tell places in files apart; none in memory.
    pub(crate) fn stored(&self) -> Option<(u64, u64, u16)> {
        match &self.bytes {
            Bytes::Memory(_) => None,
            Bytes::Stored { file, offset, .. } => Some((file.number, *offset, self.page)),
        }
    }

    /// The number of the file it is in.
    pub(crate) fn file(&self) -> Option<u64> {
        match &self.bytes {
            Bytes::Memory(_) => None,
            Bytes::Stored { file, .. } => Some(file.number),
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
        place: Place,
        cells: Option<Cells>,
    ) -> Self {
        let cells = cells.map(OnceLock::from).unwrap_or_default();
        Self { id, start_row, rows, first_ms, last_ms, generation, place, cells, is_passing: false }
    }

    /// Makes a block that lives only while someone looks at it.
    pub(super) fn unpacked(id: BlockId, start_row: u64, page: Page) -> Self {
        let Page { generation, first_ms, last_ms, rows, place } = page;
        let block = Self::new(id, start_row, rows, (first_ms, last_ms), generation, place, None);
        Self { is_passing: true, ..block }
    }

    /// Returns the block as a file's index lists it.
    pub(crate) fn page(&self) -> Page {
        let Self { generation, first_ms, last_ms, rows, .. } = *self;
        Page { generation, first_ms, last_ms, rows, place: self.place.clone() }
    }

    /// The same rows elsewhere.
    pub(crate) fn moved(&self, place: Place) -> Self {
        let cells = self.cells.clone();
        Self { id: self.id, place, cells, ..*self }
    }

    /// The chunk, if that is in memory alone.
    pub(crate) fn unstored(&self) -> Option<&[u8]> {
        match &self.place.bytes {
            Bytes::Memory(bytes) => Some(bytes),
            Bytes::Stored { .. } => None,
        }
    }

    /// Bytes of rows and of cells.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let rows = match &self.place.bytes {
            Bytes::Memory(bytes) => bytes.len(),
            Bytes::Stored { .. } => 0,
        };
        let cells = self.cells.get().map_or(0, Cells::bytes);
        ((rows + std::mem::size_of::<Self>()) as u64, cells as u64)
    }

    /// Bytes it takes once its cells are read.
    pub(crate) fn bytes(&self, schema: &Schema) -> u64 {
        let (rows, _) = self.memory();
        rows + Cells::most_bytes(schema.fields().len())
    }

    pub(crate) fn end_row(&self) -> u64 {
        self.start_row + self.rows as u64
    }

    /// What is compressed, plain.
    pub(crate) fn unpack(&self, schema: &Schema) -> Result<Rows, Unreadable> {
        let mut rows = self.with_chunk(schema, |chunk| chunk.rows(self.place.page.into()))?;
        rows.truncate(self.rows);
        Ok(rows)
    }

    /// One column of what is compressed: its times and readings.
    pub(crate) fn column(&self, schema: &Schema, index: usize) -> Result<(Vec<i64>, Vec<f64>), Unreadable> {
        let (mut at_ms, mut readings) = self.with_chunk(schema, |chunk| chunk.column(self.place.page.into(), index))?;
        at_ms.truncate(self.rows);
        readings.truncate(self.rows);
        Ok((at_ms, readings))
    }

    pub(crate) fn values(&self, schema: &Schema, cache: &BlockCache) -> Result<Arc<Values>, Unreadable> {
        cache.values(self.id, || Ok(self.unpack(schema)?.into_values(schema)))
    }

    pub(crate) fn parts(&self, schema: &Schema, layout: Layout, cache: &BlockCache) -> Result<Arc<Parts>, Unreadable> {
        // Rows unpacked for their parts alone are not worth their room in the cache.
        cache.parts(self.id, || Ok(self.unpack(schema)?.into_values(schema).parts(schema, layout)))
    }

    /// Looks at what the block's rows add up to, one cell per field.
    pub(crate) fn with_cells(
        &self,
        schema: &Schema,
        layout: Layout,
        cache: &BlockCache,
        look: impl FnOnce(&Cells),
    ) -> Result<(), Unreadable> {
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

    fn read_cells(&self, schema: &Schema, layout: Layout) -> Result<Cells, Unreadable> {
        self.with_chunk(schema, |chunk| {
            let page = usize::from(self.place.page);
            let head = chunk.pages.get(page).ok_or(Damaged)?;
            if head.rows == self.rows {
                return Ok(Cells::of(&head.cells, schema, self.rows));
            }
            let mut rows = chunk.rows(page)?;
            rows.truncate(self.rows);
            let cells = rows.into_values(schema).parts(schema, layout).whole(schema);
            Ok(Cells::of(&cells, schema, self.rows))
        })
    }

    fn with_chunk<T>(
        &self,
        schema: &Schema,
        look: impl FnOnce(Chunk<'_>) -> Result<T, Damaged>,
    ) -> Result<T, Unreadable> {
        let stored;
        let bytes: &[u8] = match &self.place.bytes {
            Bytes::Memory(bytes) => bytes,
            Bytes::Stored { file, offset, length } => {
                stored = file.chunk(*offset, *length)?;
                &stored
            }
        };
        Ok(look(Chunk::read(schema, bytes)?)?)
    }
}
