//! Merges the points of an instance's frames.

use crate::cell::Cell;
use crate::{FieldPoints, Frame, Points};

/// Makes one frame's points of a field from their cells.
pub(crate) fn column<'a>(
    frame: &Frame,
    index: usize,
    cells: impl ExactSizeIterator<Item = &'a Cell>,
) -> Option<FieldPoints> {
    let field = frame.schema().fields().get(index)?;
    let fresh = || Vec::with_capacity(cells.len());
    let mut column = FieldPoints { name: field.name.clone(), values: fresh(), min: fresh(), max: fresh() };
    for cell in cells {
        column.values.push(cell.value(field.aggregation));
        column.min.push(cell.min);
        column.max.push(cell.max);
    }
    frame.schema().round(index, frame.interval_ms(), &mut column.values);
    Some(column)
}

/// Fills the gaps of a column with the points of a later frame.
pub(crate) fn fill(column: &mut FieldPoints, all_ms: &[i64], own_ms: &[i64], own: &FieldPoints) {
    let own = own.values.iter().zip(&own.min).zip(&own.max);
    let mut own = own_ms.iter().zip(own).peekable();
    let points = column.values.iter_mut().zip(&mut column.min).zip(&mut column.max);
    for (at, ((value, min), max)) in all_ms.iter().zip(points) {
        let Some((_, ((own_value, own_min), own_max))) = own.next_if(|(own_at, _)| *own_at == at) else { continue };
        if value.is_nan() {
            (*value, *min, *max) = (*own_value, *own_min, *own_max);
        }
    }
}

/// Removes buckets in which no column has a value.
pub(crate) fn without_empty(mut points: Points) -> Points {
    let keep: Vec<bool> = (0..points.at_ms.len())
        .map(|row| points.columns.iter().any(|column| column.values.get(row).is_some_and(|value| !value.is_nan())))
        .collect();
    if keep.iter().all(|&kept| kept) {
        return points;
    }
    fn retain<T>(column: &mut Vec<T>, keep: &[bool]) {
        let mut kept = keep.iter();
        column.retain(|_| kept.next().copied().unwrap_or(false));
    }
    retain(&mut points.at_ms, &keep);
    for FieldPoints { values, min, max, .. } in &mut points.columns {
        for column in [values, min, max] {
            retain(column, &keep);
        }
    }
    points
}
