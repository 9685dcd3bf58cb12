//! The form of rows in the log, where they stay until they are in a chunk. Rows are stored one by one, readings as
//! whole steps where that is exact.

use crate::Schema;
use crate::codec::{
    ByteReader, CorruptData, MOST_ROWS, put_before, put_bytes, put_f64, put_i64, put_u64, read_before, unzigzag, zigzag,
};
use crate::quantum::Quantum;
use crate::rates::CounterTotal;
use crate::rows::RawRows;

const GAP: u64 = 0;
const DOUBLE: u64 = 1;

/// The rows of one frame in a record: the frame's id, the number of rows, and the rows as bytes, so that they can be
/// skipped.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogEntry<'a> {
    pub(crate) id: u32,
    pub(crate) rows: usize,
    bytes: &'a [u8],
}

/// Reads consecutive rows of a frame one by one. Times are relative to the record's time, whole steps to those of the
/// row before.
pub(crate) struct LogRowReader<'r, 'a> {
    pub(crate) generation: u32,
    /// The counters' last totals before the first row, if a block begins with that row.
    pub(crate) before: Option<Vec<Option<CounterTotal>>>,
    /// The number of rows that are left.
    left: usize,
    next_ms: i64,
    schema: &'r Schema,
    reader: ByteReader<'a>,
    row: &'r mut LogRow,
}

/// A row. The buffer is reused for the following rows and entries.
#[derive(Debug, Default)]
pub(crate) struct LogRow {
    pub(crate) at_ms: i64,
    /// The readings, one per column.
    pub(crate) readings: Vec<f64>,
    steps: Vec<i64>,
}

/// Appends rows to a record with the time `record_ms`; does nothing if there are none. `begins` tells that a block
/// begins with the first row.
pub(crate) fn put(out: &mut Vec<u8>, record_ms: i64, schema: &Schema, id: u32, rows: &RawRows, begins: bool) {
    let Some(&first_ms) = rows.at_ms.first() else { return };
    put_u64(out, u64::from(id));
    put_u64(out, rows.len() as u64);
    let mut bytes = Vec::with_capacity(rows.len() * (2 + 3 * rows.columns.len()));
    put_rows(&mut bytes, first_ms.wrapping_sub(record_ms), schema, rows, begins);
    put_bytes(out, &bytes);
}

fn put_rows(out: &mut Vec<u8>, ahead_ms: i64, schema: &Schema, rows: &RawRows, begins: bool) {
    put_u64(out, u64::from(rows.generation) << 1 | u64::from(begins));
    put_i64(out, ahead_ms);
    if begins {
        let first_ms = rows.at_ms.first().copied().unwrap_or_default();
        let before = |field| rows.before.get(field).copied().flatten();
        (0..schema.fields().len()).for_each(|field| put_before(out, before(field), first_ms, schema.has_delay()));
    }
    let mut before = vec![0; rows.columns.len()];
    for (row, &at_ms) in rows.at_ms.iter().enumerate() {
        for ((field, column), before) in rows.columns.iter().enumerate().zip(&mut before) {
            put_reading(out, quantum(schema, field), column.get(row).copied().unwrap_or(f64::NAN), before);
        }
        if let Some(next_ms) = rows.at_ms.get(row + 1) {
            put_u64(out, next_ms.saturating_sub(at_ms) as u64);
        }
    }
}

impl<'a> LogEntry<'a> {
    pub(crate) fn read(reader: &mut ByteReader<'a>) -> Result<Self, CorruptData> {
        let id = u32::try_from(reader.u64()?).map_err(|_| CorruptData)?;
        Ok(Self { id, rows: reader.up_to(MOST_ROWS)?, bytes: reader.bytes()? })
    }

    /// Prepares to read the rows. `record_ms` is the time of the record.
    pub(crate) fn rows<'r>(
        self,
        record_ms: i64,
        schema: &'r Schema,
        row: &'r mut LogRow,
    ) -> Result<LogRowReader<'r, 'a>, CorruptData> {
        let fields = schema.fields().len();
        let mut reader = ByteReader(self.bytes);
        let head = reader.u64()?;
        let generation = u32::try_from(head >> 1).map_err(|_| CorruptData)?;
        let next_ms = record_ms.wrapping_add(reader.i64()?);
        let before = match head & 1 {
            0 => None,
            _ => {
                let read = |_| read_before(&mut reader, next_ms, schema.has_delay());
                Some((0..fields).map(read).collect::<Result<_, _>>()?)
            }
        };
        row.readings.clear();
        row.readings.resize(schema.columns(), f64::NAN);
        row.steps.clear();
        row.steps.resize(schema.columns(), 0);
        Ok(LogRowReader { generation, before, left: self.rows, next_ms, schema, reader, row })
    }
}

impl LogRowReader<'_, '_> {
    /// Reads the next row; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<&LogRow>, CorruptData> {
        let Some(left) = self.left.checked_sub(1) else {
            return if self.reader.is_empty() { Ok(None) } else { Err(CorruptData) };
        };
        self.left = left;
        self.row.at_ms = self.next_ms;
        let row = self.row.readings.iter_mut().zip(&mut self.row.steps);
        for (field, (reading, before)) in row.enumerate() {
            *reading = read_reading(&mut self.reader, quantum(self.schema, field), before)?;
        }
        if left > 0 {
            let step = i64::try_from(self.reader.u64()?).map_err(|_| CorruptData)?;
            self.next_ms = self.next_ms.checked_add(step).filter(|_| step > 0).ok_or(CorruptData)?;
        }
        Ok(Some(self.row))
    }
}

/// Returns the step of a field. Readings without a declared step are often whole numbers.
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
        // Both are within ±2⁵³, so the difference does not overflow.
        put_u64(out, zigzag(whole - *before) + 2);
        *before = whole;
    } else {
        put_u64(out, DOUBLE);
        put_f64(out, reading);
    }
}

fn read_reading(reader: &mut ByteReader<'_>, quantum: Quantum, before: &mut i64) -> Result<f64, CorruptData> {
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
    use crate::StoredField;
    use proptest::prelude::*;

    fn schema() -> Schema {
        Schema::new(
            "s",
            vec![StoredField::gauge("a"), StoredField { precision: 0.01, ..StoredField::counter("b", 1.0) }],
        )
    }

    proptest! {
        #[test]
        fn rows_read_from_the_log_equal_written_rows_to_the_bit(
            readings in prop::collection::vec((1i64..100_000, any::<f64>(), -1e9..1e9f64), 1..50),
            begins: bool,
            generation: u32,
        ) {
            let mut rows = RawRows { generation, columns: vec![vec![]; 3], ..RawRows::default() };
            rows.before = vec![None, Some(CounterTotal { read_ms: -5.3, total: 7.25 })];
            let mut at = 0;
            for (gap, a, b) in readings {
                at += gap;
                rows.at_ms.push(at);
                rows.columns[0].push(Quantum::Exact.keep(a));
                rows.columns[1].push(Quantum::of(0.01).keep(b));
                rows.columns[2].push(Quantum::of(0.1).keep(b / 7.0));
            }
            let mut out = Vec::new();
            put(&mut out, 1_000, &schema(), 77, &rows, begins);
            let mut reader = ByteReader(&out);
            let (schema, mut row) = (schema(), LogRow::default());
            let entry = LogEntry::read(&mut reader).unwrap();
            prop_assert_eq!((entry.id, entry.rows), (77, rows.len()));
            let mut entry = entry.rows(1_000, &schema, &mut row).unwrap();
            prop_assert_eq!(entry.generation, generation);
            prop_assert_eq!(&entry.before, &begins.then(|| rows.before.clone()));
            for (nth, &at_ms) in rows.at_ms.iter().enumerate() {
                let read = entry.next().unwrap().unwrap();
                let bits: Vec<u64> = read.readings.iter().map(|value| value.to_bits()).collect();
                let put: Vec<u64> = rows.columns.iter().map(|column| column[nth].to_bits()).collect();
                prop_assert_eq!((read.at_ms, bits), (at_ms, put));
            }
            prop_assert!(entry.next().unwrap().is_none());
            prop_assert!(reader.is_empty());
        }
    }
}
