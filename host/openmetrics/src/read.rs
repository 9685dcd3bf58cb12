//! A reader of both formats, as lenient as Prometheus: it takes what exporters send, line by line, and copies nothing.
//!
//! An exposition may come in pieces of any size:
//!
//! ```
//! use dropsonde_openmetrics::{ExpositionFormat, read::{ExpositionLine, ExpositionReader}};
//!
//! let mut reader = ExpositionReader::new(ExpositionFormat::Text);
//! let mut total = 0.0;
//! let mut add = |line: ExpositionLine<'_>| if let ExpositionLine::Sample(sample) = line { total += sample.value };
//! for piece in ["# TYPE up gauge\nup{job=\"a\"} 1\nup{jo", "b=\"b\"} 1\n"] {
//!     reader.push(piece.as_bytes(), &mut add)?;
//! }
//! reader.finish(&mut add)?;
//! assert_eq!(total, 2.0);
//! # Ok::<(), dropsonde_openmetrics::read::ReadError>(())
//! ```

use crate::ExpositionFormat;
use std::borrow::Cow;

/// The longest line, in bytes. Longer ones are an error, so that a server cannot fill memory with one line.
const LONGEST: usize = 1 << 20;

/// Reads an exposition in pieces. It keeps only the part of a line whose end is yet to come.
#[derive(Debug)]
pub struct ExpositionReader {
    format: ExpositionFormat,
    /// The beginning of a line.
    partial: Vec<u8>,
    /// The number of lines so far.
    lines: u64,
    /// Whether the line `# EOF` was read.
    is_over: bool,
}

/// A line, borrowed from the exposition.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ExpositionLine<'a> {
    Sample(ScrapedSample<'a>),
    /// `# TYPE name kind`.
    Kind {
        name: &'a str,
        kind: &'a str,
    },
    /// `# HELP name text`. The text is escaped as it was written.
    Help {
        name: &'a str,
        text: &'a str,
    },
    /// `# UNIT name unit`.
    Unit {
        name: &'a str,
        unit: &'a str,
    },
}

/// A sample. Its exemplar is left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScrapedSample<'a> {
    pub name: &'a str,
    pub labels: LabelText<'a>,
    pub value: f64,
    /// Milliseconds since 1970 UTC, if the line has a time.
    pub at_ms: Option<i64>,
}

/// The labels of a sample as text, which was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LabelText<'a>(&'a str);

/// Why an exposition cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadError {
    /// Counted from 1.
    pub line: u64,
    pub why: LineFault,
}

/// The mistake in an exposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFault {
    NotText,
    Name,
    Labels,
    Value,
    Time,
    /// Something follows the sample.
    Rest,
    Comment,
    TooLong,
    /// Lines follow `# EOF`.
    AfterEnd,
    /// An OpenMetrics text has no `# EOF`: the answer was cut off.
    NoEnd,
}

// === impl ExpositionReader ===

impl ExpositionReader {
    pub fn new(format: ExpositionFormat) -> Self {
        Self { format, partial: Vec::new(), lines: 0, is_over: false }
    }

    /// Reads the next piece, and calls `take` with each line that is complete. After an error the reader is of no more
    /// use.
    pub fn push(&mut self, piece: &[u8], take: &mut impl FnMut(ExpositionLine<'_>)) -> Result<(), ReadError> {
        let mut rest = piece;
        if !self.partial.is_empty() {
            let Some(end) = memchr::memchr(b'\n', rest) else { return self.keep(rest) };
            let (end_of_line, others) = rest.split_at(end);
            self.keep(end_of_line)?;
            let line = std::mem::take(&mut self.partial);
            self.line(&line, take)?;
            self.partial = line;
            self.partial.clear();
            rest = others.get(1..).unwrap_or_default();
        }
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, others) = rest.split_at(end);
            self.line(line, take)?;
            rest = others.get(1..).unwrap_or_default();
        }
        self.keep(rest)
    }

    /// Reads a last line that has no newline, and checks that an OpenMetrics text is complete.
    pub fn finish(mut self, take: &mut impl FnMut(ExpositionLine<'_>)) -> Result<(), ReadError> {
        let line = std::mem::take(&mut self.partial);
        if !line.is_empty() {
            self.line(&line, take)?;
        }
        match self.format {
            ExpositionFormat::OpenMetrics if !self.is_over => Err(self.error(LineFault::NoEnd)),
            _ => Ok(()),
        }
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), ReadError> {
        if self.partial.len() + part.len() > LONGEST {
            self.lines += 1;
            return Err(self.error(LineFault::TooLong));
        }
        self.partial.extend_from_slice(part);
        Ok(())
    }

    fn line(&mut self, line: &[u8], take: &mut impl FnMut(ExpositionLine<'_>)) -> Result<(), ReadError> {
        self.lines += 1;
        let text = std::str::from_utf8(line).map_err(|_| self.error(LineFault::NotText))?;
        let is_open = matches!(self.format, ExpositionFormat::OpenMetrics);
        if self.is_over {
            return if text.is_empty() && !is_open { Ok(()) } else { Err(self.error(LineFault::AfterEnd)) };
        }
        if is_open && text == "# EOF" {
            self.is_over = true;
            return Ok(());
        }
        let text = text.trim_start_matches(BLANK);
        let read = match text.as_bytes().first() {
            None => Ok(None),
            Some(b'#') => comment(text),
            Some(_) => sample(text, is_open).map(|sample| Some(ExpositionLine::Sample(sample))),
        };
        if let Some(line) = read.map_err(|why| self.error(why))? {
            take(line);
        }
        Ok(())
    }

    fn error(&self, why: LineFault) -> ReadError {
        ReadError { line: self.lines, why }
    }
}

/// Reads a whole exposition, and calls `take` with each line.
pub fn read(
    exposition: &[u8],
    format: ExpositionFormat,
    take: &mut impl FnMut(ExpositionLine<'_>),
) -> Result<(), ReadError> {
    let mut reader = ExpositionReader::new(format);
    reader.push(exposition, take)?;
    reader.finish(take)
}

const BLANK: [char; 2] = [' ', '\t'];

/// Reads a comment. None: it is not one of those that have a meaning.
fn comment(text: &str) -> Result<Option<ExpositionLine<'_>>, LineFault> {
    let rest = text.get(1..).unwrap_or_default().trim_start_matches(BLANK);
    let (what, rest) = word(rest);
    if !matches!(what, "TYPE" | "HELP" | "UNIT") {
        return Ok(None);
    }
    let (name, rest) = match rest.strip_prefix('"') {
        Some(quoted) => {
            let end = closing_quote(quoted).ok_or(LineFault::Name)?;
            let (name, rest) = quoted.split_at_checked(end).ok_or(LineFault::Name)?;
            (name, rest.get(1..).unwrap_or_default().trim_start_matches(BLANK))
        }
        None => {
            let (name, rest) = word(rest);
            if name_end(name, is_in_name) != name.len() || name.is_empty() {
                return Err(LineFault::Name);
            }
            (name, rest)
        }
    };
    let last = rest.trim_end_matches(BLANK);
    Ok(Some(match what {
        "TYPE" if last.is_empty() => return Err(LineFault::Comment),
        "TYPE" => ExpositionLine::Kind { name, kind: last },
        "UNIT" => ExpositionLine::Unit { name, unit: last },
        _ => ExpositionLine::Help { name, text: rest },
    }))
}

/// Splits off the first word, and the blanks behind it.
fn word(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_at(text.find(BLANK).unwrap_or(text.len()));
    (word, rest.trim_start_matches(BLANK))
}

/// Reads `name{labels} value time`, or `{"name",labels} value time`.
fn sample(text: &str, is_open: bool) -> Result<ScrapedSample<'_>, LineFault> {
    let (mut name, rest) = text.split_at(name_end(text, is_in_name));
    let rest = rest.trim_start_matches(BLANK);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => {
            let (quoted, end) = labels(inside)?;
            let (labels, rest) = inside.split_at_checked(end).ok_or(LineFault::Labels)?;
            match quoted {
                Some(quoted) if name.is_empty() => name = quoted,
                Some(_) => return Err(LineFault::Labels),
                None => {}
            }
            (labels, rest.get(1..).unwrap_or_default())
        }
        // Without labels there is a blank behind the name.
        None if rest.len() == text.len() - name.len() => return Err(LineFault::Name),
        None => ("", rest),
    };
    if name.is_empty() {
        return Err(LineFault::Name);
    }
    let (value, rest) = word(rest.trim_start_matches(BLANK));
    let value = number(value).ok_or(LineFault::Value)?;
    let (time, rest) = if rest.starts_with('#') { ("", rest) } else { word(rest) };
    let at_ms = match time {
        "" => None,
        time if is_open => Some((number(time).filter(|time| time.is_finite()).ok_or(LineFault::Time)? * 1000.0) as i64),
        time => Some(time.parse().map_err(|_| LineFault::Time)?),
    };
    if !(rest.is_empty() || (is_open && rest.starts_with("# {"))) {
        return Err(LineFault::Rest);
    }
    Ok(ScrapedSample { name, labels: LabelText(labels), value, at_ms })
}

/// Checks the labels behind `{`. Returns a name in quotes that is among them, and where their `}` is.
fn labels(text: &str) -> Result<(Option<&str>, usize), LineFault> {
    let bytes = text.as_bytes();
    let (mut at, mut name) = (0, None);
    let skip = |at: usize| at + blanks(bytes.get(at..).unwrap_or_default());
    loop {
        at = skip(at);
        match bytes.get(at).ok_or(LineFault::Labels)? {
            b'}' => return Ok((name, at)),
            b'"' => {
                let inside = text.get(at + 1..).ok_or(LineFault::Labels)?;
                let end = closing_quote(inside).ok_or(LineFault::Labels)?;
                at = skip(at + end + 2);
                if bytes.get(at) == Some(&b'=') {
                    at = value(text, skip(at + 1))?;
                } else if name.replace(inside.get(..end).ok_or(LineFault::Labels)?).is_some() {
                    return Err(LineFault::Labels);
                }
            }
            _ => {
                let length = name_end(text.get(at..).ok_or(LineFault::Labels)?, is_in_label);
                if length == 0 {
                    return Err(LineFault::Labels);
                }
                at = skip(at + length);
                if bytes.get(at) != Some(&b'=') {
                    return Err(LineFault::Labels);
                }
                at = value(text, skip(at + 1))?;
            }
        }
        at = skip(at);
        match bytes.get(at) {
            Some(b',') => at += 1,
            Some(b'}') => {}
            _ => return Err(LineFault::Labels),
        }
    }
}

/// Checks the value of a label, which begins at `at` with a quote. Returns where the text behind it begins.
fn value(text: &str, at: usize) -> Result<usize, LineFault> {
    let inside = text.get(at..).and_then(|text| text.strip_prefix('"')).ok_or(LineFault::Labels)?;
    Ok(at + 1 + closing_quote(inside).ok_or(LineFault::Labels)? + 1)
}

/// Returns where the quote is that ends a text in quotes.
fn closing_quote(text: &str) -> Option<usize> {
    let (bytes, mut from) = (text.as_bytes(), 0);
    loop {
        let at = from + memchr::memchr2(b'"', b'\\', bytes.get(from..)?)?;
        if bytes.get(at) == Some(&b'"') {
            return Some(at);
        }
        from = at + 2;
    }
}

fn blanks(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count()
}

fn name_end(text: &str, is_in: fn(u8) -> bool) -> usize {
    let bytes = text.as_bytes();
    if bytes.first().is_some_and(u8::is_ascii_digit) {
        return 0;
    }
    bytes.iter().position(|byte| !is_in(*byte)).unwrap_or(bytes.len())
}

fn is_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':'
}

fn is_in_label(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Parses a number as Go writes it.
fn number(text: &str) -> Option<f64> {
    // Counts are most numbers, and Rust's parser is slower for them.
    if text.len() <= 15 && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let digits = text.bytes().fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
        return Some(digits as f64);
    }
    match text.bytes().find(|byte| byte.is_ascii_alphabetic()) {
        None | Some(b'e' | b'E') => text.parse().ok(),
        // Rust also takes `infinity` and `nan` in any case, as Go does.
        Some(b'i' | b'I' | b'n' | b'N') => text.parse().ok(),
        Some(_) => None,
    }
}

// === impl LabelText ===

impl<'a> LabelText<'a> {
    /// Returns names and values, in the order of the text.
    pub fn iter(self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            loop {
                rest = rest.trim_start_matches([' ', '\t', ',']);
                let (name, behind) = match rest.strip_prefix('"') {
                    Some(quoted) => {
                        let (name, behind) = quoted.split_at_checked(closing_quote(quoted)?)?;
                        (unescape(name), behind.get(1..)?)
                    }
                    None => {
                        let (name, behind) = rest.split_at(name_end(rest, is_in_label));
                        (Cow::Borrowed(name), behind)
                    }
                };
                let Some(behind) = behind.trim_start_matches(BLANK).strip_prefix('=') else {
                    // The name of the metric in quotes, or the end.
                    if behind.is_empty() || behind.len() == rest.len() {
                        return None;
                    }
                    rest = behind;
                    continue;
                };
                let quoted = behind.trim_start_matches(BLANK).strip_prefix('"')?;
                let (value, behind) = quoted.split_at_checked(closing_quote(quoted)?)?;
                rest = behind.get(1..)?;
                return Some((name, unescape(value)));
            }
        })
    }

    /// Returns the value of a label; none if there is no such label.
    pub fn get(self, name: &str) -> Option<Cow<'a, str>> {
        self.iter().find(|(other, _)| other == name).map(|(_, value)| value)
    }

    /// Returns the text between the braces, as it was written.
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

/// Replaces `\\`, `\"` and `\n`. Any other backslash stands for itself.
fn unescape(text: &str) -> Cow<'_, str> {
    if memchr::memchr(b'\\', text.as_bytes()).is_none() {
        return Cow::Borrowed(text);
    }
    let (mut plain, mut chars) = (String::with_capacity(text.len()), text.chars());
    while let Some(char) = chars.next() {
        match (char, chars.as_str().chars().next()) {
            ('\\', Some(escaped @ ('\\' | '"'))) => {
                plain.push(escaped);
                chars.next();
            }
            ('\\', Some('n')) => {
                plain.push('\n');
                chars.next();
            }
            (char, _) => plain.push(char),
        }
    }
    Cow::Owned(plain)
}

// === impl ReadError ===

impl std::error::Error for ReadError {}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = match self.why {
            LineFault::NotText => "it is not UTF-8",
            LineFault::Name => "it does not begin with the name of a metric",
            LineFault::Labels => "its labels are malformed",
            LineFault::Value => "its value is not a number",
            LineFault::Time => "its time is not a number",
            LineFault::Rest => "something follows its value and time",
            LineFault::Comment => "the comment is incomplete",
            LineFault::TooLong => "it is longer than 1 MiB",
            LineFault::AfterEnd => "it follows # EOF",
            LineFault::NoEnd => "the text ends without # EOF: it was cut off",
        };
        write!(f, "line {}: {why}", self.line)
    }
}

#[cfg(test)]
mod tests;
