//! A text that is being read.

use crate::error::ParseError;
use crate::quoted;
use crate::regex::Allowance;
use std::ops::Range;

#[derive(Clone)]
pub(crate) struct Text<'a> {
    pub(crate) text: &'a str,
    pub(crate) at: usize,
    /// Where the last token ended.
    pub(crate) end: usize,
    pub(crate) allowance: Allowance,
}

impl<'a> Text<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, end: 0, allowance: Allowance::default() }
    }

    pub(crate) fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest().bytes().next()
    }

    /// Skips blanks and comments.
    pub(crate) fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return;
            }
            self.at += trimmed.find(['\n', '\r']).unwrap_or(trimmed.len());
        }
    }

    /// Goes on behind a token of some bytes.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.at += bytes;
        self.end = self.at;
        self.skip_blanks();
    }

    /// Goes on behind a token, if it is there.
    pub(crate) fn take(&mut self, token: &str) -> bool {
        let is_there = self.rest().starts_with(token);
        if is_there {
            self.advance(token.len());
        }
        is_there
    }

    pub(crate) fn expect(&mut self, token: &str, instead: &str) -> Result<(), ParseError> {
        if self.take(token) { Ok(()) } else { Err(self.expected(instead)) }
    }

    /// Returns the word that begins here: letters, digits, `_`, and `:` if the word may be the name of a metric.
    pub(crate) fn word(&self, may_have_colons: bool) -> &'a str {
        let rest = self.rest();
        let is_in = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || (may_have_colons && byte == b':');
        let end = rest.bytes().position(|byte| !is_in(byte)).unwrap_or(rest.len());
        rest.get(..end).filter(|word| !word.starts_with(|c: char| c.is_ascii_digit())).unwrap_or_default()
    }

    /// Goes on behind a keyword, in capital or small letters, if it is there.
    pub(crate) fn take_keyword(&mut self, keyword: &str) -> bool {
        let is_there = self.word(true).eq_ignore_ascii_case(keyword);
        if is_there {
            self.advance(keyword.len());
        }
        is_there
    }

    pub(crate) fn begins_string(&self) -> bool {
        self.rest().starts_with(['"', '\'', '`'])
    }

    /// Reads a string in quotes.
    pub(crate) fn string(&mut self) -> Result<String, ParseError> {
        let start = self.at;
        match self.any_string()? {
            (string, true) => Ok(string),
            (_, false) => Err(self.error(start..self.end, "the string is not UTF-8")),
        }
    }

    /// Reads a string in quotes. Returns also whether it is UTF-8: if not, each wrong part is U+FFFD.
    pub(crate) fn any_string(&mut self) -> Result<(String, bool), ParseError> {
        if !self.begins_string() {
            return Err(self.expected("a string in quotes"));
        }
        let (bytes, length) = quoted::read(self.rest()).map_err(|why| self.error(self.at..self.text.len(), why))?;
        self.advance(length);
        Ok(match String::from_utf8(bytes) {
            Ok(string) => (string, true),
            Err(error) => (String::from_utf8_lossy(error.as_bytes()).into_owned(), false),
        })
    }

    pub(crate) fn error(&self, at: Range<usize>, message: impl Into<String>) -> ParseError {
        ParseError::new(self.text, at, message)
    }

    pub(crate) fn expected(&self, what: &str) -> ParseError {
        let word = self.word(true);
        let found = match (word, self.rest().chars().next()) {
            (_, None) => "the text ends".to_owned(),
            ("", Some(c)) => format!("found `{}`", c.escape_debug()),
            (word, _) => format!("found `{word}`"),
        };
        let length = word.len().max(self.rest().chars().next().map_or(0, char::len_utf8));
        self.error(self.at..self.at + length, format!("expected {what}, but {found}"))
    }
}
