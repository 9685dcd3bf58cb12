//! Operators on sets of series: `and`, `or`, `unless`.

use super::Context;
use super::binary::Signatures;
use super::matrix::Matrix;
use crate::ast::{BinaryOperator as Op, MatchingLabels};
use crate::source::{QueryError, STALE, is_stale};

impl Context<'_> {
    pub(super) fn on_sets(
        &self,
        operator: Op,
        left: Matrix,
        right: Matrix,
        labels: &MatchingLabels,
    ) -> Result<Matrix, QueryError> {
        let mut signatures = Signatures::new(labels);
        let of_left = signatures.of_rows(&left);
        let of_right = signatures.of_rows(&right);
        // The side that decides, and the one whose values stay or go.
        let (deciding, of_deciding, mut kept, of_kept) = match operator {
            Op::Or => (&left, &of_left, right, &of_right),
            _ => (&right, &of_right, left.clone(), &of_left),
        };
        let steps = kept.steps;
        self.meter.check(signatures.len().saturating_mul(steps))?;
        let mut is_present = vec![false; signatures.len() * steps];
        for ((_, values), signature) in deciding.iter().zip(of_deciding) {
            let cells = is_present.get_mut(signature * steps..(signature + 1) * steps).unwrap_or_default();
            for (value, is_present) in values.iter().zip(cells) {
                *is_present |= !is_stale(*value);
            }
        }
        let stays_if_present = operator == Op::And;
        for (row, signature) in of_kept.iter().enumerate() {
            let cells = is_present.get(signature * steps..(signature + 1) * steps).unwrap_or_default();
            for (value, is_present) in kept.values_mut(row).iter_mut().zip(cells) {
                if *is_present != stays_if_present {
                    *value = STALE;
                }
            }
        }
        let kept = kept.without_empty();
        if operator != Op::Or {
            return Ok(kept);
        }
        let mut all = left;
        for (row, values) in kept.iter() {
            all.push(row.labels.clone(), row.drops_name, values)?;
        }
        all.united()
    }
}
