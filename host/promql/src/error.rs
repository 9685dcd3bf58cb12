use std::fmt;
use std::ops::Range;

/// Characters of a message.
const LONGEST_MESSAGE: usize = 400;

/// A mistake in a text, with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ParseError {
    /// Where the mistake is, in bytes.
    pub at: Range<usize>,
    /// The line and the column where it begins, counted from 1; columns count characters.
    line: usize,
    column: usize,
    pub message: String,
}

impl ParseError {
    pub(crate) fn new(text: &str, at: Range<usize>, message: impl Into<String>) -> Self {
        let before = text.get(..at.start).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let mut message = message.into();
        // The text may be as long as a client likes.
        if let Some((end, _)) = message.char_indices().nth(LONGEST_MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        Self { at, line, column, message }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: parse error: {}", self.line, self.column, self.message)
    }
}
