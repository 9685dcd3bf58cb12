//! Numbers and durations, as Go reads and writes them.

use std::fmt::Write as _;

/// Reads a number: `15`, `017` (octal), `0x1F`, `1_000`, `1.5e3`, `Inf`, `NaN`. Numbers that are too large are refused.
pub(crate) fn parse(text: &str) -> Option<f64> {
    let lower = text.to_ascii_lowercase();
    match &*lower {
        "inf" => return Some(f64::INFINITY),
        "nan" => return Some(f64::NAN),
        _ => {}
    }
    let digits = plain_digits(&lower)?;
    if let Some(hexadecimal) = digits.strip_prefix("0x") {
        return i64::from_str_radix(hexadecimal, 16).ok().map(|number| number as f64);
    }
    let is_octal =
        digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    if let Some(number) = is_octal.then(|| i64::from_str_radix(&digits, 8).ok()).flatten() {
        return Some(number as f64);
    }
    digits.parse().ok().filter(|number: &f64| number.is_finite())
}

/// Removes the underscores that stand between digits. Returns nothing if one stands elsewhere.
fn plain_digits(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_hexadecimal = text.starts_with("0x");
    let is_digit = |at: Option<usize>| {
        let byte = at.and_then(|at| bytes.get(at));
        byte.is_some_and(|byte| {
            byte.is_ascii_digit() || (is_hexadecimal && (byte.is_ascii_hexdigit() || *byte == b'x'))
        })
    };
    let misplaced = |(at, _): (usize, &str)| !is_digit(at.checked_sub(1)) || !is_digit(Some(at + 1));
    if text.match_indices('_').any(misplaced) {
        return None;
    }
    Some(text.replace('_', ""))
}

/// The units of durations, in milliseconds.
const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 24 * 3_600_000),
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Reads a duration such as `1h30m`. Returns milliseconds; or what is wrong with it.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let invalid = || format!("`{text}` is not a duration such as 5m or 1h30m");
    let mut total: i64 = 0;
    let mut rest = text;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let (number, behind) = rest.split_at(digits);
        let end = behind.find(|c: char| c.is_ascii_digit()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(end);
        // Larger units come first, each once.
        let (_, milliseconds) = units.find(|(known, _)| *known == unit).ok_or_else(invalid)?;
        let number: i64 = number.parse().map_err(|_| invalid())?;
        // The longest duration is what fits into 63 bits of nanoseconds.
        total = number
            .checked_mul(*milliseconds)
            .and_then(|part| total.checked_add(part))
            .filter(|total| total.checked_mul(1_000_000).is_some())
            .ok_or_else(|| format!("`{text}` is too long for a duration"))?;
        rest = behind;
    }
    Ok(total)
}

/// Writes a duration: `1h30m`. Weeks and years are used if nothing remains.
pub fn duration(milliseconds: i64) -> String {
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    let mut text = if milliseconds < 0 { "-".to_owned() } else { String::new() };
    let mut rest = milliseconds.unsigned_abs();
    for (unit, length) in UNITS {
        let length = length.unsigned_abs();
        let must_be_whole = matches!(unit, "y" | "w");
        if rest >= length && (!must_be_whole || rest.is_multiple_of(length)) {
            let _ = write!(text, "{}{unit}", rest / length);
            rest %= length;
        }
    }
    text
}

/// Writes a number without an exponent: Go's format `f` with as many digits as needed.
pub fn plain(value: f64) -> String {
    if value.is_infinite() { if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned() } else { value.to_string() }
}

/// Writes a number as the API does in vectors: with an exponent below 1e-6 and from 1e21 on.
pub fn of_sample(value: f64) -> String {
    let size = value.abs();
    if value.is_finite() && size != 0.0 && !(1e-6..1e21).contains(&size) { with_exponent(value) } else { plain(value) }
}

/// Appends a number as [`of_sample`] writes it.
pub fn write_sample(text: &mut Vec<u8>, value: f64) {
    const WHOLE: f64 = (1_u64 << 53) as f64;
    // Most values are one of these, which are written faster.
    if value as i64 as f64 == value && value.abs() < WHOLE && (value != 0.0 || value.is_sign_positive()) {
        text.extend_from_slice(itoa::Buffer::new().format(value as i64).as_bytes());
    } else if (1e-4..1e15).contains(&value.abs()) {
        // Here ryu writes no exponent.
        text.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else {
        text.extend_from_slice(of_sample(value).as_bytes());
    }
}

/// Writes a number as Go's format `g` does: with an exponent below 1e-4 and from 1e6 on, or from `digits` on.
pub fn general(value: f64, digits: Option<usize>) -> String {
    if !value.is_finite() || value == 0.0 {
        return plain(value);
    }
    let written = match digits {
        Some(digits) => format!("{value:.*e}", digits.saturating_sub(1)),
        None => format!("{value:e}"),
    };
    let (digits_part, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let most = digits.map_or(6, |digits| digits as i32).max(1);
    if exponent < -4 || exponent >= most {
        let digits_part = if digits_part.contains('.') {
            digits_part.trim_end_matches('0').trim_end_matches('.')
        } else {
            digits_part
        };
        return format!("{digits_part}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    plain(written.parse().unwrap_or(value))
}

/// Writes a number as Go's format `e` does, with as many digits as needed.
pub fn exponent(value: f64) -> String {
    if value.is_finite() { with_exponent(value) } else { plain(value) }
}

fn with_exponent(value: f64) -> String {
    let written = format!("{value:e}");
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        for (text, number) in [
            ("15", 15.0),
            ("017", 15.0),
            ("08", 8.0),
            ("0x1F", 31.0),
            ("1_000", 1000.0),
            ("0x_1f", 31.0),
            ("5.", 5.0),
            (".5", 0.5),
            ("1e3", 1000.0),
            ("1E-3", 0.001),
            ("9223372036854775808", 9_223_372_036_854_775_808.0),
            ("iNf", f64::INFINITY),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        assert!(parse("nan").is_some_and(f64::is_nan));
        for text in ["1e400", "1_", "_1", "1__0", "0x", "1_.5", ""] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_are_written_as_go_writes_them() {
        for (value, sample, plain_form, general_form) in [
            (1.0, "1", "1", "1"),
            (0.1, "0.1", "0.1", "0.1"),
            (1e-7, "1e-07", "0.0000001", "1e-07"),
            (1e21, "1e+21", "1000000000000000000000", "1e+21"),
            (1_234_567.0, "1234567", "1234567", "1.234567e+06"),
            (-0.0, "-0", "-0", "-0"),
            (f64::NAN, "NaN", "NaN", "NaN"),
            (f64::INFINITY, "+Inf", "+Inf", "+Inf"),
            (f64::NEG_INFINITY, "-Inf", "-Inf", "-Inf"),
            (1.5e300, "1.5e+300", &format!("15{}", "0".repeat(299)), "1.5e+300"),
        ] {
            assert_eq!(
                (&*of_sample(value), &*plain(value), &*general(value, None)),
                (sample, plain_form, general_form)
            );
        }
        assert_eq!(general(1234.5, Some(2)), "1.2e+03");
        assert_eq!(general(0.125, Some(2)), "0.12");
    }

    proptest::proptest! {
        #[test]
        fn appended_numbers_are_the_written_ones(value in proptest::num::f64::ANY, whole: i64) {
            let decimal = (whole % 1_000_000_000) as f64 / 997.0;
            for value in [value, whole as f64, (whole % 1000) as f64, decimal, decimal / 1e7, 0.0, -0.0] {
                let mut text = Vec::new();
                write_sample(&mut text, value);
                proptest::prop_assert_eq!(String::from_utf8(text).unwrap(), of_sample(value));
            }
        }
    }

    #[test]
    fn durations_have_larger_units_first() {
        for (text, milliseconds) in [("5m", 300_000), ("1h30m", 5_400_000), ("1y2w3d", 33_004_800_000), ("250ms", 250)]
        {
            assert_eq!(parse_duration(text), Ok(milliseconds), "{text}");
        }
        for text in ["5", "m", "5x", "30m1h", "1m1m", "1.5h", "300y"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for (milliseconds, text) in
            [(0, "0s"), (300_000, "5m"), (-90_500, "-1m30s500ms"), (7 * 86_400_000, "1w"), (8 * 86_400_000, "8d")]
        {
            assert_eq!(duration(milliseconds), text);
        }
    }
}
