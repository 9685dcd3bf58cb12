//! Operators between two sides.

use super::matrix::{Matrix, only, with_label, without, without_name};
use super::{Context, Value};
use crate::ast::{BinaryOperator as Op, Cardinality, Matching, MatchingLabels};
use crate::quoted::quoted;
use crate::source::{QueryError, STALE, is_stale};
use dropsonde_model::Labels;
use dropsonde_model::labels::NAME;
use std::collections::HashMap;

/// Numbers for the labels that must be equal on both sides.
pub(super) struct Signatures<'a> {
    labels: &'a MatchingLabels,
    known: HashMap<Box<str>, usize>,
}

/// Computes an operator between numbers. A comparison is 1 or 0.
pub(super) fn compute(operator: Op, left: f64, right: f64) -> f64 {
    let truth = |is_true: bool| if is_true { 1.0 } else { 0.0 };
    match operator {
        Op::Add => left + right,
        Op::Subtract => left - right,
        Op::Multiply => left * right,
        Op::Divide => left / right,
        Op::Modulo => left % right,
        Op::Power => power(left, right),
        Op::Atan2 => left.atan2(right),
        Op::Equal => truth(left == right),
        Op::NotEqual => truth(left != right),
        Op::Greater => truth(left > right),
        Op::Less => truth(left < right),
        Op::GreaterOrEqual => truth(left >= right),
        Op::LessOrEqual => truth(left <= right),
        Op::And | Op::Or | Op::Unless => f64::NAN,
    }
}

fn power(base: f64, exponent: f64) -> f64 {
    base.powf(exponent)
}

/// Computes an operator between two values. Returns nothing if a comparison without `bool` is false.
fn combine(operator: Op, is_bool: bool, left: f64, right: f64) -> Option<f64> {
    let computed = compute(operator, left, right);
    if is_bool || !operator.is_comparison() {
        return Some(computed);
    }
    (computed == 1.0).then_some(left)
}

impl Context<'_> {
    pub(super) fn binary(
        &self,
        operator: Op,
        is_bool: bool,
        left: Value,
        right: Value,
        matching: &Matching,
    ) -> Result<Value, QueryError> {
        match (left, right) {
            (Value::Scalar(left), Value::Scalar(right)) => {
                let values = left.into_iter().zip(right).map(|(left, right)| compute(operator, left, right));
                Ok(Value::Scalar(values.collect()))
            }
            (Value::Vector(vector), Value::Scalar(scalar)) => {
                self.with_scalar(vector, &scalar, operator, is_bool, false).map(Value::Vector)
            }
            (Value::Scalar(scalar), Value::Vector(vector)) => {
                self.with_scalar(vector, &scalar, operator, is_bool, true).map(Value::Vector)
            }
            (Value::Vector(left), Value::Vector(right)) if operator.is_on_sets() => {
                self.on_sets(operator, left, right, &matching.labels).map(Value::Vector)
            }
            (Value::Vector(left), Value::Vector(right)) => {
                self.between(operator, is_bool, left, right, matching).map(Value::Vector)
            }
            _ => Err(QueryError::Execution(format!("`{}` does not work on strings", operator.as_str()))),
        }
    }

    fn with_scalar(
        &self,
        mut vector: Matrix,
        scalar: &[f64],
        operator: Op,
        is_bool: bool,
        is_scalar_left: bool,
    ) -> Result<Matrix, QueryError> {
        vector.map_steps(|value, step| {
            let scalar = scalar.get(step).copied().unwrap_or(f64::NAN);
            let (left, right) = if is_scalar_left { (scalar, value) } else { (value, scalar) };
            let combined = combine(operator, is_bool, left, right);
            // A comparison keeps the value of the series, whatever its side.
            let kept = if operator.is_comparison() && !is_bool { combined.map(|_| value) } else { combined };
            kept.unwrap_or(STALE)
        });
        if operator.is_comparison() && !is_bool {
            return Ok(vector.without_empty());
        }
        self.without_names(vector)
    }

    /// Computes an operator between the series of both sides that match each other.
    fn between(
        &self,
        operator: Op,
        is_bool: bool,
        left: Matrix,
        right: Matrix,
        matching: &Matching,
    ) -> Result<Matrix, QueryError> {
        let is_swapped = matches!(matching.cardinality, Cardinality::OneToMany(_));
        // From here on, several series of `many` can match one of `one`.
        let (many, one) = if is_swapped { (right, left) } else { (left, right) };
        let mut pairing = Pairing {
            operator,
            is_bool,
            is_swapped,
            matching,
            drops_name: is_bool || !operator.is_comparison(),
            is_delayed: self.settings.delayed_name_removal,
            rows: HashMap::new(),
            by_pair: HashMap::new(),
            matrix: Matrix::new(self, many.steps),
        };
        let mut signatures = Signatures::new(&matching.labels);
        let of_many = signatures.of_rows(&many);
        let of_one = signatures.of_rows(&one);
        let mut groups: Vec<(Vec<usize>, Vec<usize>)> = vec![Default::default(); signatures.len()];
        for (row, signature) in of_many.iter().enumerate() {
            groups.get_mut(*signature).into_iter().for_each(|(rows, _)| rows.push(row));
        }
        for (row, signature) in of_one.iter().enumerate() {
            groups.get_mut(*signature).into_iter().for_each(|(_, rows)| rows.push(row));
        }
        // Where one side has no series at all, nothing matches, and nothing is wrong.
        let fills = matching.fill_left.is_some() || matching.fill_right.is_some();
        let (in_many, in_one) = (any_value(&many), any_value(&one));
        let is_wanted: Vec<bool> =
            in_many.iter().zip(&in_one).map(|(many, one)| if fills { *many || *one } else { *many && *one }).collect();
        for (of_many, of_one) in &groups {
            self.limits.check()?;
            pairing.pair(&many, of_many, &one, of_one, &is_wanted)?;
        }
        let mut matrix = pairing.matrix.without_empty();
        if is_bool && self.settings.delayed_name_removal {
            matrix.relabel(|row| row.drops_name = true);
        }
        Ok(matrix)
    }
}

/// Returns at which steps a matrix has a value.
fn any_value(matrix: &Matrix) -> Vec<bool> {
    let mut any = vec![false; matrix.steps];
    for (_, values) in matrix.iter() {
        for (value, any) in values.iter().zip(&mut any) {
            *any |= !is_stale(*value);
        }
    }
    any
}

/// The pairs of series that match each other.
struct Pairing<'a> {
    operator: Op,
    is_bool: bool,
    is_swapped: bool,
    matching: &'a Matching,
    /// Whether the result has no name.
    drops_name: bool,
    is_delayed: bool,
    /// The row of each label set of the result.
    rows: HashMap<Labels, usize>,
    /// The row of each pair; a side that is filled has no number.
    by_pair: HashMap<(Option<usize>, Option<usize>), usize>,
    matrix: Matrix,
}

impl Pairing<'_> {
    /// Computes the results for series of equal signature.
    fn pair(
        &mut self,
        many: &Matrix,
        of_many: &[usize],
        one: &Matrix,
        of_one: &[usize],
        is_wanted: &[bool],
    ) -> Result<(), QueryError> {
        let is_one_to_one = self.matching.cardinality == Cardinality::OneToOne;
        let mut matched: Vec<usize> = Vec::new();
        let (fill_left, fill_right) = (self.matching.fill_left, self.matching.fill_right);
        if of_one.is_empty() && fill_right.is_none() || of_many.is_empty() && fill_left.is_none() && of_one.len() < 2 {
            return Ok(());
        }
        for step in (0..many.steps).filter(|step| is_wanted.get(*step).copied().unwrap_or(false)) {
            let mut present = of_one.iter().filter_map(|row| Some((*row, one.value(*row, step)?)));
            let the_one = present.next();
            if let (Some((first, _)), Some((second, _))) = (the_one, present.next()) {
                return Err(self.several_on_one_side(one, first, second));
            }
            matched.clear();
            let mut has_match = false;
            for &row in of_many {
                let Some(value) = many.value(row, step) else { continue };
                let (partner, other) = match (the_one, fill_right) {
                    (Some((partner, other)), _) => (Some(partner), other),
                    (None, Some(fill)) => (None, fill),
                    (None, None) => continue,
                };
                let result = self.row((many, Some(row)), (one, partner))?;
                if is_one_to_one && has_match {
                    let why =
                        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)";
                    return Err(QueryError::Execution(why.to_owned()));
                }
                if matched.contains(&result) {
                    let why = "multiple matches for labels: grouping labels must ensure unique matches";
                    return Err(QueryError::Execution(why.to_owned()));
                }
                has_match = true;
                matched.push(result);
                self.set(result, step, value, other)?;
            }
            if let (Some(fill), Some((partner, other)), false) = (fill_left, the_one, has_match) {
                let result = self.row((many, None), (one, Some(partner)))?;
                self.set(result, step, fill, other)?;
            }
        }
        Ok(())
    }

    fn set(&mut self, row: usize, step: usize, of_many: f64, of_one: f64) -> Result<(), QueryError> {
        let (left, right) = if self.is_swapped { (of_one, of_many) } else { (of_many, of_one) };
        let Some(value) = combine(self.operator, self.is_bool, left, right) else { return Ok(()) };
        match self.matrix.values_mut(row).get_mut(step) {
            Some(result) if is_stale(*result) => *result = value,
            _ => {
                let why = "vector cannot contain metrics with the same labelset";
                return Err(QueryError::Execution(why.to_owned()));
            }
        }
        Ok(())
    }

    /// Returns the row of the result for a pair of series.
    fn row(
        &mut self,
        (many, of_many): (&Matrix, Option<usize>),
        (one, of_one): (&Matrix, Option<usize>),
    ) -> Result<usize, QueryError> {
        if let Some(row) = self.by_pair.get(&(of_many, of_one)) {
            return Ok(*row);
        }
        let labels_of = |matrix: &Matrix, row: Option<usize>| {
            row.and_then(|row| matrix.rows().get(row)).map(|row| row.labels.clone())
        };
        let (of_many_labels, of_one_labels) = (labels_of(many, of_many), labels_of(one, of_one));
        // A side that is filled has the labels that match.
        let fill = |other: &Option<Labels>| other.as_ref().map(|labels| self.matched(labels)).unwrap_or_default();
        let many_labels = of_many_labels.clone().unwrap_or_else(|| fill(&of_one_labels));
        let one_labels = of_one_labels.unwrap_or_else(|| fill(&of_many_labels));
        let labels = self.result(&many_labels, &one_labels);
        let row = match self.rows.get(&labels) {
            Some(row) => *row,
            None => {
                let row = self.matrix.push_empty(labels.clone(), false)?;
                self.rows.insert(labels, row);
                row
            }
        };
        self.by_pair.insert((of_many, of_one), row);
        Ok(row)
    }

    fn result(&self, of_many: &Labels, of_one: &Labels) -> Labels {
        let is_arithmetic = !self.operator.is_comparison();
        let mut labels = if self.drops_name && (is_arithmetic || !self.is_delayed) {
            without_name(of_many)
        } else {
            of_many.clone()
        };
        match &self.matching.cardinality {
            Cardinality::OneToOne | Cardinality::ManyToMany => match &self.matching.labels {
                MatchingLabels::On(names) => labels = only(&labels, names),
                MatchingLabels::Ignoring(names) => {
                    let is_kept = |name: &str| !names.iter().any(|known| known == name);
                    labels = Labels::from_sorted(labels.iter().filter(|(name, _)| is_kept(name)));
                }
            },
            Cardinality::ManyToOne(included) | Cardinality::OneToMany(included) => {
                for name in included {
                    labels = with_label(&labels, name, of_one.get(name).unwrap_or_default());
                }
            }
        }
        labels
    }

    fn matched(&self, labels: &Labels) -> Labels {
        match &self.matching.labels {
            MatchingLabels::On(names) => only(labels, names),
            MatchingLabels::Ignoring(names) => without(labels, names),
        }
    }

    fn several_on_one_side(&self, one: &Matrix, first: usize, second: usize) -> QueryError {
        let side = if self.is_swapped { "left" } else { "right" };
        let labels = |row: usize| one.rows().get(row).map(|row| row.labels.clone()).unwrap_or_default();
        let group = shown(&self.matched(&labels(first)));
        let mut both = [shown(&labels(first)), shown(&labels(second))];
        both.sort();
        QueryError::Execution(format!(
            "found duplicate series for the match group {group} on the {side} hand-side of the operation: [{}];\
             many-to-many matching not allowed: matching labels must be unique on one side",
            both.join(", ")
        ))
    }
}

/// Writes labels as Prometheus does in its messages.
fn shown(labels: &Labels) -> String {
    let pairs: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
    format!("{{{}}}", pairs.join(", "))
}

impl<'a> Signatures<'a> {
    pub(super) fn new(labels: &'a MatchingLabels) -> Self {
        Self { labels, known: HashMap::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Returns the number of each row's signature.
    pub(super) fn of_rows(&mut self, matrix: &Matrix) -> Vec<usize> {
        let mut key = String::new();
        let (names, is_on) = match self.labels {
            MatchingLabels::On(names) => (names, true),
            MatchingLabels::Ignoring(names) => (names, false),
        };
        let rows = matrix.rows().iter();
        rows.map(|row| {
            key.clear();
            for (name, value) in row.labels.iter() {
                let is_named = names.iter().any(|known| known == name);
                if is_named == is_on && (is_on || name != NAME) {
                    key.push_str(name);
                    key.push('\0');
                    key.push_str(value);
                    key.push('\0');
                }
            }
            match self.known.get(&*key) {
                Some(number) => *number,
                None => {
                    let number = self.known.len();
                    self.known.insert(key.as_str().into(), number);
                    number
                }
            }
        })
        .collect()
    }
}
