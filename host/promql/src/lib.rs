//! Reads selectors of series in PromQL: `http_requests_total{job="api", code=~"5.."}`.
//!
//! ```
//! use dropsonde_promql::{MatchOperator, parse_selector};
//!
//! let matchers = parse_selector(r#"up{job="api", zone!~"a|b"}"#)?;
//! assert_eq!((&*matchers[0].name, &*matchers[0].value), ("__name__", "up"));
//! assert_eq!(matchers[2].operator, MatchOperator::NotRegex);
//! assert!(matchers[2].matches("c") && !matchers[2].matches("a"));
//!
//! let error = parse_selector("up{job='api'").unwrap_err();
//! assert_eq!(error.to_string(), "1:13: parse error: expected `,` or `}`, but the text ends");
//! # Ok::<(), dropsonde_promql::ParseError>(())
//! ```
//!
//! * [`parse_selector`]: the grammar. `quoted`: strings in quotes.
//! * [`Matcher`]: a condition on one label. `regex`: regular expressions as RE2, which Prometheus uses, understands
//!   them.

mod error;
mod matcher;
mod quoted;
mod regex;
mod selector;

pub use error::ParseError;
pub use matcher::{MatchOperator, Matcher, ValuePattern};
pub use selector::parse_selector;
