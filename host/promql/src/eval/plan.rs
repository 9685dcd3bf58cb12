//! An expression prepared for its computation: lengths and times are known, and what does not change with time is computed
//! once.

use super::go;
use crate::ast::{
    AggregationOperator, BinaryOperator, Expr, ExprKind, FixedTime, Grouping, Length, LengthKind, Matching, Modifiers,
    Selector, ValueType,
};
use crate::functions::Function;
use crate::matcher::Matcher;
use crate::query::{Query, Times};
use crate::source::QueryError;
use std::ops::Range;

/// A part of the computation.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: NodeKind,
    /// The place in the text.
    pub(super) at: Range<usize>,
    pub(super) value_type: ValueType,
}

#[derive(Debug)]
pub(super) enum NodeKind {
    Number(f64),
    String {
        text: String,
        /// The string as it was written, if it is not UTF-8.
        invalid: Option<String>,
    },
    /// The newest sample of each series.
    Newest(Selection),
    /// The samples of each series in a window.
    Window {
        selection: Selection,
        range_ms: i64,
    },
    /// The values of an expression in a window.
    Subquery {
        inner: Box<Node>,
        moved: Moved,
        range_ms: i64,
        step_ms: i64,
    },
    Call {
        function: &'static Function,
        arguments: Vec<Node>,
    },
    Aggregation {
        operator: AggregationOperator,
        grouping: Grouping,
        parameter: Option<Box<Node>>,
        inner: Box<Node>,
    },
    Negative(Box<Node>),
    Binary {
        operator: BinaryOperator,
        is_bool: bool,
        left: Box<Node>,
        right: Box<Node>,
        matching: Matching,
    },
    /// A part that has the same value at all times.
    Once(Box<Node>),
}

/// Series, and the time at which they are looked at.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) matchers: Vec<Matcher>,
    pub(super) moved: Moved,
}

/// How the time of a selector depends on the time of the computation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    pub(super) fixed_ms: Option<i64>,
    pub(super) offset_ms: i64,
}

impl Moved {
    pub(super) fn time(&self, at_ms: i64) -> i64 {
        self.fixed_ms.unwrap_or(at_ms).saturating_sub(self.offset_ms)
    }
}

impl Node {
    /// Returns the text of a string.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.kind {
            NodeKind::String { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Returns the name of a label; or the string as it was written, if it is no name.
    pub(super) fn label(&self) -> Result<&str, String> {
        match &self.kind {
            NodeKind::String { invalid: Some(written), .. } => Err(written.clone()),
            NodeKind::String { text, .. } if !text.is_empty() => Ok(text),
            _ => Err("\"\"".to_owned()),
        }
    }

    /// Returns the matchers, if the node selects series itself.
    pub(super) fn matchers(&self) -> Option<&[Matcher]> {
        match &self.kind {
            NodeKind::Newest(selection) | NodeKind::Window { selection, .. } => Some(&selection.matchers),
            NodeKind::Once(inner) => inner.matchers(),
            _ => None,
        }
    }
}

/// The constants of a query.
struct Constants {
    start_ms: i64,
    end_ms: i64,
    step_ms: i64,
    subquery_step_ms: i64,
}

/// Prepares the expression of a query.
pub(super) fn plan(query: &Query<'_>) -> Result<Node, QueryError> {
    let subquery_step_ms = query.settings.subquery_step_ms;
    let constants = match query.times {
        Times::At(at_ms) => Constants { start_ms: at_ms, end_ms: at_ms, step_ms: 0, subquery_step_ms },
        Times::Range { start_ms, end_ms, step_ms } => Constants { start_ms, end_ms, step_ms, subquery_step_ms },
    };
    let (node, is_constant) = constants.node(query.expr)?;
    Ok(if is_constant { once(node) } else { node })
}

/// Functions whose value depends on the time of the computation.
const DEPEND_ON_TIME: [&str; 11] = [
    "days_in_month",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "hour",
    "minute",
    "month",
    "year",
    "predict_linear",
    "time",
    "timestamp",
];

/// Marks a node that has the same value at all times, if computing it is work.
fn once(node: Node) -> Node {
    match node.kind {
        // Windows have times of their own, and literals need no computation.
        NodeKind::Window { .. }
        | NodeKind::Subquery { .. }
        | NodeKind::Number(_)
        | NodeKind::String { .. }
        | NodeKind::Once(_) => node,
        _ => {
            let (at, value_type) = (node.at.clone(), node.value_type);
            Node { kind: NodeKind::Once(Box::new(node)), at, value_type }
        }
    }
}

impl Constants {
    /// Prepares an expression. Returns also whether it has the same value at all times.
    fn node(&self, expr: &Expr) -> Result<(Node, bool), QueryError> {
        let (kind, is_constant) = match &expr.kind {
            ExprKind::Parentheses(inner) => return self.node(inner),
            ExprKind::Unary { is_negative: false, expr: inner } => return self.node(inner),
            ExprKind::Number { value, .. } => (NodeKind::Number(*value), true),
            ExprKind::String { text, invalid } => {
                (NodeKind::String { text: text.clone(), invalid: invalid.clone() }, true)
            }
            ExprKind::Selector { selector, modifiers } => {
                let selection = self.selection(selector, modifiers)?;
                let is_constant = selection.moved.fixed_ms.is_some();
                (NodeKind::Newest(selection), is_constant)
            }
            ExprKind::Range { selector, range, modifiers } => {
                let selection = self.selection(selector, modifiers)?;
                let is_constant = selection.moved.fixed_ms.is_some();
                (NodeKind::Window { selection, range_ms: self.positive(range)? }, is_constant)
            }
            ExprKind::Subquery { expr: inner, range, step, modifiers } => {
                let (inner, is_inner_constant) = self.node(inner)?;
                let inner = Box::new(if is_inner_constant { once(inner) } else { inner });
                let moved = self.moved(modifiers)?;
                let range_ms = self.positive(range)?;
                let step_ms =
                    step.as_ref().map(|step| self.positive(step)).transpose()?.unwrap_or(self.subquery_step_ms);
                if step_ms < 1 {
                    return Err(QueryError::Invalid("the step of a subquery must be at least 1ms".to_owned()));
                }
                (NodeKind::Subquery { inner, moved, range_ms, step_ms }, moved.fixed_ms.is_some())
            }
            ExprKind::Unary { expr: inner, .. } => {
                let (inner, is_constant) = self.node(inner)?;
                (NodeKind::Negative(Box::new(inner)), is_constant)
            }
            ExprKind::Call { function, arguments } => match function.name {
                "start" => (NodeKind::Number(self.start_ms as f64 / 1000.0), true),
                "end" => (NodeKind::Number(self.end_ms as f64 / 1000.0), true),
                "range" => (NodeKind::Number((self.end_ms - self.start_ms) as f64 / 1000.0), true),
                "step" => (NodeKind::Number(self.step_ms as f64 / 1000.0), true),
                _ => self.call(function, arguments)?,
            },
            ExprKind::Aggregation { operator, grouping, parameter, expr: inner } => {
                let parameter = parameter.as_ref().map(|parameter| self.node(parameter)).transpose()?;
                // As in Prometheus, the parameter does not count: if the series have the same values at all times, it
                // is computed once.
                let (inner, is_constant) = self.node(inner)?;
                let kind = NodeKind::Aggregation {
                    operator: *operator,
                    grouping: grouping.clone(),
                    parameter: parameter.map(|(parameter, _)| Box::new(parameter)),
                    inner: Box::new(inner),
                };
                (kind, is_constant)
            }
            ExprKind::Binary { operator, is_bool, left, right, matching } => {
                let (left, is_left_constant) = self.node(left)?;
                let (right, is_right_constant) = self.node(right)?;
                let are_constant = is_left_constant && is_right_constant;
                let side = |side: Node, is_constant: bool| {
                    Box::new(if is_constant && !are_constant { once(side) } else { side })
                };
                let kind = NodeKind::Binary {
                    operator: *operator,
                    is_bool: *is_bool,
                    left: side(left, is_left_constant),
                    right: side(right, is_right_constant),
                    matching: matching.clone(),
                };
                (kind, are_constant)
            }
        };
        Ok((Node { kind, at: expr.at.clone(), value_type: expr.value_type() }, is_constant))
    }

    fn call(&self, function: &'static Function, arguments: &[Expr]) -> Result<(NodeKind, bool), QueryError> {
        let nodes = arguments.iter().map(|argument| self.node(argument)).collect::<Result<Vec<_>, _>>()?;
        let are_constant = nodes.iter().all(|(_, is_constant)| *is_constant);
        let is_of_samples =
            function.name == "timestamp" && nodes.iter().all(|(node, _)| matches!(node.kind, NodeKind::Newest(_)));
        let is_constant = are_constant && (is_of_samples || !DEPEND_ON_TIME.contains(&function.name));
        let prepared = nodes.into_iter().map(|(node, is_argument_constant)| {
            if is_argument_constant && !is_constant && !is_of_samples { once(node) } else { node }
        });
        Ok((NodeKind::Call { function, arguments: prepared.collect() }, is_constant))
    }

    fn selection(&self, selector: &Selector, modifiers: &Modifiers) -> Result<Selection, QueryError> {
        Ok(Selection { matchers: selector.matchers.clone(), moved: self.moved(modifiers)? })
    }

    fn moved(&self, modifiers: &Modifiers) -> Result<Moved, QueryError> {
        let fixed_ms = modifiers.time.map(|time| match time {
            FixedTime::At(at_ms) => at_ms,
            FixedTime::Start => self.start_ms,
            FixedTime::End => self.end_ms,
        });
        let offset_ms = modifiers.offset.as_ref().map_or(Ok(0), |offset| self.milliseconds(offset))?;
        Ok(Moved { fixed_ms, offset_ms })
    }

    fn positive(&self, length: &Length) -> Result<i64, QueryError> {
        let is_computed = !matches!(length.kind, LengthKind::Seconds { .. });
        if is_computed && self.seconds(length)? <= 0.0 {
            return Err(QueryError::Invalid("the duration must be greater than 0".to_owned()));
        }
        self.milliseconds(length)
    }

    fn milliseconds(&self, length: &Length) -> Result<i64, QueryError> {
        let seconds = self.seconds(length)?;
        if !seconds.is_finite() {
            return Err(QueryError::Invalid("the duration is not a finite number".to_owned()));
        }
        if seconds.abs() > (1_u64 << 63) as f64 / 1e9 {
            return Err(QueryError::Invalid("the duration is out of range".to_owned()));
        }
        Ok(match length.kind {
            // Literals are rounded to nanoseconds first: 0.29 is 290 ms.
            LengthKind::Seconds { value, .. } => (value * 1e9).round() as i64 / 1_000_000,
            _ => (seconds * 1000.0) as i64,
        })
    }

    fn seconds(&self, length: &Length) -> Result<f64, QueryError> {
        let by_zero = |what: &str| Err(QueryError::Invalid(format!("{what} by zero in a duration")));
        Ok(match &length.kind {
            LengthKind::Seconds { value, .. } => *value,
            LengthKind::Step => self.step_ms as f64 / 1000.0,
            LengthKind::Range => (self.end_ms - self.start_ms) as f64 / 1000.0,
            LengthKind::Negative(inside) => -self.seconds(inside)?,
            LengthKind::Parentheses(inside) => self.seconds(inside)?,
            LengthKind::Smaller(left, right) => go::min(self.seconds(left)?, self.seconds(right)?),
            LengthKind::Larger(left, right) => go::max(self.seconds(left)?, self.seconds(right)?),
            LengthKind::Binary(operator, left, right) => {
                let (left, right) = (self.seconds(left)?, self.seconds(right)?);
                match operator {
                    BinaryOperator::Divide if right == 0.0 => return by_zero("division"),
                    BinaryOperator::Modulo if right == 0.0 => return by_zero("modulo"),
                    _ => super::binary::compute(*operator, left, right),
                }
            }
        })
    }
}
