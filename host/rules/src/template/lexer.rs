//! Divides a template into texts and actions, and an action into words.

use super::TemplateError;
use super::value::Value;
use dropsonde_promql::quoted;

/// A text, or the inside of an action.
#[derive(Debug, PartialEq)]
pub(super) enum Piece<'a> {
    Text(&'a str),
    /// The place of the inside, and the inside.
    Action(usize, &'a str),
}

/// A word of an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    /// A function or a keyword.
    Name(String),
    /// With its `$`.
    Variable(String),
    Dot,
    /// `.name`; whether it follows the word before without a space.
    Field(String, bool),
    Constant(Value),
    Open,
    Close,
    Pipe,
    Comma,
    Declare,
    Assign,
}

const OPEN: &str = "{{";
const CLOSE: &str = "}}";

/// Divides a template. `{{-` and `-}}` take the spaces beside them.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, TemplateError> {
    let mut pieces = Vec::new();
    let mut at = 0;
    let mut is_trimmed = false;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let Some(open) = rest.find(OPEN) else {
            pieces.push(Piece::Text(if is_trimmed { rest.trim_start() } else { rest }));
            break;
        };
        let (before, _) = rest.split_at(open);
        let inside_at = at + open + OPEN.len();
        let inside = text.get(inside_at..).unwrap_or_default();
        let trims = inside.strip_prefix('-').is_some_and(|rest| rest.starts_with(char::is_whitespace));
        let before = if is_trimmed { before.trim_start() } else { before };
        pieces.push(Piece::Text(if trims { before.trim_end() } else { before }));
        let (inside, inside_at) =
            if trims { (inside.get(1..).unwrap_or_default(), inside_at + 1) } else { (inside, inside_at) };
        let unclosed = || TemplateError::at(at + open, "unclosed action");
        let length = end_of_action(inside).ok_or_else(unclosed)?;
        let (action, _) = inside.split_at(length);
        at = inside_at + length + CLOSE.len();
        is_trimmed = action.strip_suffix('-').is_some_and(|rest| rest.ends_with(char::is_whitespace));
        let action = if is_trimmed { action.get(..action.len() - 1).unwrap_or_default() } else { action };
        let trimmed = action.trim();
        if let Some(comment) = trimmed.strip_prefix("/*") {
            if !comment.ends_with("*/") {
                return Err(TemplateError::at(inside_at, "a comment ends with */ and the action"));
            }
            continue;
        }
        pieces.push(Piece::Action(inside_at, action));
    }
    Ok(pieces)
}

/// Returns where an action ends: at `}}` outside of texts and comments.
fn end_of_action(inside: &str) -> Option<usize> {
    if inside.trim_start().starts_with("/*") {
        let end = inside.find("*/")? + 2;
        return Some(end + inside.get(end..)?.find(CLOSE)?);
    }
    let mut quote: Option<char> = None;
    let mut is_escaped = false;
    for (at, c) in inside.char_indices() {
        match quote {
            Some(_) if is_escaped => is_escaped = false,
            Some(open) if open != '`' && c == '\\' => is_escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '`' | '\'') => quote = Some(c),
            None if inside.get(at..)?.starts_with(CLOSE) => return Some(at),
            None => {}
        }
    }
    None
}

/// Divides an action into words, each with its place in the template.
pub(super) fn words(action: &str, begin: usize) -> Result<Vec<(usize, Word)>, TemplateError> {
    let mut words: Vec<(usize, Word)> = Vec::new();
    let mut at = 0;
    while let Some(c) = action.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = action.get(at..).unwrap_or_default();
        let place = begin + at;
        let error = |why: String| TemplateError::at(place, why);
        let is_joined = at > 0 && !action.get(..at).is_some_and(|before| before.ends_with(char::is_whitespace));
        let (word, length) = match c {
            _ if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '(' => (Word::Open, 1),
            ')' => (Word::Close, 1),
            '|' => (Word::Pipe, 1),
            ',' => (Word::Comma, 1),
            ':' if rest.starts_with(":=") => (Word::Declare, 2),
            '=' => (Word::Assign, 1),
            '"' | '`' => {
                let (text, length) = quoted::read(rest).map_err(error)?;
                (Word::Constant(Value::Text(String::from_utf8_lossy(&text).into_owned())), length)
            }
            '\'' => {
                let (text, length) = quoted::read(rest).map_err(error)?;
                let text = String::from_utf8_lossy(&text);
                let mut chars = text.chars();
                let (Some(only), None) = (chars.next(), chars.next()) else {
                    return Err(error("a character constant has one character".to_owned()));
                };
                (Word::Constant(Value::Int(i64::from(u32::from(only)))), length)
            }
            '$' => {
                let name = name_at(rest.get(1..).unwrap_or_default());
                (Word::Variable(format!("${name}")), name.len() + 1)
            }
            '.' if rest.get(1..).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())) => {
                number(rest, &error)?
            }
            '.' => {
                let name = name_at(rest.get(1..).unwrap_or_default());
                let word = if name.is_empty() { Word::Dot } else { Word::Field(name.to_owned(), is_joined) };
                (word, name.len() + 1)
            }
            '0'..='9' | '+' | '-' => number(rest, &error)?,
            _ => {
                let name = name_at(rest);
                if name.is_empty() {
                    return Err(error(format!("unexpected {c:?} in an action")));
                }
                (Word::Name(name.to_owned()), name.len())
            }
        };
        words.push((place, word));
        at += length;
    }
    Ok(words)
}

fn name_at(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

fn number(text: &str, error: &dyn Fn(String) -> TemplateError) -> Result<(Word, usize), TemplateError> {
    let mut end = 0;
    let mut before = ' ';
    for c in text.chars() {
        let is_sign = matches!(c, '+' | '-') && (end == 0 || matches!(before, 'e' | 'E'));
        if !(c.is_ascii_alphanumeric() || c == '.' || c == '_' || is_sign) {
            break;
        }
        end += c.len_utf8();
        before = c;
    }
    let written = text.get(..end).unwrap_or_default();
    let digits = written.replace('_', "");
    let unsigned = digits.trim_start_matches(['+', '-']);
    let sign = if digits.starts_with('-') { -1 } else { 1 };
    let radix = |prefix: [&str; 2], radix| {
        let digits = prefix.iter().find_map(|prefix| unsigned.strip_prefix(prefix))?;
        i64::from_str_radix(digits, radix).ok()
    };
    let whole = radix(["0x", "0X"], 16).or(radix(["0b", "0B"], 2)).or(radix(["0o", "0O"], 8)).map(|whole| whole * sign);
    let is_decimal = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let whole = whole.or_else(|| digits.parse().ok());
    let value = match (whole, digits.parse::<f64>().ok().filter(|_| is_decimal)) {
        (Some(whole), _) => Value::Int(whole),
        (None, Some(float)) if float.is_finite() => Value::Float(float),
        _ => return Err(error(format!("bad number syntax: {written:?}"))),
    };
    Ok((Word::Constant(value), end))
}
