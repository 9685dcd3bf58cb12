//! Writes cells in few bytes. Values are whole steps above the cell's smallest value where that is exact. The smallest
//! value is relative to that of the page before.

use super::bytes::{ByteReader, CorruptData, put_f64, put_i64, put_u64, unzigzag, zigzag};
use crate::cell::Cell;
use crate::quantum::Quantum;
use crate::{Aggregation, Schema};

const EMPTY: u8 = 0;
/// All values are equal.
const LEVEL: u8 = 1;
const STEPS: u8 = 2;
const DOUBLES: u8 = 3;
/// Added to one of the tags above if there are gaps; then the number of values follows.
const GAPS: u8 = 4;

/// The parts of a field's cells that are stored: the smallest and the largest value, and those that the aggregation
/// needs. The others read as NaN.
#[derive(Debug, Clone, Copy)]
pub(super) struct CellEncoding {
    quantum: Quantum,
    last: bool,
    sum: bool,
}

impl CellEncoding {
    pub(super) fn of(schema: &Schema, field: usize) -> Self {
        let aggregation = schema.fields().get(field).map(|field| field.aggregation);
        Self {
            quantum: schema.value_quantum(field),
            last: aggregation == Some(Aggregation::Last),
            sum: matches!(aggregation, Some(Aggregation::Mean | Aggregation::Sum)),
        }
    }
}

/// Writes a cell. `floor` is the smallest value of the page before, in steps; it becomes that of this page.
pub(super) fn put(out: &mut Vec<u8>, cell: &Cell, wanted: CellEncoding, rows: usize, floor: &mut i64) {
    if cell.count == 0 {
        out.push(EMPTY);
        return;
    }
    let steps = steps(cell, wanted.quantum);
    let tag = match steps {
        Some([_, 0, 0, 0]) => LEVEL,
        Some(_) => STEPS,
        None => DOUBLES,
    };
    let has_gaps = cell.count as usize != rows;
    out.push(if has_gaps { tag + GAPS } else { tag });
    if has_gaps {
        put_u64(out, u64::from(cell.count));
    }
    match steps {
        Some([min, more @ ..]) => {
            put_i64(out, min.wrapping_sub(*floor));
            *floor = min;
            let kept = more.into_iter().zip([true, wanted.last, wanted.sum]).filter(|(_, kept)| *kept && tag == STEPS);
            kept.for_each(|(more, _)| put_u64(out, more as u64));
        }
        None => {
            let kept = [(cell.min, true), (cell.max, true), (cell.last, wanted.last), (cell.sum, wanted.sum)];
            kept.into_iter().filter(|(_, kept)| *kept).for_each(|(value, _)| put_double(out, value));
        }
    }
}

/// Reads what [`put`] wrote.
pub(super) fn read(
    reader: &mut ByteReader<'_>,
    wanted: CellEncoding,
    rows: usize,
    floor: &mut i64,
) -> Result<Cell, CorruptData> {
    let quantum = wanted.quantum;
    let tag = reader.u8()?;
    if tag == EMPTY {
        return Ok(Cell::EMPTY);
    }
    let count = if tag & GAPS != 0 { reader.up_to(rows)? } else { rows };
    let count = u32::try_from(count).map_err(|_| CorruptData)?;
    let tag = tag & !GAPS;
    if tag == DOUBLES {
        let mut double = |kept: bool| if kept { read_double(reader) } else { Ok(f64::NAN) };
        let [min, max, last, sum] = [double(true)?, double(true)?, double(wanted.last)?, double(wanted.sum)?];
        return Ok(Cell { min, max, sum, last, count });
    }
    if tag != STEPS && tag != LEVEL {
        return Err(CorruptData);
    }
    let min = floor.wrapping_add(reader.i64()?);
    *floor = min;
    let mut more = |kept: bool| match (kept, tag) {
        (false, _) => Ok(None),
        (true, LEVEL) => Ok(Some(0)),
        (true, _) => i64::try_from(reader.u64()?).map_err(|_| CorruptData).map(Some),
    };
    let [max, last, excess] = [more(true)?, more(wanted.last)?, more(wanted.sum)?];
    let value = |from: Option<i64>, more: Option<i64>| match (from, more) {
        (_, None) => Ok(f64::NAN),
        (from, Some(more)) => {
            let steps = from.and_then(|from| from.checked_add(more)).ok_or(CorruptData)?;
            Ok(quantum.value(steps as f64))
        }
    };
    Ok(Cell {
        min: quantum.value(min as f64),
        max: value(Some(min), max)?,
        last: value(Some(min), last)?,
        sum: value(min.checked_mul(i64::from(count)), excess)?,
        count,
    })
}

/// The step for values without a declared step: many of them have few decimals. Other values are stored as doubles.
const THOUSANDTHS: Quantum = Quantum::Part(1000.0);

fn put_double(out: &mut Vec<u8>, value: f64) {
    match THOUSANDTHS.whole(value) {
        Some(whole) => put_u64(out, zigzag(whole) + 1),
        None => {
            put_u64(out, 0);
            put_f64(out, value);
        }
    }
}

fn read_double(reader: &mut ByteReader<'_>) -> Result<f64, CorruptData> {
    match reader.u64()? {
        0 => reader.f64(),
        whole => Ok(THOUSANDTHS.value(unzigzag(whole - 1) as f64)),
    }
}

/// Returns four numbers of steps: the smallest value; how far the largest and the last value are above it; how far the
/// sum is above count × the smallest value. Returns `None` unless all of them convert back to the same bits.
fn steps(cell: &Cell, quantum: Quantum) -> Option<[i64; 4]> {
    if quantum == Quantum::Exact {
        return None;
    }
    let [min, max, last, sum] = [cell.min, cell.max, cell.last, cell.sum].map(|value| quantum.whole(value));
    let (min, sum) = (min?, sum?);
    let excess = sum.checked_sub(min.checked_mul(i64::from(cell.count))?)?;
    let steps = [min, max?.checked_sub(min)?, last?.checked_sub(min)?, excess];
    steps.iter().skip(1).all(|&more| more >= 0).then_some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn read_cells_equal_written_cells_to_the_bit(
            pages in prop::collection::vec(
                prop::collection::vec(prop_oneof![5 => -1e6..1e6f64, 1 => Just(f64::NAN), 1 => any::<f64>()], 1..20),
                1..5,
            ),
            precision in prop::sample::select(vec![0.0, 0.01, 5.0]),
        ) {
            let quantum = Quantum::of(precision);
            let cells: Vec<Cell> = pages
                .iter()
                .map(|page| Cell::of(&page.iter().map(|value| quantum.keep(*value)).collect::<Vec<_>>(), quantum))
                .collect();
            let (mut out, mut floor) = (Vec::new(), 0);
            for (cell, page) in cells.iter().zip(&pages) {
                put(&mut out, cell, CellEncoding { quantum, last: true, sum: true }, page.len(), &mut floor);
            }
            let (mut reader, mut floor) = (ByteReader(&out), 0);
            for (cell, page) in cells.iter().zip(&pages) {
                let wanted = CellEncoding { quantum, last: true, sum: true };
                let read = read(&mut reader, wanted, page.len(), &mut floor).unwrap();
                let bits = |cell: &Cell| [cell.min, cell.max, cell.last, cell.sum].map(f64::to_bits);
                prop_assert_eq!((bits(&read), read.count), (bits(cell), cell.count));
            }
            prop_assert!(reader.is_empty());
        }
    }
}
