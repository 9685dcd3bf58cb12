//! Rows as the log has them, for as long as they are in no chunk: each by itself, whole steps where they can be said so.

use crate::Schema;
use crate::codec::{Damaged, MOST_ROWS, Reader, put_before, put_f64, put_i64, put_u64, read_before, unzigzag, zigzag};
use crate::quantum::Quantum;
use crate::rows::Rows;

const GAP: u64 = 0;
const DOUBLE: u64 = 1;

/// Rows of a frame that follow each other. Times are from the record's own on, whole steps from those of the row before.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: u32,
    /// Whether a block begins with the first row: then `before` of the rows says what it follows.
    pub(crate) begins: bool,
    pub(crate) rows: Rows,
}

/// Appends rows, at least one, to a record of a time. `begins`: a block begins with the first.
pub(crate) fn put(out: &mut Vec<u8>, record_ms: i64, schema: &Schema, id: u32, rows: &Rows, begins: bool) {
    let Some(&first_ms) = rows.at_ms.first() else { return };
    put_u64(out, u64::from(id));
    put_u64(out, u64::from(rows.generation) << 1 | u64::from(begins));
    put_u64(out, rows.len() as u64);
    put_i64(out, first_ms.wrapping_sub(record_ms));
    if begins {
        let before = |field| rows.before.get(field).copied().flatten();
        (0..schema.fields().len()).for_each(|field| put_before(out, before(field), first_ms));
    }
    let mut before_ms = first_ms;
    let mut before = vec![0; rows.columns.len()];
    for (row, &at_ms) in rows.at_ms.iter().enumerate() {
        if row > 0 {
            put_u64(out, at_ms.saturating_sub(before_ms) as u64);
            before_ms = at_ms;
        }
        for ((field, column), before) in rows.columns.iter().enumerate().zip(&mut before) {
            put_reading(out, quantum(schema, field), column.get(row).copied().unwrap_or(f64::NAN), before);
        }
    }
}

pub(crate) fn read<'a>(
    reader: &mut Reader<'_>,
    record_ms: i64,
    schema_of: impl FnOnce(u32) -> Result<&'a Schema, Damaged>,
) -> Result<Entry, Damaged> {
    let id = u32::try_from(reader.u64()?).map_err(|_| Damaged)?;
    let schema = schema_of(id)?;
    let head = reader.u64()?;
    let generation = u32::try_from(head >> 1).map_err(|_| Damaged)?;
    let begins = head & 1 == 1;
    let count = reader.up_to(MOST_ROWS)?;
    let first_ms = record_ms.wrapping_add(reader.i64()?);
    let fields = schema.fields().len();
    let before = (0..if begins { fields } else { 0 }).map(|_| read_before(reader, first_ms));
    let mut rows = Rows { before: before.collect::<Result<_, _>>()?, generation, ..Rows::default() };
    rows.columns = vec![Vec::with_capacity(count); fields];
    let mut at_ms = first_ms;
    let mut steps_before = vec![0; fields];
    for row in 0..count {
        if row > 0 {
            let step = i64::try_from(reader.u64()?).map_err(|_| Damaged)?;
            at_ms = at_ms.checked_add(step).filter(|_| step > 0).ok_or(Damaged)?;
        }
        rows.at_ms.push(at_ms);
        for ((field, column), before) in rows.columns.iter_mut().enumerate().zip(&mut steps_before) {
            column.push(read_reading(reader, quantum(schema, field), before)?);
        }
    }
    Ok(Entry { id, begins, rows })
}

/// Readings without a declared step are whole numbers often enough.
fn quantum(schema: &Schema, field: usize) -> Quantum {
    match schema.quantum(field) {
        Quantum::Exact => Quantum::Part(1.0),
        declared => declared,
    }
}

fn put_reading(out: &mut Vec<u8>, quantum: Quantum, reading: f64, before: &mut i64) {
    if reading.is_nan() {
        put_u64(out, GAP);
    } else if let Some(whole) = quantum.whole(reading) {
        // Within ±2⁵³, both of them.
        put_u64(out, zigzag(whole - *before) + 2);
        *before = whole;
    } else {
        put_u64(out, DOUBLE);
        put_f64(out, reading);
    }
}

fn read_reading(reader: &mut Reader<'_>, quantum: Quantum, before: &mut i64) -> Result<f64, Damaged> {
    match reader.u64()? {
        GAP => Ok(f64::NAN),
        DOUBLE => reader.f64(),
        whole => {
            *before = before.wrapping_add(unzigzag(whole - 2));
            Ok(quantum.value(*before as f64))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Field;
    use proptest::prelude::*;

    fn schema() -> Schema {
        Schema::new("s", vec![Field::gauge("a"), Field { precision: 0.01, ..Field::counter("b", 1.0) }])
    }

    proptest! {
        #[test]
        fn rows_come_back_to_the_bit(
            readings in prop::collection::vec((1i64..100_000, any::<f64>(), -1e9..1e9f64), 1..50),
            begins: bool,
            generation: u32,
        ) {
            let mut rows = Rows { generation, columns: vec![vec![], vec![]], ..Rows::default() };
            rows.before = vec![None, Some((-5, 7.25))];
            let mut at = 0;
            for (gap, a, b) in readings {
                at += gap;
                rows.at_ms.push(at);
                rows.columns[0].push(Quantum::Exact.keep(a));
                rows.columns[1].push(Quantum::of(0.01).keep(b));
            }
            let mut out = Vec::new();
            put(&mut out, 1_000, &schema(), 77, &rows, begins);
            let mut reader = Reader(&out);
            let entry = read(&mut reader, 1_000, |_| Ok(Box::leak(Box::new(schema())))).unwrap();
            prop_assert!(reader.is_empty());
            prop_assert_eq!((entry.id, entry.begins, entry.rows.generation), (77, begins, generation));
            prop_assert_eq!(&entry.rows.at_ms, &rows.at_ms[..]);
            for (read, put) in entry.rows.columns.iter().zip(&rows.columns) {
                let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(read), bits(put));
            }
            if begins {
                prop_assert_eq!(entry.rows.before, rows.before);
            }
        }
    }
}
