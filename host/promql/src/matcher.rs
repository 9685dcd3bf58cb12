use crate::regex::{self, Allowance};
use ::regex::bytes::Regex;

/// How a matcher compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchOperator {
    Equal,
    NotEqual,
    Regex,
    NotRegex,
}

/// A condition on the value of one label. A series without the label has the empty value.
#[derive(Debug, Clone)]
pub struct Matcher {
    pub name: String,
    pub operator: MatchOperator,
    /// The value, or the regular expression.
    pub value: String,
    pattern: ValuePattern,
}

/// The values that a matcher is about, as far as that is known without testing them.
#[derive(Debug, Clone)]
pub enum ValuePattern {
    /// One of these values.
    AnyOf(Vec<String>),
    /// All values that begin with a text.
    BeginsWith(String),
    /// All values that a regular expression matches as a whole.
    Regex(Regex),
}

impl Matcher {
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        let value = value.into();
        let pattern = ValuePattern::AnyOf(vec![value.clone()]);
        Self { name: name.into(), operator: MatchOperator::Equal, value, pattern }
    }

    /// Makes a matcher for any of some values.
    pub fn any_of<'a>(name: impl Into<String>, values: impl IntoIterator<Item = &'a str>) -> Self {
        let values: Vec<String> = values.into_iter().map(str::to_owned).collect();
        let all: Vec<String> = values.iter().map(|value| ::regex::escape(value)).collect();
        let pattern = ValuePattern::AnyOf(values);
        Self { name: name.into(), operator: MatchOperator::Regex, value: all.join("|"), pattern }
    }

    /// Makes a matcher. Fails if the value should be a regular expression and is none; the error says why.
    pub fn new(name: impl Into<String>, operator: MatchOperator, value: impl Into<String>) -> Result<Self, String> {
        Self::within(name, operator, value, &mut Allowance::default())
    }

    /// Makes one of several matchers in a text.
    pub(crate) fn within(
        name: impl Into<String>,
        operator: MatchOperator,
        value: impl Into<String>,
        allowance: &mut Allowance,
    ) -> Result<Self, String> {
        let value = value.into();
        let pattern = match operator {
            MatchOperator::Equal | MatchOperator::NotEqual => ValuePattern::AnyOf(vec![value.clone()]),
            MatchOperator::Regex | MatchOperator::NotRegex => regex::pattern(&value, allowance)?,
        };
        Ok(Self { name: name.into(), operator, value, pattern })
    }

    pub fn pattern(&self) -> &ValuePattern {
        &self.pattern
    }

    /// Returns whether the matcher selects the values that are not among those of its pattern.
    pub fn is_negated(&self) -> bool {
        matches!(self.operator, MatchOperator::NotEqual | MatchOperator::NotRegex)
    }

    pub fn matches(&self, value: &str) -> bool {
        self.pattern.has(value) != self.is_negated()
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.operator, &self.value) == (&other.name, other.operator, &other.value)
    }
}

impl MatchOperator {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        }
    }
}

impl ValuePattern {
    pub fn has(&self, value: &str) -> bool {
        match self {
            Self::AnyOf(values) => values.iter().any(|one| one == value),
            Self::BeginsWith(start) => value.starts_with(start),
            Self::Regex(regex) => regex.is_match(value.as_bytes()),
        }
    }
}
