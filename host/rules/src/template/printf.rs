//! Formatted values, as Go's `fmt` writes them.

use super::value::Value;
use dropsonde_promql::number;
use dropsonde_promql::quoted::quoted;
use std::iter::Peekable;
use std::str::Chars;

/// The widest field that a format may ask for.
const WIDEST: usize = 10_000;

/// How a value is to be written.
#[derive(Debug, Clone, Copy, Default)]
struct Style {
    is_left: bool,
    has_sign: bool,
    has_space: bool,
    has_zeros: bool,
    is_alternate: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Writes a number with some significant digits, as `%.4g` does.
pub(super) fn general(value: f64, digits: usize) -> String {
    number::general(value, Some(digits))
}

pub(super) fn printf(format: &str, values: &[Value]) -> String {
    let mut text = String::new();
    let mut next = values.iter();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut style = Style::default();
        while let Some(flag) = chars.next_if(|c| "-+ 0#".contains(*c)) {
            match flag {
                '-' => style.is_left = true,
                '+' => style.has_sign = true,
                ' ' => style.has_space = true,
                '0' => style.has_zeros = true,
                _ => style.is_alternate = true,
            }
        }
        style.width = digits_of(&mut chars);
        if chars.next_if_eq(&'.').is_some() {
            style.precision = Some(digits_of(&mut chars).unwrap_or(0));
        }
        let Some(verb) = chars.next() else {
            text.push_str("%!(NOVERB)");
            break;
        };
        if verb == '%' {
            text.push('%');
            continue;
        }
        match next.next() {
            Some(value) => text.push_str(&written(verb, value, style)),
            None => text.push_str(&format!("%!{verb}(MISSING)")),
        }
    }
    let extra: Vec<String> = next.map(|value| format!("{}={}", value.type_name(), value.text())).collect();
    if !extra.is_empty() {
        text.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    text
}

fn digits_of(chars: &mut Peekable<Chars<'_>>) -> Option<usize> {
    let mut read = None;
    while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
        read = Some((read.unwrap_or(0) * 10 + digit as usize).min(WIDEST));
        chars.next();
    }
    read
}

fn written(verb: char, value: &Value, style: Style) -> String {
    let signed = |digits: String, is_negative: bool| match (is_negative, style.has_sign, style.has_space) {
        (true, ..) => digits,
        (_, true, _) => format!("+{digits}"),
        (_, _, true) => format!(" {digits}"),
        _ => digits,
    };
    let whole = |value: i64, digits: String| {
        let digits = match style.precision {
            Some(most) => format!("{digits:0>most$}"),
            None => digits,
        };
        signed(if value < 0 { format!("-{digits}") } else { digits }, value < 0)
    };
    let cut = |text: &str| match style.precision {
        Some(most) => text.chars().take(most).collect(),
        None => text.to_owned(),
    };
    let (text, is_number) = match (verb, value) {
        ('v', Value::Float(number)) => (signed(float('g', *number, style.precision), *number < 0.0), true),
        ('v', Value::Int(number)) | ('d', Value::Int(number)) => {
            (whole(*number, number.unsigned_abs().to_string()), true)
        }
        ('v', Value::Text(text)) | ('s', Value::Text(text)) => (cut(text), false),
        ('v', value) => (value.text(), false),
        ('s', Value::Time(_) | Value::Duration(_) | Value::List(_) | Value::Texts(_)) => (cut(&value.text()), false),
        ('q', Value::Text(text)) => (quoted(text), false),
        ('x' | 'X', Value::Text(text)) => {
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            (if verb == 'X' { hex.to_uppercase() } else { hex }, false)
        }
        ('t', Value::Bool(value)) => (value.to_string(), false),
        ('f' | 'F' | 'e' | 'E' | 'g' | 'G', Value::Float(number)) => {
            let digits = if verb.is_ascii_lowercase() || verb == 'F' {
                float(verb.to_ascii_lowercase(), *number, style.precision)
            } else {
                float(verb.to_ascii_lowercase(), *number, style.precision).to_uppercase()
            };
            (signed(digits, *number < 0.0), true)
        }
        ('d', Value::Duration(duration)) => (duration.as_nanos().to_string(), true),
        ('b', Value::Int(number)) => (whole(*number, format!("{:b}", number.unsigned_abs())), true),
        ('o', Value::Int(number)) => (whole(*number, format!("{:o}", number.unsigned_abs())), true),
        ('x', Value::Int(number)) => {
            let prefix = if style.is_alternate { "0x" } else { "" };
            (whole(*number, format!("{prefix}{:x}", number.unsigned_abs())), true)
        }
        ('X', Value::Int(number)) => (whole(*number, format!("{:X}", number.unsigned_abs())), true),
        ('c', Value::Int(number)) => {
            let c = u32::try_from(*number).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
            (c.to_string(), false)
        }
        ('T', value) => (value.type_name().to_owned(), false),
        (_, Value::Nothing) => return format!("%!{verb}(<nil>)"),
        (_, value) => return format!("%!{verb}({}={})", value.type_name(), value.text()),
    };
    let width = style.width.unwrap_or(0);
    let missing = width.saturating_sub(text.chars().count());
    if style.is_left {
        return format!("{text}{}", " ".repeat(missing));
    }
    if style.has_zeros && is_number && !text.ends_with("Inf") && !text.ends_with("NaN") {
        let sign = text.chars().next().filter(|c| matches!(c, '+' | '-' | ' '));
        let digits = text.get(sign.map_or(0, char::len_utf8)..).unwrap_or_default();
        return format!("{}{}{digits}", sign.map(String::from).unwrap_or_default(), "0".repeat(missing));
    }
    format!("{}{text}", " ".repeat(missing))
}

/// Writes a number in one of Go's formats.
fn float(format: char, value: f64, precision: Option<usize>) -> String {
    if !value.is_finite() {
        return number::plain(value);
    }
    match format {
        'f' => format!("{value:.*}", precision.unwrap_or(6)),
        'e' => {
            let written = format!("{value:.*e}", precision.unwrap_or(6));
            let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
            let exponent: i32 = exponent.parse().unwrap_or_default();
            format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ => number::general(value, precision),
    }
}
