//! Functions of the newest values.

use super::go::{max, min};
use super::matrix::{Grid, Matrix, Row};
use super::plan::{Node, NodeKind};
use super::{Context, Value, dates, go};
use crate::annotations::Annotations;
use crate::source::{QueryError, STALE, is_stale};
use dropsonde_model::Labels;
use std::cmp::Ordering;
use std::f64::consts::PI;

impl Context<'_> {
    /// Computes a call.
    pub(super) fn call(
        &self,
        function: &str,
        arguments: &[Node],
        call: &Node,
        grid: Grid,
        annotations: &mut Annotations,
    ) -> Result<Value, QueryError> {
        if arguments.iter().any(|node| matches!(node.kind, NodeKind::Window { .. } | NodeKind::Subquery { .. })) {
            return self.over_time(function, arguments, grid, annotations);
        }
        match function {
            "pi" => Ok(Value::Scalar(vec![PI; grid.steps])),
            "time" => Ok(Value::Scalar(grid.times().map(|at_ms| at_ms as f64 / 1000.0).collect())),
            "label_replace" | "label_join" => self.relabel(function, arguments, grid, annotations).map(Value::Vector),
            "histogram_quantile" | "histogram_fraction" | "histogram_quantiles" => {
                self.histogram(function, arguments, grid, annotations).map(Value::Vector)
            }
            // They look only at native histograms, which no series has.
            "histogram_count" | "histogram_sum" | "histogram_avg" | "histogram_stddev" | "histogram_stdvar" => {
                for argument in arguments {
                    self.vector(argument, grid, annotations)?;
                }
                Ok(Value::Vector(Matrix::new(self, grid.steps)))
            }
            _ => {
                let [first, rest @ ..] = arguments else { return self.without_arguments(function, grid) };
                let scalars = rest.iter().filter(|argument| argument.value_type == crate::ast::ValueType::Scalar);
                if first.value_type == crate::ast::ValueType::Scalar {
                    let first = self.scalar(first, grid, annotations)?;
                    let mut others = Vec::new();
                    for scalar in scalars {
                        others.push(self.scalar(scalar, grid, annotations)?);
                    }
                    return self.of_scalars(function, first, &others, grid);
                }
                if function == "timestamp"
                    && let NodeKind::Newest(selection) = &first.kind
                {
                    return self.without_names(self.newest(selection, grid, true)?).map(Value::Vector);
                }
                let vector = self.vector(first, grid, annotations)?;
                let mut parameters = Vec::new();
                for scalar in scalars {
                    parameters.push(self.scalar(scalar, grid, annotations)?);
                }
                match function {
                    "absent" => self.absent(&vector, first, grid).map(Value::Vector),
                    "scalar" => Ok(Value::Scalar(only_values(&vector))),
                    "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => {
                        if grid.steps > 1 {
                            annotations.sort_has_no_effect(&call.at);
                            return Ok(Value::Vector(vector));
                        }
                        Ok(Value::Vector(sorted(function, vector, rest)))
                    }
                    _ => self.without_names(elementwise(function, vector, &parameters, grid)).map(Value::Vector),
                }
            }
        }
    }

    fn without_arguments(&self, function: &str, grid: Grid) -> Result<Value, QueryError> {
        let Some(of_time) = dates::function(function) else {
            return Err(QueryError::Execution(format!("`{function}` needs an argument")));
        };
        let mut matrix = Matrix::new(self, grid.steps);
        let values: Vec<f64> = grid.times().map(|at_ms| of_time((at_ms / 1000) as f64)).collect();
        matrix.push(Labels::new(), false, &values)?;
        Ok(Value::Vector(matrix))
    }

    fn of_scalars(
        &self,
        function: &str,
        first: Vec<f64>,
        others: &[Vec<f64>],
        grid: Grid,
    ) -> Result<Value, QueryError> {
        if function == "vector" {
            let mut matrix = Matrix::new(self, grid.steps);
            matrix.push(Labels::new(), false, &first)?;
            return Ok(Value::Vector(matrix));
        }
        let smaller = function == "min_of";
        let pairs = first.iter().zip(others.first().into_iter().flatten());
        Ok(Value::Scalar(pairs.map(|(a, b)| if smaller { min(*a, *b) } else { max(*a, *b) }).collect()))
    }
}

/// Returns the value of the only series that has one, else NaN.
fn only_values(vector: &Matrix) -> Vec<f64> {
    let mut counts = vec![0_usize; vector.steps];
    let mut only = vec![f64::NAN; vector.steps];
    for (_, values) in vector.iter() {
        for ((value, count), only) in values.iter().zip(&mut counts).zip(&mut only) {
            if !is_stale(*value) {
                *count += 1;
                *only = if *count == 1 { *value } else { f64::NAN };
            }
        }
    }
    only
}

/// Applies a function of numbers to each value.
fn elementwise(function: &str, mut vector: Matrix, parameters: &[Vec<f64>], grid: Grid) -> Matrix {
    let parameter = |nth: usize, step: usize| -> Option<f64> { parameters.get(nth)?.get(step).copied() };
    if let Some(of_time) = dates::function(function) {
        vector.map(of_time);
        return vector;
    }
    match function {
        "abs" => vector.map(f64::abs),
        "ceil" => vector.map(f64::ceil),
        "floor" => vector.map(f64::floor),
        "exp" => vector.map(f64::exp),
        "sqrt" => vector.map(f64::sqrt),
        "ln" => vector.map(go::ln),
        "log2" => vector.map(f64::log2),
        "log10" => vector.map(go::log10),
        "sin" => vector.map(f64::sin),
        "cos" => vector.map(f64::cos),
        "tan" => vector.map(f64::tan),
        "asin" => vector.map(f64::asin),
        "acos" => vector.map(f64::acos),
        "atan" => vector.map(f64::atan),
        "sinh" => vector.map(f64::sinh),
        "cosh" => vector.map(f64::cosh),
        "tanh" => vector.map(f64::tanh),
        "asinh" => vector.map(go::asinh),
        "acosh" => vector.map(go::acosh),
        "atanh" => vector.map(f64::atanh),
        "rad" => vector.map(|value| value * PI / 180.0),
        "deg" => vector.map(|value| value * 180.0 / PI),
        "sgn" => vector.map(|value| {
            if value < 0.0 {
                -1.0
            } else if value > 0.0 {
                1.0
            } else {
                value
            }
        }),
        "round" => vector.map_steps(|value, step| {
            let inverse = 1.0 / parameter(0, step).unwrap_or(1.0);
            (value * inverse + 0.5).floor() / inverse
        }),
        "timestamp" => vector.map_steps(|_, step| grid.time(step) as f64 / 1000.0),
        "clamp" | "clamp_min" | "clamp_max" => {
            let bounds = |step| {
                let first = parameter(0, step);
                match function {
                    "clamp" => (first, parameter(1, step)),
                    "clamp_min" => (first, None),
                    _ => (None, first),
                }
            };
            vector.map_steps(|value, step| {
                let (least, most) = bounds(step);
                let (least, most) = (least.unwrap_or(f64::NEG_INFINITY), most.unwrap_or(f64::INFINITY));
                if most < least { STALE } else { max(least, min(most, value)) }
            });
            return vector.without_empty();
        }
        _ => {}
    }
    vector
}

/// Sorts the series of one step.
fn sorted(function: &str, mut vector: Matrix, labels: &[Node]) -> Matrix {
    let names: Vec<&str> = labels.iter().filter_map(Node::text).collect();
    let by_labels = |a: &Row, b: &Row| -> Ordering {
        let value = |row: &Row, name: &str| row.labels.get(name).unwrap_or_default().to_owned();
        let named = names.iter().map(|name| natural(&value(a, name), &value(b, name)));
        named.fold(Ordering::Equal, Ordering::then).then_with(|| a.labels.iter().cmp(b.labels.iter()))
    };
    // NaN comes last, whatever the direction.
    let ascending = |a: f64, b: f64| a.is_nan().cmp(&b.is_nan()).then(a.partial_cmp(&b).unwrap_or(Ordering::Equal));
    match function {
        "sort" => vector.sort_rows(|(_, a), (_, b)| ascending(a, b)),
        "sort_desc" => vector
            .sort_rows(|(_, a), (_, b)| a.is_nan().cmp(&b.is_nan()).then(b.partial_cmp(&a).unwrap_or(Ordering::Equal))),
        "sort_by_label" => vector.sort_rows(|(a, _), (b, _)| by_labels(a, b)),
        _ => vector.sort_rows(|(a, _), (b, _)| by_labels(b, a)),
    }
    vector
}

/// Compares texts so that the numbers in them are in their order: `a2` comes before `a10`.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        let is_digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
        if is_digit(a) && is_digit(b) {
            let split = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let ((a_number, a_rest), (b_number, b_rest)) = (a.split_at(split(a)), b.split_at(split(b)));
            let (a_digits, b_digits) = (a_number.trim_start_matches('0'), b_number.trim_start_matches('0'));
            let order = a_digits.len().cmp(&b_digits.len()).then(a_digits.cmp(b_digits));
            if order.is_ne() {
                return order;
            }
            (a, b) = (a_rest, b_rest);
            continue;
        }
        let (mut a_chars, mut b_chars) = (a.chars(), b.chars());
        match (a_chars.next(), b_chars.next()) {
            (Some(x), Some(y)) if x == y => (a, b) = (a_chars.as_str(), b_chars.as_str()),
            (x, y) => return x.cmp(&y),
        }
    }
}
