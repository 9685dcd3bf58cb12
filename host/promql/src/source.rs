//! Where the samples of series come from.

use crate::matcher::Matcher;
use dropsonde_model::Labels;

/// The bits of the NaN that marks the end of a series, as in Prometheus.
const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The value that marks the end of a series. Among the values of an answer it stands where a series has none.
pub const STALE: f64 = f64::from_bits(STALE_BITS);

/// Returns whether a value marks the end of a series.
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_BITS
}

/// Series with their samples.
pub trait Source {
    /// Passes each series that a request selects to `visit`, in any order. A series without samples can be left out.
    /// Returns the error of `visit` at once.
    fn select(&self, request: &Request<'_>, visit: &mut Visit<'_>) -> Result<(), QueryError>;
}

/// Takes a series.
pub type Visit<'a> = dyn FnMut(Series<'_>) -> Result<(), QueryError> + 'a;

/// A series with its samples.
#[derive(Debug, Clone, Copy)]
pub struct Series<'a> {
    /// The labels, the name of the metric among them.
    pub labels: &'a Labels,
    pub samples: Samples<'a>,
    /// All series of one request with the same number have the same times.
    pub times: Option<u64>,
    /// Whether a value can be [`STALE`].
    pub can_be_stale: bool,
}

/// What a query needs to know of series.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// All of them must match.
    pub matchers: &'a [Matcher],
    /// Samples are wanted that are later than this, in milliseconds since 1970,
    pub after_ms: i64,
    /// and not later than this.
    pub until_ms: i64,
    /// Whether the newest of them is enough.
    pub newest_only: bool,
    /// Those are wanted that are at most `range_ms` later than `after_ms`, and than each time that is a whole number of
    /// steps later. A source can pass the others, too.
    pub range_ms: i64,
    pub step_ms: i64,
}

/// Samples of a series, ascending in time. A value can be [`STALE`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Samples<'a> {
    pub at_ms: &'a [i64],
    pub values: &'a [f64],
}

/// Why a query has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("{0}")]
    Parse(#[from] crate::ParseError),
    /// The parameters of the query do not fit its expression.
    #[error("{0}")]
    Invalid(String),
    /// The expression cannot be computed for these series.
    #[error("{0}")]
    Execution(String),
    /// The query needs more than it may.
    #[error("{0}")]
    Limit(String),
    #[error("the query took too long: {0}")]
    Timeout(String),
    #[error("the query was cancelled")]
    Cancelled,
    /// The samples cannot be read.
    #[error("{0}")]
    Source(String),
}
