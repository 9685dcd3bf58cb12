//! Computes expressions, for all steps at once: a series is read once per selector, and an operator works on whole rows.
//!
//! * `plan`: an expression prepared for its computation. `matrix`: values of series over the steps.
//! * `select`: reads series for selectors, windows and subqueries.
//! * `over_time`, `rate`, `regression`, `sliding`: functions of windows. `sums`: sums that lose no digits.
//! * `functions`, `dates`, `relabel`, `histogram`: functions of values. `go`: numbers as Go computes them.
//! * `aggregate`: aggregations; `pick` those that pick series. `binary`: operators between two sides; `sets` those on
//!   sets.

mod aggregate;
mod binary;
mod dates;
mod functions;
mod go;
mod histogram;
mod matrix;
mod over_time;
mod pick;
mod plan;
mod rate;
mod reach;
mod regression;
mod relabel;
mod select;
mod sets;
mod sliding;
mod sums;

use crate::annotations::Annotations;
use crate::query::{self, Limits, MemoryGrant, Query, Settings, Times, Usage};
use crate::source::{QueryError, Source, is_stale};
use dropsonde_model::Labels;
use matrix::{Grid, Matrix, without_name};
use plan::{Node, NodeKind};
pub(crate) use reach::reach;
use std::cell::Cell;
use std::rc::Rc;

/// The value of an expression at all steps.
#[derive(Debug)]
enum Value {
    Scalar(Vec<f64>),
    Vector(Matrix),
    String(String),
}

/// The source, the settings and the limits that all parts of a computation use.
struct Context<'a> {
    source: &'a dyn Source,
    settings: Settings,
    limits: &'a Limits<'a>,
    meter: Meter,
    samples: Cell<u64>,
}

/// Counts the memory that the values of a query hold.
#[derive(Clone)]
struct Meter(Rc<Held>);

struct Held {
    bytes: Cell<usize>,
    peak: Cell<usize>,
    /// The bytes that were granted so far.
    granted: Cell<usize>,
    grant: Option<MemoryGrant>,
}

/// Bytes that are asked for at a time.
const GRANTED_AT_ONCE: usize = 1 << 20;

/// Computes the answer to a query.
pub(crate) fn run(
    query: &Query<'_>,
    source: &dyn Source,
    limits: &Limits<'_>,
    annotations: &mut Annotations,
) -> Result<(query::Value, Usage), QueryError> {
    let held = Held { bytes: Cell::new(0), peak: Cell::new(0), granted: Cell::new(0), grant: limits.memory.clone() };
    let meter = Meter(Rc::new(held));
    let context = Context { source, settings: query.settings, limits, meter, samples: Cell::new(0) };
    let plan = plan::plan(query)?;
    let (grid, is_range) = match query.times {
        Times::At(at_ms) => (Grid { start_ms: at_ms, step_ms: 1, steps: 1 }, false),
        Times::Range { start_ms, end_ms, step_ms } => {
            let steps = (end_ms.saturating_sub(start_ms) / step_ms) as usize + 1;
            (Grid { start_ms, step_ms, steps }, true)
        }
    };
    let value = context.answer(&plan, grid, is_range, annotations)?;
    let usage = Usage { samples: context.samples.get(), peak_memory: context.meter.0.peak.get() };
    Ok((value, usage))
}

impl Context<'_> {
    fn answer(
        &self,
        plan: &Node,
        grid: Grid,
        is_range: bool,
        annotations: &mut Annotations,
    ) -> Result<query::Value, QueryError> {
        let at_ms = grid.start_ms;
        if matches!(plan.kind, NodeKind::Window { .. } | NodeKind::Subquery { .. }) {
            let mut series = self.samples_of(plan, at_ms, annotations)?;
            series.sort_by(|(a, _), (b, _)| a.iter().cmp(b.iter()));
            return Ok(query::Value::Matrix(series));
        }
        match self.value(plan, grid, annotations)? {
            Value::String(text) => Ok(query::Value::String(at_ms, text)),
            Value::Scalar(values) if !is_range => {
                Ok(query::Value::Scalar(at_ms, values.first().copied().unwrap_or(f64::NAN)))
            }
            Value::Scalar(values) => {
                Ok(query::Value::Matrix(vec![(Labels::new(), grid.times().zip(values).collect())]))
            }
            Value::Vector(mut matrix) => {
                if self.settings.delayed_name_removal {
                    matrix.relabel(|row| {
                        if row.drops_name {
                            row.labels = without_name(&row.labels);
                        }
                    });
                    matrix = matrix.united()?;
                }
                if is_range {
                    let mut series: Vec<_> = matrix.iter().map(|(row, values)| (&row.labels, values)).collect();
                    series.sort_by(|(a, _), (b, _)| a.iter().cmp(b.iter()));
                    // The answer has each value with its time.
                    self.meter
                        .check(matrix.len().saturating_mul(grid.steps).saturating_mul(size_of::<(i64, f64)>()))?;
                    let points = |values: &[f64]| -> Vec<(i64, f64)> {
                        let points = grid.times().zip(values.iter().copied());
                        points.filter(|(_, value)| !is_stale(*value)).collect()
                    };
                    let series = series.into_iter().map(|(labels, values)| (labels.clone(), points(values)));
                    Ok(query::Value::Matrix(series.filter(|(_, points)| !points.is_empty()).collect()))
                } else {
                    let values = matrix.iter().map(|(row, values)| (row.labels.clone(), values.first().copied()));
                    let present = values.filter_map(|(labels, value)| value.map(|value| (labels, value)));
                    Ok(query::Value::Vector(at_ms, present.filter(|(_, value)| !is_stale(*value)).collect()))
                }
            }
        }
    }

    /// Computes the value of a node at all steps.
    fn value(&self, node: &Node, grid: Grid, annotations: &mut Annotations) -> Result<Value, QueryError> {
        self.limits.check()?;
        match &node.kind {
            NodeKind::Number(number) => {
                self.meter.check(grid.steps * size_of::<f64>())?;
                Ok(Value::Scalar(vec![*number; grid.steps]))
            }
            NodeKind::String { text, .. } => Ok(Value::String(text.clone())),
            NodeKind::Once(inner) => match self.value(inner, Grid { steps: 1, ..grid }, annotations)? {
                Value::Scalar(values) => Ok(Value::Scalar(values.repeat(grid.steps))),
                Value::Vector(matrix) => Ok(Value::Vector(matrix.repeated(self, grid.steps)?)),
                string => Ok(string),
            },
            NodeKind::Newest(selection) => Ok(Value::Vector(self.newest(selection, grid, false)?)),
            NodeKind::Window { .. } | NodeKind::Subquery { .. } => {
                Err(QueryError::Execution("a range vector stands where it has no value".to_owned()))
            }
            NodeKind::Negative(inner) => match self.value(inner, grid, annotations)? {
                Value::Scalar(values) => Ok(Value::Scalar(values.into_iter().map(|value| -value).collect())),
                Value::Vector(mut matrix) => {
                    matrix.map(|value| -value);
                    self.without_names(matrix).map(Value::Vector)
                }
                string => Ok(string),
            },
            NodeKind::Call { function, arguments } => self.call(function.name, arguments, node, grid, annotations),
            NodeKind::Aggregation { operator, grouping, parameter, inner } => {
                let parameter = parameter.as_deref();
                self.aggregate(*operator, grouping, parameter, inner, grid, annotations).map(Value::Vector)
            }
            NodeKind::Binary { operator, is_bool, left, right, matching } => {
                let left = self.value(left, grid, annotations)?;
                let right = self.value(right, grid, annotations)?;
                self.binary(*operator, *is_bool, left, right, matching)
            }
        }
    }

    fn vector(&self, node: &Node, grid: Grid, annotations: &mut Annotations) -> Result<Matrix, QueryError> {
        match self.value(node, grid, annotations)? {
            Value::Vector(matrix) => Ok(matrix),
            _ => Err(QueryError::Execution("an instant vector is expected".to_owned())),
        }
    }

    fn scalar(&self, node: &Node, grid: Grid, annotations: &mut Annotations) -> Result<Vec<f64>, QueryError> {
        match self.value(node, grid, annotations)? {
            Value::Scalar(values) => Ok(values),
            _ => Err(QueryError::Execution("a scalar is expected".to_owned())),
        }
    }

    /// Removes the names of metrics, now or at the end, and unites rows that then have the same labels.
    fn without_names(&self, mut matrix: Matrix) -> Result<Matrix, QueryError> {
        if self.settings.delayed_name_removal {
            matrix.relabel(|row| row.drops_name = true);
            return Ok(matrix);
        }
        matrix.relabel(|row| row.labels = without_name(&row.labels));
        matrix.united()
    }

    /// Counts samples that were read.
    fn count_samples(&self, count: usize) -> Result<(), QueryError> {
        let samples = self.samples.get() + count as u64;
        self.samples.set(samples);
        match self.limits.samples {
            Some(most) if samples > most => Err(QueryError::Limit(format!(
                "the query reads more than {most} samples: ask for less time or fewer series"
            ))),
            _ => Ok(()),
        }
    }

    fn check_series(&self, count: usize) -> Result<(), QueryError> {
        match self.limits.series {
            Some(most) if count > most => {
                Err(QueryError::Limit(format!("the query reads more than {most} series: select fewer of them")))
            }
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Meter").field(&self.0.bytes).finish()
    }
}

impl Meter {
    fn check(&self, more: usize) -> Result<(), QueryError> {
        let held = self.0.bytes.get().saturating_add(more);
        let Some(grant) = self.0.grant.as_ref().filter(|_| held > self.0.granted.get()) else { return Ok(()) };
        let wanted = held.checked_next_multiple_of(GRANTED_AT_ONCE).unwrap_or(held);
        if !grant(wanted) && !grant(held) {
            let why = format!(
                "the query needs {held} bytes for values, more than it may hold: ask for fewer steps or series"
            );
            return Err(QueryError::Limit(why));
        }
        self.0.granted.set(held);
        Ok(())
    }

    fn add(&self, bytes: usize) -> Result<(), QueryError> {
        let result = self.check(bytes);
        let held = self.0.bytes.get().saturating_add(bytes);
        self.0.bytes.set(held);
        self.0.peak.set(self.0.peak.get().max(held));
        result
    }

    fn release(&self, bytes: usize) {
        self.0.bytes.set(self.0.bytes.get().saturating_sub(bytes));
    }
}
