//! PromQL, the query language of Prometheus 3: reads expressions, and computes them over any source of series.
//!
//! ```
//! use dropsonde_model::Labels;
//! use dropsonde_promql::{Limits, MemorySource, ParseOptions, Query, Settings, Times, Value, parse};
//!
//! let mut source = MemorySource::new();
//! for minute in 0..10 {
//!     let labels = Labels::from([("__name__", "requests_total"), ("job", "api")]);
//!     source.push(&labels, minute * 60_000, minute as f64 * 30.0);
//! }
//! let expr = parse("sum by (job) (rate(requests_total[5m]))", ParseOptions::default())?;
//! let query = Query { expr: &expr, times: Times::At(540_000), settings: Settings::default() };
//! let answer = query.run(&source, &Limits::default())?;
//! assert_eq!(answer.value, Value::Vector(540_000, vec![(Labels::from([("job", "api")]), 0.5)]));
//!
//! let error = parse("rate(requests_total)", ParseOptions::default()).unwrap_err();
//! let message = "1:6: parse error: `rate` takes a range vector, but this is an instant vector";
//! assert_eq!(error.to_string(), message);
//! # Ok::<(), dropsonde_promql::QueryError>(())
//! ```
//!
//! * [`parse`]: the grammar; `ast` what it reads, `printer` writes it again. [`parse_selector`]: selectors alone.
//! * [`Query`]: a question with its times and limits, and the [`Answer`]. `eval` computes it.
//! * [`Source`]: where samples come from. [`MemorySource`]: series in memory.
//! * [`Annotation`]: remarks on an answer.
//! * [`functions`]: the names and arguments of all functions. [`number`]: numbers as Go writes them; [`quoted`]:
//!   its strings in quotes; [`notation`]: series as tests write them.
//! * [`Matcher`]: a condition on one label. `regex`: regular expressions as RE2, which Prometheus uses, understands
//!   them.
//!
//! Native histograms, `info()`, `anchored`, `smoothed` and start timestamps are not supported: the parser says so.

mod annotations;
mod ast;
mod error;
mod eval;
pub mod functions;
mod matcher;
mod memory;
pub mod notation;
pub mod number;
mod parser;
mod printer;
mod query;
pub mod quoted;
mod regex;
mod source;
mod text;

pub use annotations::{Annotation, AnnotationKind};
pub use ast::{
    AggregationOperator, BinaryOperator, Cardinality, Expr, ExprKind, FixedTime, Grouping, Length, LengthKind,
    Matching, MatchingLabels, Modifiers, Selector, ValueType,
};
pub use error::ParseError;
/// Reads a duration such as `1m30s`. Returns milliseconds.
pub fn duration_ms(text: &str) -> Option<i64> {
    if text.is_empty() { None } else { number::parse_duration(text).ok() }
}

pub use matcher::{MatchOperator, Matcher, ValuePattern};
pub use memory::MemorySource;
pub use parser::{ParseOptions, parse, parse_selector, parse_selectors};
pub use query::{Answer, Limits, MemoryGrant, Points, Query, Reach, Settings, Times, Usage, Value};
pub use source::{QueryError, Request, STALE, Samples, Series, Source, Visit, is_stale};
