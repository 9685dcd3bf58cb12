//! Numbers, and lengths of time that can be computed: `[5m]`, `[step() * 2]`, `offset -(1h / 2)`.

use crate::ast::{BinaryOperator, Length, LengthKind};
use crate::error::ParseError;
use crate::number;
use crate::text::Text;

/// The longest length, in seconds: nanoseconds in 63 bits.
const LONGEST: f64 = (1_u64 << 63) as f64 / 1e9;

/// How deep a length may be nested.
const DEEPEST: usize = 50;

/// Reads a number or a duration. Returns it in seconds, and whether it is a duration.
pub(super) fn number(text: &mut Text<'_>) -> Result<(f64, bool), ParseError> {
    let start = text.at;
    let rest = text.rest().as_bytes();
    let word = text.word(false);
    let length = if word.is_empty() { number_length(rest) } else { word.len() };
    let token = text.rest().get(..length).unwrap_or_default();
    text.advance(length);
    if let Some(number) = number::parse(token) {
        return Ok((number, false));
    }
    let at = start..start + length;
    let is_duration = token.ends_with(|c: char| c.is_ascii_alphabetic()) && !token.starts_with("0x");
    if is_duration && !token.contains(['.', '_']) {
        let milliseconds = number::parse_duration(token).map_err(|why| text.error(at, why))?;
        return Ok((milliseconds as f64 / 1000.0, true));
    }
    Err(text.error(at, format!("`{token}` is neither a number nor a duration such as 5m")))
}

/// Returns the number of bytes of the number or the duration that a text begins with.
fn number_length(text: &[u8]) -> usize {
    let is_hexadecimal = matches!(text, [b'0', b'x' | b'X', ..]);
    let mut length = 0;
    while let Some(byte) = text.get(length) {
        let before = length.checked_sub(1).and_then(|at| text.get(at));
        let is_exponent = matches!(before, Some(b'e' | b'E')) && !is_hexadecimal;
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'.' => length += 1,
            b'+' | b'-' if is_exponent => length += 1,
            _ => break,
        }
    }
    length
}

/// Reads a length that must be above zero, if that is known already.
pub(super) fn positive(text: &mut Text<'_>) -> Result<Length, ParseError> {
    let length = sum(text, 0, 0)?;
    match length.kind {
        LengthKind::Seconds { value, .. } if value <= 0.0 => {
            Err(text.error(length.at, "the duration must be greater than 0"))
        }
        _ => Ok(length),
    }
}

/// Reads the length behind `offset`. Only its sign belongs to it: `x offset 1m + 1m` adds to `x`.
pub(super) fn offset(text: &mut Text<'_>) -> Result<Length, ParseError> {
    sign(text, BinaryOperator::Power.strength() + 1, 0)
}

/// Reads lengths and the operators between them, as long as these bind at least so strongly.
fn sum(text: &mut Text<'_>, strength: u8, depth: usize) -> Result<Length, ParseError> {
    let check_depth = |text: &Text<'_>, depth| {
        let why = format!("the duration is nested more than {DEEPEST} levels deep, or has as many operators in a row");
        if depth > DEEPEST { Err(text.error(text.at..text.at, why)) } else { Ok(()) }
    };
    let mut depth = depth;
    check_depth(text, depth)?;
    let mut left = sign(text, strength, depth)?;
    while let Some(operator) = operator(text).filter(|operator| operator.strength() >= strength) {
        depth += 1;
        check_depth(text, depth)?;
        let place = text.at..text.at + 1;
        text.advance(1);
        let is_power = operator == BinaryOperator::Power;
        let right = sum(text, operator.strength() + u8::from(!is_power), depth + 1)?;
        let is_zero = matches!(right.kind, LengthKind::Seconds { value: 0.0, .. });
        match operator {
            BinaryOperator::Divide if is_zero => return Err(text.error(place, "division by zero")),
            BinaryOperator::Modulo if is_zero => return Err(text.error(place, "modulo by zero")),
            _ => {}
        }
        let at = left.at.start..right.at.end;
        left = Length::new(LengthKind::Binary(operator, Box::new(left), Box::new(right)), at);
    }
    Ok(left)
}

fn operator(text: &Text<'_>) -> Option<BinaryOperator> {
    Some(match text.peek()? {
        b'+' => BinaryOperator::Add,
        b'-' => BinaryOperator::Subtract,
        b'*' => BinaryOperator::Multiply,
        b'/' => BinaryOperator::Divide,
        b'%' => BinaryOperator::Modulo,
        b'^' => BinaryOperator::Power,
        _ => return None,
    })
}

/// Reads a length with its sign. The sign binds as multiplication does, or only to what follows at once.
fn sign(text: &mut Text<'_>, strength: u8, depth: usize) -> Result<Length, ParseError> {
    let start = text.at;
    let is_negative = text.peek() == Some(b'-');
    if !is_negative && text.peek() != Some(b'+') {
        return part(text, depth);
    }
    text.advance(1);
    let power = BinaryOperator::Power.strength();
    let inside = sum(text, power.max(strength), depth + 1)?;
    let at = start..inside.at.end;
    Ok(match inside.kind {
        LengthKind::Seconds { value, is_duration } => {
            let value = if is_negative { -value } else { value };
            Length::new(LengthKind::Seconds { value, is_duration }, at)
        }
        _ if is_negative => Length::new(LengthKind::Negative(Box::new(inside)), at),
        _ => inside,
    })
}

fn part(text: &mut Text<'_>, depth: usize) -> Result<Length, ParseError> {
    let start = text.at;
    match text.peek() {
        Some(b'(') => {
            text.advance(1);
            let inside = sum(text, 0, depth + 1)?;
            text.expect(")", "an operator or `)`")?;
            Ok(Length::new(LengthKind::Parentheses(Box::new(inside)), start..text.end))
        }
        Some(b'0'..=b'9' | b'.') => {
            let (value, is_duration) = number(text)?;
            if value.abs() > LONGEST {
                return Err(text.error(start..text.end, "the duration is out of range"));
            }
            Ok(Length::new(LengthKind::Seconds { value, is_duration }, start..text.end))
        }
        _ => {
            let word = text.word(false).to_ascii_lowercase();
            if !matches!(&*word, "step" | "range" | "min_of" | "max_of") {
                return Err(text.expected("a number, a duration, `step()` or `range()`"));
            }
            text.advance(word.len());
            text.expect("(", "`(`")?;
            let kind = match &*word {
                "step" => LengthKind::Step,
                "range" => LengthKind::Range,
                _ => {
                    let left = Box::new(sum(text, 0, depth + 1)?);
                    text.expect(",", "`,`")?;
                    let right = Box::new(sum(text, 0, depth + 1)?);
                    if word == "min_of" { LengthKind::Smaller(left, right) } else { LengthKind::Larger(left, right) }
                }
            };
            text.expect(")", "`)`")?;
            Ok(Length::new(kind, start..text.end))
        }
    }
}
