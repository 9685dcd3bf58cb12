//! Selects series by the value of one label.

use std::fmt;
use std::sync::Arc;

/// Selects the series whose value of a label is, or is not, among some values. A series without the label has the empty
/// value.
#[derive(Debug, Clone)]
pub struct LabelMatcher {
    /// The name of the label; `__name__` for the name of the metric.
    pub name: String,
    pub values: LabelValues,
    /// Whether the series with other values are selected.
    pub is_negated: bool,
}

/// Some values of a label. The more a variant says, the faster the search.
#[derive(Clone)]
pub enum LabelValues {
    Is(String),
    AnyOf(Vec<String>),
    BeginsWith(String),
    /// Any other rule, such as a regular expression.
    Test(Arc<dyn Fn(&str) -> bool + Send + Sync>),
}

impl LabelMatcher {
    /// Selects the series whose label has a value.
    pub fn is(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::of(name, LabelValues::Is(value.into()))
    }

    pub fn of(name: impl Into<String>, values: LabelValues) -> Self {
        Self { name: name.into(), values, is_negated: false }
    }

    pub fn matches(&self, value: &str) -> bool {
        self.values.have(value) != self.is_negated
    }
}

impl LabelValues {
    /// Returns whether the values have to be found by a search.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::BeginsWith(_) | Self::Test(_))
    }

    pub(super) fn have(&self, value: &str) -> bool {
        match self {
            Self::Is(one) => one == value,
            Self::AnyOf(some) => some.iter().any(|one| one == value),
            Self::BeginsWith(start) => value.starts_with(start),
            Self::Test(test) => test(value),
        }
    }
}

impl fmt::Debug for LabelValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(value) => write!(f, "{value:?}"),
            Self::AnyOf(values) => write!(f, "{values:?}"),
            Self::BeginsWith(start) => write!(f, "{start:?}…"),
            Self::Test(_) => f.write_str("a test"),
        }
    }
}
