//! A question, and its answer.

use crate::annotations::{Annotation, Annotations};
use crate::ast::{Expr, ValueType};
use crate::eval;
use crate::source::{QueryError, Source};
use dropsonde_model::Labels;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// An expression, and the times at which its value is wanted.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    pub expr: &'a Expr,
    pub times: Times,
    pub settings: Settings,
}

/// The times at which the value of an expression is wanted, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    At(i64),
    /// `start_ms`, and every `step_ms` after it that is not later than `end_ms`.
    Range {
        start_ms: i64,
        end_ms: i64,
        step_ms: i64,
    },
}

/// How expressions are computed.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How old the newest sample of a series may be, in milliseconds.
    pub lookback_ms: i64,
    /// The step of subqueries that give none, in milliseconds.
    pub subquery_step_ms: i64,
    /// Whether the names of metrics are removed at the end of the computation, instead of by each function.
    pub delayed_name_removal: bool,
}

/// What a query may use.
#[derive(Clone, Default)]
pub struct Limits<'a> {
    pub samples: Option<u64>,
    /// Tells whether a query may hold values of so many bytes at a time. It is asked when a query needs more than before.
    pub memory: Option<MemoryGrant>,
    pub series: Option<usize>,
    pub until: Option<Instant>,
    /// Becomes true when nobody waits for the answer.
    pub cancelled: Option<&'a AtomicBool>,
}

/// Tells whether so many bytes may be held.
pub type MemoryGrant = Arc<dyn Fn(usize) -> bool + Send + Sync>;

/// What a query used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// The samples that were read.
    pub samples: u64,
    /// The most memory of values that was held at a time, in bytes.
    pub peak_memory: usize,
}

/// What a query found.
#[derive(Debug, Clone)]
pub struct Answer {
    pub value: Value,
    pub annotations: Vec<Annotation>,
    pub usage: Usage,
}

/// The earliest times that a query reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// Before each of its times, in milliseconds; `i64::MIN` if what it reads does not depend on them.
    pub back_ms: i64,
    /// The earliest time that it reads at any of its times: because of `@`.
    pub fixed_ms: Option<i64>,
}

/// A series: its labels, and its values with their times.
pub type Points = (Labels, Vec<(i64, f64)>);

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number at a time.
    Scalar(i64, f64),
    String(i64, String),
    /// One value per series, all at one time.
    Vector(i64, Vec<(Labels, f64)>),
    /// Values over time per series, sorted by labels.
    Matrix(Vec<Points>),
}

impl Default for Settings {
    fn default() -> Self {
        Self { lookback_ms: 300_000, subquery_step_ms: 60_000, delayed_name_removal: false }
    }
}

impl Query<'_> {
    /// Returns how far back it reads; none if it reads no series.
    pub fn reach(&self) -> Result<Option<Reach>, QueryError> {
        eval::reach(self)
    }

    /// Computes the answer.
    pub fn run(&self, source: &dyn Source, limits: &Limits<'_>) -> Result<Answer, QueryError> {
        if let Times::Range { start_ms, end_ms, step_ms } = self.times {
            if !matches!(self.expr.value_type(), ValueType::Scalar | ValueType::Vector) {
                let found = self.expr.value_type().as_str();
                let why =
                    format!("invalid expression type \"{found}\" for range query, must be Scalar or instant Vector");
                return Err(QueryError::Invalid(why));
            }
            if step_ms <= 0 {
                return Err(QueryError::Invalid("the step must be greater than 0".to_owned()));
            }
            if end_ms < start_ms {
                return Err(QueryError::Invalid("the end must not be before the start".to_owned()));
            }
        }
        let mut annotations = Annotations::default();
        let (value, usage) = eval::run(self, source, limits, &mut annotations)?;
        Ok(Answer { value, annotations: annotations.into_vec(), usage })
    }
}

impl Limits<'_> {
    /// Returns an error if the query must end now.
    pub(crate) fn check(&self) -> Result<(), QueryError> {
        if self.cancelled.is_some_and(|cancelled| cancelled.load(Ordering::Relaxed)) {
            return Err(QueryError::Cancelled);
        }
        if self.until.is_some_and(|until| Instant::now() >= until) {
            return Err(QueryError::Timeout("ask for less time or fewer series".to_owned()));
        }
        Ok(())
    }
}
