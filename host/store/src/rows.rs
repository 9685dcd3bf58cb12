use crate::cell::Cell;
use crate::rates::CounterTotal;
use crate::{Kind, Layout, Schema, ladder};

/// Uncompressed rows of one frame. A block is sealed from them and unpacked to them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct RawRows {
    /// The rows' times, ascending.
    pub(crate) at_ms: Vec<i64>,
    /// The readings, one vector per column of the schema. A counter's readings are its totals; NaN is a gap.
    pub(crate) columns: Vec<Vec<f64>>,
    /// Each counter's last total before these rows, by field. May be empty.
    pub(crate) before: Vec<Option<CounterTotal>>,
    /// How often the clock was set back before these rows. Times ascend within a generation; a later generation may
    /// cover the same time again.
    pub(crate) generation: u32,
}

/// Rows as queries see them: a counter's values are its rates.
#[derive(Debug, PartialEq)]
pub(crate) struct RowValues {
    pub(crate) at_ms: Vec<i64>,
    /// The values, one vector per field.
    pub(crate) columns: Vec<Vec<f64>>,
}

/// The cells of a block's parts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PartCells {
    /// The starts of the parts that have rows, aligned to multiples of [`Layout::part_ms`] since 1970.
    pub(crate) at_ms: Vec<i64>,
    /// The cells, by part, then by field.
    pub(crate) cells: Vec<Cell>,
}

impl RawRows {
    pub(crate) fn len(&self) -> usize {
        self.at_ms.len()
    }

    pub(crate) fn column(&self, index: usize) -> &[f64] {
        self.columns.get(index).map(Vec::as_slice).unwrap_or_default()
    }

    /// Keeps the first `rows` rows.
    pub(crate) fn truncate(&mut self, rows: usize) {
        self.at_ms.truncate(rows);
        self.columns.iter_mut().for_each(|column| column.truncate(rows));
    }

    /// Returns how long after its time each row was read, in milliseconds.
    fn delays(&self, schema: &Schema) -> &[f64] {
        self.columns.get(schema.fields().len()).map(Vec::as_slice).unwrap_or_default()
    }

    pub(crate) fn into_values(mut self, schema: &Schema) -> RowValues {
        let delays = self.columns.split_off(schema.fields().len().min(self.columns.len()));
        let delays = delays.first().map(Vec::as_slice).unwrap_or_default();
        for (index, column) in self.columns.iter_mut().enumerate() {
            schema.derive(index, self.before.get(index).copied().flatten(), &self.at_ms, delays, column);
        }
        RowValues { at_ms: self.at_ms, columns: self.columns }
    }

    /// Returns each counter's last total in these rows or before them; `None` if its read time is unknown.
    pub(crate) fn last_totals(&self, schema: &Schema) -> Vec<Option<CounterTotal>> {
        let delays = self.delays(schema);
        let columns = schema.fields().iter().zip(&self.columns).enumerate();
        let last = columns.map(|(index, (field, column))| match field.kind {
            Kind::Gauge => None,
            Kind::Counter { .. } => match column.iter().rposition(|total| !total.is_nan()) {
                Some(row) => CounterTotal::read(
                    *self.at_ms.get(row)?,
                    delays.get(row).copied().unwrap_or(0.0),
                    *column.get(row)?,
                ),
                None => self.before.get(index).copied().flatten(),
            },
        });
        last.collect()
    }
}

impl RowValues {
    pub(crate) fn column(&self, index: usize) -> &[f64] {
        self.columns.get(index).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the cells of the rows, part by part.
    pub(crate) fn parts(&self, schema: &Schema, layout: Layout) -> PartCells {
        let part = |at: &i64| ladder::floor(*at, layout.part_ms);
        let runs: Vec<&[i64]> = self.at_ms.chunk_by(|a, b| part(a) == part(b)).collect();
        let mut cells = Vec::with_capacity(runs.len() * schema.fields().len());
        let mut from = 0;
        for run in &runs {
            let to = from + run.len();
            for index in 0..schema.fields().len() {
                let values = self.column(index).get(from..to).unwrap_or_default();
                cells.push(Cell::of(values, schema.value_quantum(index)));
            }
            from = to;
        }
        PartCells { at_ms: runs.iter().filter_map(|run| run.first()).map(part).collect(), cells }
    }
}

impl PartCells {
    /// Returns the cells of all parts together, one per field.
    pub(crate) fn whole(&self, schema: &Schema) -> Box<[Cell]> {
        let fields = schema.fields().len();
        let mut whole = vec![Cell::EMPTY; fields];
        for cells in self.cells.chunks(fields.max(1)) {
            whole.iter_mut().zip(cells).for_each(|(sum, cell)| sum.add(cell));
        }
        whole.into()
    }
}
