//! Aggregations: many series become one per group.

use super::Context;
use super::matrix::{Grid, Matrix, only, with_label, without};
use super::over_time::unsorted_quantile;
use super::plan::Node;
use super::sums::{Mean, Sum};
use crate::annotations::Annotations;
use crate::ast::{AggregationOperator as Op, Grouping};
use crate::number;
use crate::source::{QueryError, is_stale};
use dropsonde_model::Labels;
use dropsonde_model::labels::NAME;
use std::collections::HashMap;

/// The groups of the rows of a matrix.
pub(super) struct Grouped {
    /// The group of each row.
    pub(super) group_of: Vec<usize>,
    /// The first row of each group.
    pub(super) first_rows: Vec<usize>,
}

impl Context<'_> {
    pub(super) fn aggregate(
        &self,
        operator: Op,
        grouping: &Grouping,
        parameter: Option<&Node>,
        inner: &Node,
        grid: Grid,
        annotations: &mut Annotations,
    ) -> Result<Matrix, QueryError> {
        let parameters = match parameter {
            Some(node) if operator != Op::CountValues => self.scalar(node, grid, annotations)?,
            _ => Vec::new(),
        };
        if operator == Op::CountValues {
            let label = parameter.map_or_else(|| Err("\"\"".to_owned()), Node::label);
            let label = label.map_err(|written| QueryError::Execution(format!("invalid label name {written}")))?;
            let vector = self.vector(inner, grid, annotations)?;
            return self.count_values(&vector, grouping, label);
        }
        let vector = self.vector(inner, grid, annotations)?;
        if let Some(node) = parameter
            && matches!(operator, Op::TopK | Op::BottomK | Op::LimitK | Op::LimitRatio)
        {
            return self.pick(operator, &vector, grouping, &parameters, &node.at, annotations);
        }
        if let (Op::Quantile, Some(node)) = (operator, parameter) {
            if parameters.iter().any(|quantile| quantile.is_nan()) {
                annotations.quantile_out_of_bounds(f64::NAN, &node.at);
            }
            let largest = parameters.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let smallest = parameters.iter().copied().fold(f64::INFINITY, f64::min);
            if largest > 1.0 {
                annotations.quantile_out_of_bounds(largest, &node.at);
            }
            if smallest < 0.0 {
                annotations.quantile_out_of_bounds(smallest, &node.at);
            }
        }
        let groups = Grouped::of(&vector, grouping);
        match operator {
            Op::Sum => self.fold(&vector, &groups, grouping, Sum::default(), Sum::add, Sum::total),
            Op::Average => {
                let add = |mut mean: Mean, value| {
                    mean.add(value);
                    mean
                };
                self.fold(&vector, &groups, grouping, Mean::default(), add, |mean| mean.value())
            }
            Op::Count => self.fold(&vector, &groups, grouping, 0.0, |count, _| count + 1.0, |count| count),
            Op::Group => self.fold(&vector, &groups, grouping, (), |(), _| (), |()| 1.0),
            Op::Max => {
                let larger = |max: f64, value: f64| if max < value || max.is_nan() { value } else { max };
                self.fold(&vector, &groups, grouping, f64::NAN, larger, |max| max)
            }
            Op::Min => {
                let smaller = |min: f64, value: f64| if min > value || min.is_nan() { value } else { min };
                self.fold(&vector, &groups, grouping, f64::NAN, smaller, |min| min)
            }
            Op::StandardDeviation => {
                self.fold(&vector, &groups, grouping, Spread::default(), Spread::add, |spread| spread.variance().sqrt())
            }
            Op::Variance => {
                self.fold(&vector, &groups, grouping, Spread::default(), Spread::add, |spread| spread.variance())
            }
            _ => self.quantiles(&vector, &groups, grouping, &parameters),
        }
    }

    /// Folds the values of each group at each step.
    fn fold<T: Copy>(
        &self,
        vector: &Matrix,
        groups: &Grouped,
        grouping: &Grouping,
        start: T,
        add: impl Fn(T, f64) -> T,
        finish: impl Fn(T) -> f64,
    ) -> Result<Matrix, QueryError> {
        let steps = vector.steps;
        let cells = groups.first_rows.len() * steps;
        self.meter.check(cells.saturating_mul(size_of::<T>() + 1))?;
        let (mut folded, mut has_value) = (vec![start; cells], vec![false; cells]);
        for ((_, values), group) in vector.iter().zip(&groups.group_of) {
            let cells = group * steps..(group + 1) * steps;
            let (Some(folded), Some(has_value)) = (folded.get_mut(cells.clone()), has_value.get_mut(cells)) else {
                continue;
            };
            for ((value, cell), has_value) in values.iter().zip(folded).zip(has_value) {
                if !is_stale(*value) {
                    *cell = add(*cell, *value);
                    *has_value = true;
                }
            }
        }
        let mut matrix = Matrix::new(self, steps);
        for (group, labels, drops_name) in groups.labels(vector, grouping) {
            let row = matrix.push_empty(labels, drops_name)?;
            let cells = group * steps..(group + 1) * steps;
            let folded = folded.get(cells.clone()).unwrap_or_default().iter();
            let has_value = has_value.get(cells).unwrap_or_default().iter();
            for ((result, cell), has_value) in matrix.values_mut(row).iter_mut().zip(folded).zip(has_value) {
                if *has_value {
                    *result = finish(*cell);
                }
            }
        }
        Ok(matrix.without_empty())
    }

    fn quantiles(
        &self,
        vector: &Matrix,
        groups: &Grouped,
        grouping: &Grouping,
        parameters: &[f64],
    ) -> Result<Matrix, QueryError> {
        let members = groups.members();
        let mut matrix = Matrix::new(self, vector.steps);
        let mut found = Vec::new();
        for (group, labels, drops_name) in groups.labels(vector, grouping) {
            self.limits.check()?;
            let rows = members.get(group).map(Vec::as_slice).unwrap_or_default();
            let row = matrix.push_empty(labels, drops_name)?;
            for (step, (result, wanted)) in matrix.values_mut(row).iter_mut().zip(parameters).enumerate() {
                found.clear();
                found.extend(rows.iter().filter_map(|row| vector.value(*row, step)));
                if !found.is_empty() {
                    *result = unsorted_quantile(*wanted, &mut found);
                }
            }
        }
        Ok(matrix.without_empty())
    }

    /// Counts the series with each value. The value becomes a label.
    fn count_values(&self, vector: &Matrix, grouping: &Grouping, label: &str) -> Result<Matrix, QueryError> {
        let mut matrix = Matrix::new(self, vector.steps);
        let mut rows: HashMap<Labels, usize> = HashMap::new();
        for (row, values) in vector.iter() {
            self.limits.check()?;
            let mut of_value: HashMap<u64, usize> = HashMap::new();
            for (step, value) in values.iter().enumerate().filter(|(_, value)| !is_stale(**value)) {
                let counted = match of_value.get(&value.to_bits()) {
                    Some(counted) => *counted,
                    None => {
                        let labelled = with_label(&row.labels, label, &number::plain(*value));
                        let labels = match grouping {
                            Grouping::By(names) => {
                                let pairs = labelled.iter();
                                let is_kept = |name: &str| name == label || names.iter().any(|known| known == name);
                                Labels::from_sorted(pairs.filter(|(name, _)| is_kept(name)))
                            }
                            Grouping::Without(names) => without(&labelled, names),
                        };
                        let counted = match rows.get(&labels) {
                            Some(known) => *known,
                            None => {
                                let new = matrix.push_empty(labels.clone(), false)?;
                                rows.insert(labels, new);
                                new
                            }
                        };
                        of_value.insert(value.to_bits(), counted);
                        counted
                    }
                };
                if let Some(count) = matrix.values_mut(counted).get_mut(step) {
                    *count = if is_stale(*count) { 1.0 } else { *count + 1.0 };
                }
            }
        }
        Ok(matrix)
    }
}

/// The variance of numbers, by Welford's method.
#[derive(Debug, Clone, Copy, Default)]
struct Spread {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Spread {
    fn add(self, value: f64) -> Self {
        let count = self.count + 1.0;
        if count == 1.0 {
            let squares = if value.is_finite() { 0.0 } else { f64::NAN };
            return Self { count, mean: value, squares };
        }
        let difference = value - self.mean;
        let mean = self.mean + difference / count;
        Self { count, mean, squares: self.squares + difference * (value - mean) }
    }

    fn variance(self) -> f64 {
        self.squares / self.count
    }
}

impl Grouped {
    pub(super) fn of(vector: &Matrix, grouping: &Grouping) -> Self {
        let mut first_rows = Vec::new();
        let mut group_of = Vec::with_capacity(vector.len());
        let mut known: HashMap<Box<str>, usize> = HashMap::new();
        let mut key = String::new();
        for (nth, row) in vector.rows().iter().enumerate() {
            key.clear();
            let names = match grouping {
                Grouping::By(names) | Grouping::Without(names) => names,
            };
            let is_by = matches!(grouping, Grouping::By(_));
            // A sum of everything needs no look at the labels.
            if !(is_by && names.is_empty()) {
                for (name, value) in row.labels.iter() {
                    let is_named = names.iter().any(|known| known == name);
                    if is_named == is_by && (is_by || name != NAME) {
                        key.push_str(name);
                        key.push('\0');
                        key.push_str(value);
                        key.push('\0');
                    }
                }
            }
            let group = match known.get(&*key) {
                Some(group) => *group,
                None => {
                    known.insert(key.as_str().into(), first_rows.len());
                    first_rows.push(nth);
                    first_rows.len() - 1
                }
            };
            group_of.push(group);
        }
        Self { group_of, first_rows }
    }

    /// Returns the rows of each group.
    pub(super) fn members(&self) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); self.first_rows.len()];
        for (row, group) in self.group_of.iter().enumerate() {
            if let Some(members) = members.get_mut(*group) {
                members.push(row);
            }
        }
        members
    }

    /// Returns each group with its labels, and whether its name is to be dropped.
    fn labels<'a>(
        &'a self,
        vector: &'a Matrix,
        grouping: &'a Grouping,
    ) -> impl Iterator<Item = (usize, Labels, bool)> + 'a {
        let mut drops_name = vec![false; self.first_rows.len()];
        for (row, group) in vector.rows().iter().zip(&self.group_of) {
            if let Some(drops_name) = drops_name.get_mut(*group) {
                *drops_name |= row.drops_name;
            }
        }
        self.first_rows.iter().zip(drops_name).enumerate().map(move |(group, (first, drops_name))| {
            let labels = vector.rows().get(*first).map_or_else(Labels::new, |row| match grouping {
                Grouping::By(names) => only(&row.labels, names),
                Grouping::Without(names) => without(&row.labels, names),
            });
            (group, labels, drops_name)
        })
    }
}
