//! Compresses one column of a chunk: as whole steps if every value is a whole number of steps, else as doubles.

use super::bytes::{ByteReader, CorruptData, put_bytes, put_f64, put_i64, put_u64};
use super::{Effort, MOST_ROWS};
use crate::quantum::Quantum;
use pco::wrapped::{ChunkDecompressor, FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec, ModeSpec, PagingSpec};
use std::ops::Range;

/// How many values pcodec unpacks at a time.
const BATCH: usize = 256;

/// Bytes behind a chunk that make reading its last pages cheaper.
pub(crate) const SLACK: usize = 16 << 10;

const EMPTY: u8 = 0;
const CONSTANT: u8 = 1;
const NARROW: u8 = 2;
const WIDE: u8 = 3;
const DOUBLES: u8 = 4;
/// Added to one of the tags above if no page has gaps; then gaps are not listed.
const FULL: u8 = 8;

/// The steps that are tried for readings without a declared precision, as parts of 1: many sources have few decimals.
const DECIMALS: [f64; 5] = [1.0, 10.0, 100.0, 1e3, 1e4];

/// Appends a column. A gap is NaN.
pub(super) fn encode(out: &mut Vec<u8>, declared: Quantum, pages: &[&[f64]], effort: Effort) {
    let present: Vec<f64> = pages.iter().copied().flatten().copied().filter(|value| !value.is_nan()).collect();
    let Some(&first) = present.first() else {
        out.push(EMPTY);
        return;
    };
    let is_full = present.len() == pages.iter().map(|page| page.len()).sum::<usize>();
    let full = if is_full { FULL } else { 0 };
    let gaps = |out: &mut Vec<u8>| {
        if !is_full {
            pages.iter().for_each(|page| put_gaps(out, page));
        }
    };
    if present.iter().all(|value| value.to_bits() == first.to_bits()) {
        out.push(CONSTANT | full);
        put_f64(out, first);
        gaps(out);
        return;
    }
    let counts: Vec<usize> = pages.iter().map(|page| page.iter().filter(|value| !value.is_nan()).count()).collect();
    let body = match wholes(&present, declared) {
        Some((quantum, wholes)) => {
            let narrow: Option<Vec<i32>> = wholes.iter().map(|&whole| i32::try_from(whole).ok()).collect();
            out.push(if narrow.is_some() { NARROW } else { WIDE } | full);
            put_quantum(out, quantum);
            match narrow {
                Some(narrow) => compress(&narrow, &counts, whole_numbers(&wholes, effort)),
                None => compress(&wholes, &counts, whole_numbers(&wholes, effort)),
            }
        }
        None => {
            out.push(DOUBLES | full);
            compress(&present, &counts, ChunkConfig::default().with_compression_level(effort.level() + 4))
        }
    };
    gaps(out);
    put_bytes(out, &body.meta);
    let mut before = 0;
    for page in &body.pages {
        put_i64(out, page.len() as i64 - before);
        before = page.len() as i64;
    }
    body.pages.iter().for_each(|page| out.extend_from_slice(page));
}

/// A column whose head is read, so that its pages can be unpacked.
pub(super) enum PackedColumn<'a> {
    Empty,
    Constant { value: f64, gaps: ColumnGaps },
    Narrow(Quantum, PackedPages<'a>),
    Wide(Quantum, PackedPages<'a>),
    Doubles(PackedPages<'a>),
}

pub(super) struct PackedPages<'a> {
    gaps: ColumnGaps,
    meta: &'a [u8],
    pages: Vec<PackedPage<'a>>,
}

/// A page of a column.
#[derive(Clone, Copy)]
struct PackedPage<'a> {
    /// The page and what follows it in the chunk: pcodec copies what it reads unless [`SLACK`] bytes are left.
    from: &'a [u8],
    length: usize,
}

/// The gaps of each page of a column; none if no page has any.
pub(super) struct ColumnGaps(Option<Vec<Gaps>>);

/// Lengths of runs of rows with and without a value, in turn. The first run has values.
pub(super) struct Gaps(Vec<usize>);

impl<'a> PackedColumn<'a> {
    /// Reads what [`encode`] wrote. `rows` has the number of rows of each page.
    pub(super) fn read(reader: &mut ByteReader<'a>, rows: &[usize]) -> Result<Self, CorruptData> {
        let tag = reader.u8()?;
        let gaps = |reader: &mut ByteReader<'a>| -> Result<ColumnGaps, CorruptData> {
            if tag & FULL != 0 {
                return Ok(ColumnGaps(None));
            }
            let gaps = rows.iter().map(|&rows| Gaps::read(reader, rows)).collect::<Result<_, _>>()?;
            Ok(ColumnGaps(Some(gaps)))
        };
        let packed = |reader: &mut ByteReader<'a>| {
            let gaps = gaps(reader)?;
            let meta = reader.bytes()?;
            let mut before = 0i64;
            let mut pages = Vec::with_capacity(rows.len());
            for _ in rows {
                before = before.checked_add(reader.i64()?).ok_or(CorruptData)?;
                let length = usize::try_from(before).map_err(|_| CorruptData)?;
                pages.push(PackedPage { from: &[], length });
            }
            for page in &mut pages {
                page.from = reader.0;
                reader.take(page.length)?;
            }
            Ok(PackedPages { gaps, meta, pages })
        };
        match tag & !FULL {
            EMPTY => Ok(Self::Empty),
            CONSTANT => Ok(Self::Constant { value: finite(reader.f64()?)?, gaps: gaps(reader)? }),
            NARROW => Ok(Self::Narrow(quantum(reader)?, packed(reader)?)),
            WIDE => Ok(Self::Wide(quantum(reader)?, packed(reader)?)),
            DOUBLES => Ok(Self::Doubles(packed(reader)?)),
            _ => Err(CorruptData),
        }
    }

    /// Unpacks the values of one page.
    pub(super) fn page(&self, page: usize, rows: usize) -> Result<Vec<f64>, CorruptData> {
        match self {
            Self::Empty => Ok(vec![f64::NAN; rows]),
            Self::Constant { value, gaps } => {
                let gaps = gaps.of(page)?;
                gaps.spread(vec![*value; gaps.present(rows)], rows)
            }
            Self::Narrow(quantum, packed) => packed.page::<i32>(page, rows, |whole| quantum.value(f64::from(whole))),
            Self::Wide(quantum, packed) => packed.page::<i64>(page, rows, |whole| quantum.value(whole as f64)),
            Self::Doubles(packed) => packed.page::<f64>(page, rows, |value| value),
        }
    }
}

/// A page of a column, and which of its rows are wanted.
#[derive(Debug, Clone)]
pub(crate) struct PageRows {
    pub(crate) page: usize,
    pub(crate) rows: usize,
    pub(crate) wanted: Range<usize>,
}

impl PackedColumn<'_> {
    /// Unpacks the values of several pages, and appends them. It costs less than one page after the other.
    pub(super) fn append(&self, pages: &[PageRows], values: &mut Vec<f64>) -> Result<(), CorruptData> {
        match self {
            Self::Empty => {
                let wanted: usize = pages.iter().map(|page| page.wanted.len()).sum();
                values.resize(values.len() + wanted, f64::NAN);
                Ok(())
            }
            Self::Constant { value, gaps } => pages.iter().try_for_each(|PageRows { page, rows, wanted }| {
                let gaps = gaps.of(*page)?;
                gaps.append(&vec![(); gaps.present(*rows)], |()| *value, wanted, values)
            }),
            // A loop of its own for each kind of step: what is the same for all values is not asked for each.
            Self::Narrow(Quantum::Exact | Quantum::Part(1.0), packed) => packed.append::<i32>(pages, values, f64::from),
            Self::Narrow(Quantum::Part(parts), packed) => {
                packed.append::<i32>(pages, values, |whole| f64::from(whole) / parts)
            }
            Self::Narrow(quantum, packed) => {
                packed.append::<i32>(pages, values, |whole| quantum.value(f64::from(whole)))
            }
            Self::Wide(Quantum::Exact | Quantum::Part(1.0), packed) => {
                packed.append::<i64>(pages, values, |whole| whole as f64)
            }
            Self::Wide(quantum, packed) => packed.append::<i64>(pages, values, |whole| quantum.value(whole as f64)),
            Self::Doubles(packed) => packed.append::<f64>(pages, values, |value| value),
        }
    }
}

impl PackedPages<'_> {
    fn append<T: pco::data_types::Number + Default>(
        &self,
        pages: &[PageRows],
        values: &mut Vec<f64>,
        value: impl Fn(T) -> f64,
    ) -> Result<(), CorruptData> {
        let (file, meta) = FileDecompressor::new(self.meta).map_err(|_| CorruptData)?;
        let (mut chunk, _) = file.chunk_decompressor::<T, _>(meta).map_err(|_| CorruptData)?;
        let mut present: Vec<T> = Vec::new();
        for PageRows { page, rows, wanted } in pages {
            let gaps = self.gaps.of(*page)?;
            let packed = self.pages.get(*page).ok_or(CorruptData)?;
            let count = gaps.present(*rows);
            present.clear();
            // What is behind the wanted rows need not be unpacked.
            let needed = if gaps.0.is_empty() { wanted.end.next_multiple_of(BATCH) } else { count };
            present.resize(count.min(needed), T::default());
            packed.unpack(&mut chunk, count, &mut present)?;
            gaps.append(&present, &value, wanted, values)?;
        }
        Ok(())
    }

    fn page<T: pco::data_types::Number + Default>(
        &self,
        page: usize,
        rows: usize,
        value: impl Fn(T) -> f64,
    ) -> Result<Vec<f64>, CorruptData> {
        let gaps = self.gaps.of(page)?;
        let packed = self.pages.get(page).ok_or(CorruptData)?;
        let mut present = vec![T::default(); gaps.present(rows)];
        let (file, meta) = FileDecompressor::new(self.meta).map_err(|_| CorruptData)?;
        let (mut chunk, _) = file.chunk_decompressor::<T, _>(meta).map_err(|_| CorruptData)?;
        packed.unpack(&mut chunk, present.len(), &mut present)?;
        gaps.spread(present.into_iter().map(value).collect(), rows)
    }
}

impl PackedPage<'_> {
    /// Unpacks the first of `count` values: as many as there is room for, whole batches or all.
    fn unpack<T: pco::data_types::Number>(
        &self,
        chunk: &mut ChunkDecompressor<T>,
        count: usize,
        values: &mut [T],
    ) -> Result<(), CorruptData> {
        debug_assert!(count <= MOST_ROWS);
        if values.is_empty() {
            return Ok(());
        }
        let mut page = chunk.page_decompressor(self.from, count).map_err(|_| CorruptData)?;
        page.read(values).map_err(|_| CorruptData)?;
        let length = self.from.len().checked_sub(page.into_src().len()).ok_or(CorruptData)?;
        // A page that is read to its end has the length that is noted for it.
        let is_whole = values.len() == count;
        if length == self.length || (!is_whole && length < self.length) { Ok(()) } else { Err(CorruptData) }
    }
}

impl ColumnGaps {
    fn of(&self, page: usize) -> Result<&Gaps, CorruptData> {
        static NONE: Gaps = Gaps(Vec::new());
        match &self.0 {
            Some(gaps) => gaps.get(page).ok_or(CorruptData),
            None => Ok(&NONE),
        }
    }
}

// === impl Gaps ===

impl Gaps {
    fn read(reader: &mut ByteReader<'_>, rows: usize) -> Result<Self, CorruptData> {
        let runs = reader.up_to(rows.saturating_add(1))?;
        let mut left = rows;
        let runs = (0..runs).map(|_| {
            let run = reader.up_to(left)?;
            left -= run;
            Ok(run)
        });
        runs.collect::<Result<_, _>>().map(Self)
    }

    /// Returns how many of the rows have a value. All rows after the last run have one.
    fn present(&self, rows: usize) -> usize {
        rows - self.0.iter().skip(1).step_by(2).sum::<usize>()
    }

    /// Appends the values of the wanted rows, with NaN where rows have none. `present` has what the page's other rows
    /// have.
    fn append<T: Copy>(
        &self,
        present: &[T],
        value: impl Fn(T) -> f64,
        wanted: &Range<usize>,
        values: &mut Vec<f64>,
    ) -> Result<(), CorruptData> {
        let (mut row, mut rest) = (0, present);
        let within = |row: usize, run: usize| row.max(wanted.start)..(row + run).min(wanted.end);
        let append = |values: &mut Vec<f64>, row: usize, present: &[T]| {
            let rows = within(row, present.len());
            let present = present.get(rows.start - row..rows.end.saturating_sub(row)).unwrap_or_default();
            values.extend(present.iter().map(|number| value(*number)));
        };
        for (turn, &run) in self.0.iter().enumerate() {
            if turn % 2 == 0 {
                let (now, later) = rest.split_at_checked(run).ok_or(CorruptData)?;
                append(values, row, now);
                rest = later;
            } else {
                values.resize(values.len() + within(row, run).len(), f64::NAN);
            }
            row += run;
        }
        append(values, row, rest);
        Ok(())
    }

    fn spread(&self, present: Vec<f64>, rows: usize) -> Result<Vec<f64>, CorruptData> {
        if self.0.is_empty() {
            return Ok(present);
        }
        let mut spread = Vec::with_capacity(rows);
        let mut rest = &present[..];
        for (turn, &run) in self.0.iter().enumerate() {
            if turn % 2 == 0 {
                let (now, later) = rest.split_at_checked(run).ok_or(CorruptData)?;
                spread.extend_from_slice(now);
                rest = later;
            } else {
                spread.resize(spread.len() + run, f64::NAN);
            }
        }
        spread.extend_from_slice(rest);
        Ok(spread)
    }
}

fn put_gaps(out: &mut Vec<u8>, page: &[f64]) {
    let mut runs: Vec<u64> = Vec::new();
    let mut gap = true;
    for value in page {
        if value.is_nan() == gap {
            if let Some(run) = runs.last_mut() {
                *run += 1;
                continue;
            }
            // The first run has values by definition; it may be empty.
            runs.push(0);
        }
        gap = value.is_nan();
        runs.push(1);
    }
    // A last run of values is implied.
    if runs.len() % 2 == 1 {
        runs.pop();
    }
    put_u64(out, runs.len() as u64);
    runs.into_iter().for_each(|run| put_u64(out, run));
}

// === whole numbers ===

/// Returns the values as whole steps, if all of them convert back to the same bits.
fn wholes(present: &[f64], declared: Quantum) -> Option<(Quantum, Vec<i64>)> {
    let all = |quantum: Quantum| -> Option<(Quantum, Vec<i64>)> {
        Some((quantum, present.iter().map(|&value| quantum.whole(value)).collect::<Option<_>>()?))
    };
    // Use the coarsest step that works: a field with a precision of 0.01 may have only whole numbers.
    let finest = match declared {
        Quantum::Exact => f64::INFINITY,
        Quantum::Part(parts) => parts,
        Quantum::Multiple(_) => 0.0,
    };
    let decimals = DECIMALS.into_iter().filter(|&parts| parts < finest).map(Quantum::Part);
    decimals.chain((declared != Quantum::Exact).then_some(declared)).find_map(all)
}

fn put_quantum(out: &mut Vec<u8>, quantum: Quantum) {
    let (tag, step) = match quantum {
        Quantum::Part(parts) if parts < 256.0 && parts.fract() == 0.0 => {
            out.extend_from_slice(&[0, parts as u8]);
            return;
        }
        Quantum::Part(parts) => (1, parts),
        Quantum::Multiple(step) => (2, step),
        Quantum::Exact => (1, 1.0),
    };
    out.push(tag);
    put_f64(out, step);
}

fn quantum(reader: &mut ByteReader<'_>) -> Result<Quantum, CorruptData> {
    match reader.u8()? {
        0 => Ok(Quantum::Part(f64::from(reader.u8()?))),
        1 => Ok(Quantum::Part(finite(reader.f64()?)?)),
        2 => Ok(Quantum::Multiple(finite(reader.f64()?)?)),
        _ => Err(CorruptData),
    }
}

fn finite(value: f64) -> Result<f64, CorruptData> {
    if value.is_finite() { Ok(value) } else { Err(CorruptData) }
}

// === pcodec ===

struct CompressedColumn {
    meta: Vec<u8>,
    pages: Vec<Vec<u8>>,
}

impl Effort {
    fn level(self) -> usize {
        match self {
            Self::Fast => 4,
            // Higher levels do not make blocks of this size smaller.
            Self::Dense => 6,
        }
    }
}

/// Chooses the order of deltas by the bits that they would take. That gives smaller results than pcodec's own search
/// and is three times as fast: the search takes samples, and blocks of this size are too small to sample.
fn whole_numbers(wholes: &[i64], effort: Effort) -> ChunkConfig {
    let bits = |delta: i64| u64::from(64 - delta.unsigned_abs().leading_zeros()) + u64::from(delta != 0);
    let lowest = wholes.iter().copied().min().unwrap_or_default();
    let (mut before, mut step) = (wholes.first().copied().unwrap_or_default(), 0i64);
    let mut cost = [0u64; 3];
    for &whole in wholes {
        // Values are within ±2⁵³, so second differences do not overflow.
        let delta = whole - before;
        let orders = [whole - lowest, delta, delta - step];
        cost.iter_mut().zip(orders).for_each(|(cost, delta)| *cost += bits(delta));
        (before, step) = (whole, delta);
    }
    let cheapest = cost.iter().enumerate().min_by_key(|(_, cost)| **cost);
    let order = cheapest.map_or(1, |(order, _)| order);
    ChunkConfig::default()
        .with_compression_level(effort.level())
        .with_mode_spec(ModeSpec::Classic)
        .with_delta_spec(DeltaSpec::TryConsecutive(order))
}

/// Compresses numbers into one page per count. Empty pages have no bytes.
fn compress<T: pco::data_types::Number>(numbers: &[T], counts: &[usize], config: ChunkConfig) -> CompressedColumn {
    let filled = counts.iter().copied().filter(|&count| count > 0).collect();
    let config = config.with_paging_spec(PagingSpec::Exact(filled));
    let packed = || {
        let mut meta = Vec::new();
        let files = FileCompressor::default();
        files.write_header(&mut meta)?;
        let mut chunk = files.chunk_compressor(numbers, &config)?;
        chunk.write_meta(&mut meta)?;
        let mut next = 0..;
        let pages = counts.iter().map(|&count| {
            let mut page = Vec::new();
            if count > 0 {
                chunk.write_page(next.next().unwrap_or_default(), &mut page)?;
            }
            Ok::<_, pco::errors::PcoError>(page)
        });
        Ok::<_, pco::errors::PcoError>(CompressedColumn { pages: pages.collect::<Result<_, _>>()?, meta })
    };
    // pcodec fails only for unknown settings or if the writer fails; a Vec does not fail.
    packed().unwrap_or_else(|error| unreachable!("pcodec rejected its own settings: {error}"))
}
