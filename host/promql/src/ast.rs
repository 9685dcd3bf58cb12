//! What an expression says, as it was written: with the place of each part in the text.

use crate::functions::Function;
use crate::matcher::Matcher;
use dropsonde_model::labels::NAME;
use std::ops::Range;

/// A part of an expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Expr {
    pub kind: ExprKind,
    /// The place in the text, in bytes.
    pub at: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ExprKind {
    /// A number, or a duration in seconds.
    Number {
        value: f64,
        is_duration: bool,
    },
    String {
        text: String,
        /// The string as it was written, if it is not UTF-8. Then each wrong part of the text is U+FFFD.
        invalid: Option<String>,
    },
    /// `up{job="api"} offset 5m`
    Selector {
        selector: Selector,
        modifiers: Modifiers,
    },
    /// `up{job="api"}[5m] @ 0`
    Range {
        selector: Selector,
        range: Length,
        modifiers: Modifiers,
    },
    /// `rate(x[5m])[1h:1m]`
    Subquery {
        expr: Box<Expr>,
        range: Length,
        step: Option<Length>,
        modifiers: Modifiers,
    },
    Call {
        function: &'static Function,
        arguments: Vec<Expr>,
    },
    Aggregation {
        operator: AggregationOperator,
        grouping: Grouping,
        /// The `k` of `topk`, the quantile, the label of `count_values`.
        parameter: Option<Box<Expr>>,
        expr: Box<Expr>,
    },
    Unary {
        is_negative: bool,
        expr: Box<Expr>,
    },
    Binary {
        operator: BinaryOperator,
        /// Whether a comparison answers 0 or 1.
        is_bool: bool,
        left: Box<Expr>,
        right: Box<Expr>,
        /// How series of both sides find each other, if both sides have series.
        matching: Matching,
    },
    Parentheses(Box<Expr>),
}

/// Conditions on series. A name before the braces is also the first matcher.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Selector {
    /// The name before the braces.
    pub name: Option<String>,
    pub matchers: Vec<Matcher>,
}

/// What moves a selector or a subquery in time.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Modifiers {
    pub offset: Option<Length>,
    pub time: Option<FixedTime>,
}

/// The time behind `@`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FixedTime {
    /// Milliseconds since 1970.
    At(i64),
    Start,
    End,
}

/// A length of time, possibly computed: `5m`, `300`, `step() * 2`.
#[derive(Debug, Clone, PartialEq)]
pub struct Length {
    pub kind: LengthKind,
    pub at: Range<usize>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum LengthKind {
    /// A number of seconds, or a duration.
    Seconds {
        value: f64,
        is_duration: bool,
    },
    /// The step of the query.
    Step,
    /// The time from the start of the query to its end.
    Range,
    Negative(Box<Length>),
    Parentheses(Box<Length>),
    Binary(BinaryOperator, Box<Length>, Box<Length>),
    Smaller(Box<Length>, Box<Length>),
    Larger(Box<Length>, Box<Length>),
}

/// The types of expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueType {
    Scalar,
    String,
    /// One value per series.
    Vector,
    /// Samples of some time per series.
    Matrix,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinaryOperator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Power,
    Atan2,
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterOrEqual,
    LessOrEqual,
    And,
    Or,
    Unless,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregationOperator {
    Sum,
    Average,
    Count,
    Min,
    Max,
    Group,
    StandardDeviation,
    Variance,
    TopK,
    BottomK,
    CountValues,
    Quantile,
    LimitK,
    LimitRatio,
}

/// The labels that tell groups of series apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Grouping {
    /// Only these.
    By(Vec<String>),
    /// All but these and the name.
    Without(Vec<String>),
}

/// How series of two sides find each other.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Matching {
    pub labels: MatchingLabels,
    pub cardinality: Cardinality,
    /// The value of a series that the left side lacks.
    pub fill_left: Option<f64>,
    /// The value of a series that the right side lacks.
    pub fill_right: Option<f64>,
}

/// The labels that must be equal on both sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MatchingLabels {
    On(Vec<String>),
    Ignoring(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cardinality {
    #[default]
    OneToOne,
    /// `group_left`: several series of the left side may match one of the right. These labels come from the right.
    ManyToOne(Vec<String>),
    /// `group_right`
    OneToMany(Vec<String>),
    /// Operators on sets.
    ManyToMany,
}

// === impl Expr ===

impl Expr {
    pub(crate) fn new(kind: ExprKind, at: Range<usize>) -> Self {
        Self { kind, at }
    }

    pub fn value_type(&self) -> ValueType {
        match &self.kind {
            ExprKind::Number { .. } => ValueType::Scalar,
            ExprKind::String { .. } => ValueType::String,
            ExprKind::Selector { .. } | ExprKind::Aggregation { .. } => ValueType::Vector,
            ExprKind::Range { .. } | ExprKind::Subquery { .. } => ValueType::Matrix,
            ExprKind::Call { function, .. } => function.returns,
            ExprKind::Unary { expr, .. } | ExprKind::Parentheses(expr) => expr.value_type(),
            ExprKind::Binary { left, right, .. } => match (left.value_type(), right.value_type()) {
                (ValueType::Scalar, ValueType::Scalar) => ValueType::Scalar,
                _ => ValueType::Vector,
            },
        }
    }

    /// Passes all selectors to `change`.
    pub fn change_selectors(&mut self, change: &mut dyn FnMut(&mut Selector)) {
        match &mut self.kind {
            ExprKind::Number { .. } | ExprKind::String { .. } => {}
            ExprKind::Selector { selector, .. } | ExprKind::Range { selector, .. } => change(selector),
            ExprKind::Subquery { expr, .. } | ExprKind::Unary { expr, .. } | ExprKind::Parentheses(expr) => {
                expr.change_selectors(change);
            }
            ExprKind::Call { arguments, .. } => arguments.iter_mut().for_each(|part| part.change_selectors(change)),
            ExprKind::Aggregation { parameter, expr, .. } => {
                parameter.iter_mut().for_each(|part| part.change_selectors(change));
                expr.change_selectors(change);
            }
            ExprKind::Binary { left, right, .. } => {
                left.change_selectors(change);
                right.change_selectors(change);
            }
        }
    }

    /// Returns the expressions that this one is made of.
    pub fn children(&self) -> Vec<&Expr> {
        match &self.kind {
            ExprKind::Number { .. } | ExprKind::String { .. } => Vec::new(),
            ExprKind::Selector { .. } | ExprKind::Range { .. } => Vec::new(),
            ExprKind::Subquery { expr, .. } | ExprKind::Unary { expr, .. } | ExprKind::Parentheses(expr) => vec![expr],
            ExprKind::Call { arguments, .. } => arguments.iter().collect(),
            ExprKind::Aggregation { parameter, expr, .. } => {
                parameter.iter().map(|parameter| &**parameter).chain([&**expr]).collect()
            }
            ExprKind::Binary { left, right, .. } => vec![left, right],
        }
    }
}

// === impl Length ===

impl LengthKind {
    pub(crate) const ZERO: Self = Self::Seconds { value: 0.0, is_duration: false };
}

impl Length {
    pub(crate) fn new(kind: LengthKind, at: Range<usize>) -> Self {
        Self { kind, at }
    }
}

// === impl Selector ===

impl Selector {
    pub(crate) fn named(name: String) -> Self {
        Self { matchers: vec![Matcher::equal(NAME, &*name)], name: Some(name) }
    }
}

// === impl ValueType ===

impl ValueType {
    /// Returns the name that users know.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::String => "string",
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
        }
    }
}

// === impl BinaryOperator ===

impl BinaryOperator {
    pub const ALL: [Self; 16] = [
        Self::Add,
        Self::Subtract,
        Self::Multiply,
        Self::Divide,
        Self::Modulo,
        Self::Power,
        Self::Atan2,
        Self::Equal,
        Self::NotEqual,
        Self::Greater,
        Self::Less,
        Self::GreaterOrEqual,
        Self::LessOrEqual,
        Self::And,
        Self::Or,
        Self::Unless,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Modulo => "%",
            Self::Power => "^",
            Self::Atan2 => "atan2",
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Greater => ">",
            Self::Less => "<",
            Self::GreaterOrEqual => ">=",
            Self::LessOrEqual => "<=",
            Self::And => "and",
            Self::Or => "or",
            Self::Unless => "unless",
        }
    }

    /// Returns how strongly the operator binds.
    pub(crate) fn strength(self) -> u8 {
        match self {
            Self::Or => 1,
            Self::And | Self::Unless => 2,
            Self::Equal | Self::NotEqual | Self::Greater | Self::Less | Self::GreaterOrEqual | Self::LessOrEqual => 3,
            Self::Add | Self::Subtract => 4,
            Self::Multiply | Self::Divide | Self::Modulo | Self::Atan2 => 5,
            Self::Power => 6,
        }
    }

    pub fn is_comparison(self) -> bool {
        self.strength() == 3
    }

    pub fn is_on_sets(self) -> bool {
        matches!(self, Self::And | Self::Or | Self::Unless)
    }
}

// === impl AggregationOperator ===

impl AggregationOperator {
    pub const ALL: [Self; 14] = [
        Self::Sum,
        Self::Average,
        Self::Count,
        Self::Min,
        Self::Max,
        Self::Group,
        Self::StandardDeviation,
        Self::Variance,
        Self::TopK,
        Self::BottomK,
        Self::CountValues,
        Self::Quantile,
        Self::LimitK,
        Self::LimitRatio,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Average => "avg",
            Self::Count => "count",
            Self::Min => "min",
            Self::Max => "max",
            Self::Group => "group",
            Self::StandardDeviation => "stddev",
            Self::Variance => "stdvar",
            Self::TopK => "topk",
            Self::BottomK => "bottomk",
            Self::CountValues => "count_values",
            Self::Quantile => "quantile",
            Self::LimitK => "limitk",
            Self::LimitRatio => "limit_ratio",
        }
    }

    /// Returns the type of the parameter before the series.
    pub fn parameter(self) -> Option<ValueType> {
        match self {
            Self::CountValues => Some(ValueType::String),
            Self::TopK | Self::BottomK | Self::Quantile | Self::LimitK | Self::LimitRatio => Some(ValueType::Scalar),
            _ => None,
        }
    }

    pub fn is_experimental(self) -> bool {
        matches!(self, Self::LimitK | Self::LimitRatio)
    }
}

// === impl MatchingLabels ===

impl Default for MatchingLabels {
    fn default() -> Self {
        Self::Ignoring(Vec::new())
    }
}
