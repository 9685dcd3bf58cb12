//! Compresses one column of a chunk: as whole steps if every value is a whole number of steps, else as doubles.

use super::bytes::{ByteReader, CorruptData, put_bytes, put_f64, put_i64, put_u64};
use super::{Effort, MOST_ROWS};
use crate::quantum::Quantum;
use pco::wrapped::{FileCompressor, FileDecompressor};
use pco::{ChunkConfig, DeltaSpec, ModeSpec, PagingSpec};

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
    Constant { value: f64, gaps: Vec<Gaps> },
    Narrow(Quantum, PackedPages<'a>),
    Wide(Quantum, PackedPages<'a>),
    Doubles(PackedPages<'a>),
}

pub(super) struct PackedPages<'a> {
    gaps: Vec<Gaps>,
    meta: &'a [u8],
    pages: Vec<&'a [u8]>,
}

/// Lengths of runs of rows with and without a value, in turn. The first run has values.
pub(super) struct Gaps(Vec<usize>);

impl<'a> PackedColumn<'a> {
    /// Reads what [`encode`] wrote. `rows` has the number of rows of each page.
    pub(super) fn read(reader: &mut ByteReader<'a>, rows: &[usize]) -> Result<Self, CorruptData> {
        let tag = reader.u8()?;
        let gaps = |reader: &mut ByteReader<'a>| -> Result<Vec<Gaps>, CorruptData> {
            if tag & FULL != 0 {
                return Ok(rows.iter().map(|_| Gaps(Vec::new())).collect());
            }
            rows.iter().map(|&rows| Gaps::read(reader, rows)).collect()
        };
        let packed = |reader: &mut ByteReader<'a>| {
            let gaps = gaps(reader)?;
            let meta = reader.bytes()?;
            let mut before = 0i64;
            let lengths = rows.iter().map(|_| {
                before = before.checked_add(reader.i64()?).ok_or(CorruptData)?;
                usize::try_from(before).map_err(|_| CorruptData)
            });
            let lengths = lengths.collect::<Result<Vec<usize>, _>>()?;
            let pages = lengths.into_iter().map(|length| reader.take(length)).collect::<Result<_, _>>()?;
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
                let gaps = gaps.get(page).ok_or(CorruptData)?;
                gaps.spread(vec![*value; gaps.present(rows)], rows)
            }
            Self::Narrow(quantum, packed) => packed.page::<i32>(page, rows, |whole| quantum.value(f64::from(whole))),
            Self::Wide(quantum, packed) => packed.page::<i64>(page, rows, |whole| quantum.value(whole as f64)),
            Self::Doubles(packed) => packed.page::<f64>(page, rows, |value| value),
        }
    }
}

/// A page of a column, and how many of its rows are wanted: the first ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageRows {
    pub(crate) page: usize,
    pub(crate) rows: usize,
    pub(crate) wanted: usize,
}

impl PackedColumn<'_> {
    /// Unpacks the values of several pages, and appends them. It costs less than one page after the other.
    pub(super) fn append(&self, pages: &[PageRows], values: &mut Vec<f64>) -> Result<(), CorruptData> {
        match self {
            Self::Empty => values.resize(values.len() + pages.iter().map(|page| page.wanted).sum::<usize>(), f64::NAN),
            Self::Constant { value, gaps } => {
                for PageRows { page, rows, wanted } in pages {
                    let (gaps, until) = (gaps.get(*page).ok_or(CorruptData)?, values.len() + wanted);
                    gaps.append(std::iter::repeat_n(*value, gaps.present(*rows)), *rows, values)?;
                    values.truncate(until);
                }
            }
            Self::Narrow(quantum, packed) => {
                packed.append::<i32>(pages, values, |whole| quantum.value(f64::from(whole)))?;
            }
            Self::Wide(quantum, packed) => packed.append::<i64>(pages, values, |whole| quantum.value(whole as f64))?,
            Self::Doubles(packed) => packed.append::<f64>(pages, values, |value| value)?,
        }
        Ok(())
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
            let gaps = self.gaps.get(*page).ok_or(CorruptData)?;
            let packed = self.pages.get(*page).ok_or(CorruptData)?;
            let count = gaps.present(*rows);
            debug_assert!(count <= MOST_ROWS);
            present.clear();
            present.resize(count, T::default());
            if count > 0 {
                let mut page = chunk.page_decompressor(*packed, count).map_err(|_| CorruptData)?;
                page.read(&mut present).map_err(|_| CorruptData)?;
            }
            let until = values.len() + wanted;
            gaps.append(present.iter().map(|number| value(*number)), *rows, values)?;
            values.truncate(until);
        }
        Ok(())
    }

    fn page<T: pco::data_types::Number + Default>(
        &self,
        page: usize,
        rows: usize,
        value: impl Fn(T) -> f64,
    ) -> Result<Vec<f64>, CorruptData> {
        let gaps = self.gaps.get(page).ok_or(CorruptData)?;
        let packed = self.pages.get(page).ok_or(CorruptData)?;
        let mut present = vec![T::default(); gaps.present(rows)];
        if !present.is_empty() {
            decompress(self.meta, packed, &mut present).map_err(|_| CorruptData)?;
        }
        gaps.spread(present.into_iter().map(value).collect(), rows)
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

    /// Appends values, with NaN where rows have none.
    fn append(
        &self,
        mut present: impl Iterator<Item = f64>,
        rows: usize,
        values: &mut Vec<f64>,
    ) -> Result<(), CorruptData> {
        values.reserve(rows);
        for (turn, &run) in self.0.iter().enumerate() {
            if turn % 2 == 0 {
                let before = values.len();
                values.extend(present.by_ref().take(run));
                if values.len() - before < run {
                    return Err(CorruptData);
                }
            } else {
                values.resize(values.len() + run, f64::NAN);
            }
        }
        values.extend(present);
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

fn decompress<T: pco::data_types::Number>(
    meta: &[u8],
    page: &[u8],
    numbers: &mut [T],
) -> Result<(), pco::errors::PcoError> {
    debug_assert!(numbers.len() <= MOST_ROWS);
    let (file, meta) = FileDecompressor::new(meta)?;
    let (mut chunk, _) = file.chunk_decompressor::<T, _>(meta)?;
    chunk.page_decompressor(page, numbers.len())?.read(numbers)?;
    Ok(())
}
