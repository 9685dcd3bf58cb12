//! Series as tests write them, those of Prometheus among them.

use crate::{STALE, parse_selector};
use dropsonde_model::Labels;

/// How often a point may be repeated.
const MOST_REPEATED: usize = 10_000_000;

/// Reads a series with its points: `up{job="a"} 1 2 _ 4+1x3 stale`. A point that is not there is none; `4+1x3` stands for 4, 5,
/// 6 and 7.
pub fn series(line: &str) -> Result<(Labels, Vec<Option<f64>>), String> {
    let end = end_of_labels(line);
    let (name, points) = line.split_at(end);
    let labels = if name.trim() == "{}" {
        Labels::new()
    } else {
        let matchers = parse_selector(name).map_err(|error| error.to_string())?;
        let pairs = matchers.iter().filter(|matcher| !matcher.value.is_empty());
        pairs.map(|matcher| (matcher.name.clone(), matcher.value.clone())).collect()
    };
    let mut values = Vec::new();
    for token in tokens(points) {
        point(&token, &mut values).map_err(|why| format!("{token:?}: {why}"))?;
    }
    Ok((labels, values))
}

/// Returns where the labels of a series end.
fn end_of_labels(line: &str) -> usize {
    let mut quote: Option<char> = None;
    let mut is_escaped = false;
    let mut has_braces = false;
    for (at, c) in line.char_indices() {
        match quote {
            Some(_) if is_escaped => is_escaped = false,
            Some(_) if c == '\\' => is_escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'' | '`') => quote = Some(c),
            None if c == '{' => has_braces = true,
            None if c == '}' => return at + 1,
            None if c.is_whitespace() && !has_braces => {
                // Braces can follow the name after a blank.
                if !line.get(at..).unwrap_or_default().trim_start().starts_with('{') {
                    return at;
                }
                if line.get(at..).unwrap_or_default().trim_start().starts_with("{{") {
                    return at;
                }
            }
            None => {}
        }
    }
    line.len()
}

/// Splits points at blanks, but not inside of native histograms.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = vec![String::new()];
    let mut depth = 0_usize;
    for c in text.chars() {
        depth = match c {
            '{' => depth + 1,
            '}' => depth.saturating_sub(1),
            _ => depth,
        };
        if c.is_whitespace() && depth == 0 {
            tokens.push(String::new());
        } else if let Some(last) = tokens.last_mut() {
            last.push(c);
        }
    }
    tokens.retain(|token| !token.is_empty());
    tokens
}

/// Adds the values that a token stands for.
fn point(token: &str, values: &mut Vec<Option<f64>>) -> Result<(), String> {
    let count = |text: &str| match text.parse::<usize>() {
        Ok(count) if count > MOST_REPEATED => Err(format!("a point is repeated at most {MOST_REPEATED} times")),
        Ok(count) => Ok(count),
        Err(error) => Err(error.to_string()),
    };
    if let Some(times) = token.strip_prefix("_x") {
        values.extend(std::iter::repeat_n(None, count(times)?));
        return Ok(());
    }
    if token == "_" {
        values.push(None);
        return Ok(());
    }
    if token == "stale" {
        values.push(Some(STALE));
        return Ok(());
    }
    if token.starts_with("{{") {
        // Native histograms are not kept: nothing stands in their place.
        let behind = token.rsplit("}}").next().unwrap_or_default();
        let times = behind.strip_prefix('x').map(count).transpose()?.map_or(1, |times| times + 1);
        values.extend(std::iter::repeat_n(None, times));
        return Ok(());
    }
    let end = end_of_number(token);
    let (first, rest) = token.split_at(end);
    let first = number(first)?;
    if rest.is_empty() {
        values.push(Some(first));
        return Ok(());
    }
    let (step, times) = match rest.strip_prefix('x') {
        Some(times) => (0.0, times),
        None => {
            let (step, times) = rest.split_once('x').ok_or("a repetition is expected")?;
            (number(step)?, times)
        }
    };
    let mut value = first;
    for _ in 0..=count(times)? {
        values.push(Some(value));
        value += step;
    }
    Ok(())
}

/// Returns where the number ends that a token begins with.
fn end_of_number(token: &str) -> usize {
    let bytes = token.as_bytes();
    let mut at = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    while let Some(byte) = bytes.get(at) {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        match byte {
            b'x' => break,
            b'+' | b'-' if !matches!(before, Some(b'e' | b'E')) => break,
            _ => at += 1,
        }
    }
    at
}

/// Reads the number of a point.
pub fn number(text: &str) -> Result<f64, String> {
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let value = match digits.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).map(|number| number as f64).map_err(|error| error.to_string()),
        None => digits.parse::<f64>().map_err(|error| error.to_string()),
    }?;
    Ok(if is_negative { -value } else { value })
}
