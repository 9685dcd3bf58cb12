//! Reads the language of Prometheus' PromQL tests.

use dropsonde_model::Labels;
use dropsonde_promql::{ExprKind, LengthKind, Modifiers, ParseOptions, STALE, parse, parse_selector};

/// A case: the samples that are loaded, an expression, and what is expected of it.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) line: usize,
    pub(crate) expression: String,
    pub(crate) times: CaseTimes,
    pub(crate) expected: Expected,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum CaseTimes {
    At(i64),
    Range { start_ms: i64, end_ms: i64, step_ms: i64 },
}

#[derive(Debug, Default)]
pub(crate) struct Expected {
    pub(crate) fails: Option<Pattern>,
    pub(crate) warnings: Remarks,
    pub(crate) infos: Remarks,
    pub(crate) is_ordered: bool,
    pub(crate) text: Option<String>,
    /// The times of the samples, if they are the answer themselves.
    pub(crate) samples_at: Option<(i64, i64, i64)>,
    pub(crate) number: Option<f64>,
    /// The values of each series; a value per step.
    pub(crate) series: Vec<(Labels, Vec<Option<f64>>)>,
}

/// What is said about warnings or infos.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    pub(crate) none: bool,
    pub(crate) some: Vec<Pattern>,
}

#[derive(Debug)]
pub(crate) enum Pattern {
    Anything,
    Contains(String),
    Regex(regex::Regex),
}

impl Pattern {
    pub(crate) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Contains(part) => text.contains(part),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

#[derive(Debug)]
pub(crate) enum Command {
    Clear,
    /// Adds samples to series.
    Load(Vec<(Labels, Vec<(i64, f64)>)>),
    Evaluate(Box<Case>),
}

/// Reads a file of tests.
pub(crate) fn read(text: &str) -> Result<Vec<Command>, String> {
    let mut commands = Vec::new();
    let mut lines = text.lines().enumerate().map(|(nth, line)| (nth + 1, line.trim())).peekable();
    while let Some((number, line)) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut block = Vec::new();
        if line != "clear" {
            while let Some((_, line)) = lines.next_if(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
                block.push(line);
            }
        }
        let command = command(number, line, &block).map_err(|why| format!("line {number}: {why}"))?;
        commands.push(command);
    }
    Ok(commands)
}

fn command(number: usize, line: &str, block: &[&str]) -> Result<Command, String> {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    match word {
        "clear" => Ok(Command::Clear),
        "load" | "load_with_nhcb" => {
            let step_ms = duration(rest)?;
            let mut series = Vec::new();
            for line in block {
                let (labels, points) = series_line(line)?;
                let samples = points.into_iter().enumerate();
                let samples = samples.filter_map(|(nth, value)| Some((nth as i64 * step_ms, value?)));
                series.push((labels, samples.collect()));
            }
            Ok(Command::Load(series))
        }
        _ if word.starts_with("eval") => {
            let mut expected = Expected::default();
            match word {
                "eval_fail" => expected.fails = Some(Pattern::Anything),
                "eval_warn" => expected.warnings.some.push(Pattern::Anything),
                "eval_info" => expected.infos.some.push(Pattern::Anything),
                "eval_ordered" => expected.is_ordered = true,
                _ => {}
            }
            let (times, expression) = times(rest)?;
            for line in block {
                expectation(line, &mut expected)?;
            }
            Ok(Command::Evaluate(Box::new(Case { line: number, expression: expression.to_owned(), times, expected })))
        }
        _ => Err(format!("unknown command {word:?}")),
    }
}

fn times(text: &str) -> Result<(CaseTimes, &str), String> {
    let mut rest = text.trim();
    let mut word = || {
        let (word, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        rest = behind.trim_start();
        word
    };
    let times = match word() {
        "instant" => {
            word();
            CaseTimes::At(duration(word())?)
        }
        "range" => {
            word();
            let start_ms = duration(word())?;
            word();
            let end_ms = duration(word())?;
            word();
            CaseTimes::Range { start_ms, end_ms, step_ms: duration(word())? }
        }
        other => return Err(format!("unknown kind {other:?}")),
    };
    Ok((times, rest))
}

fn expectation(line: &str, expected: &mut Expected) -> Result<(), String> {
    if let Some(message) = line.strip_prefix("expected_fail_message ") {
        expected.fails = Some(Pattern::Contains(message.trim().to_owned()));
        return Ok(());
    }
    if let Some(pattern) = line.strip_prefix("expected_fail_regexp ") {
        expected.fails = Some(Pattern::Regex(regex::Regex::new(pattern.trim()).map_err(|error| error.to_string())?));
        return Ok(());
    }
    if let Some(rest) = line.strip_prefix("expect ") {
        let rest = rest.trim();
        let (word, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        match word {
            "fail" => expected.fails = Some(pattern(behind)?),
            "warn" => expected.warnings.some.push(pattern(behind)?),
            "info" => expected.infos.some.push(pattern(behind)?),
            "no_warn" => expected.warnings.none = true,
            "no_info" => expected.infos.none = true,
            "ordered" => expected.is_ordered = true,
            "string" => {
                let expr = parse(behind.trim(), ParseOptions::default()).map_err(|error| error.to_string())?;
                if let ExprKind::String { text, .. } = expr.kind {
                    expected.text = Some(text);
                }
            }
            "range" => {
                let (CaseTimes::Range { start_ms, end_ms, step_ms }, _) =
                    times(&format!("range {}", behind.trim_start_matches("vector").trim()))?
                else {
                    return Err(format!("unknown times {behind:?}"));
                };
                expected.samples_at = Some((start_ms, end_ms, step_ms));
            }
            other => return Err(format!("unknown expectation {other:?}")),
        }
        return Ok(());
    }
    if let Ok(number) = number(line) {
        expected.number = Some(number);
        return Ok(());
    }
    let (labels, points) = series_line(line)?;
    expected.series.push((labels, points));
    Ok(())
}

fn pattern(text: &str) -> Result<Pattern, String> {
    if let Some(message) = text.strip_prefix("msg:") {
        return Ok(Pattern::Contains(message.trim().to_owned()));
    }
    if let Some(pattern) = text.strip_prefix("regex:") {
        return regex::Regex::new(pattern.trim()).map(Pattern::Regex).map_err(|error| error.to_string());
    }
    Ok(Pattern::Anything)
}

/// Reads a series with its points.
fn series_line(line: &str) -> Result<(Labels, Vec<Option<f64>>), String> {
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
    let count = |text: &str| text.parse::<usize>().map_err(|error| error.to_string());
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

fn number(text: &str) -> Result<f64, String> {
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

/// Reads a duration such as `1m30s`, or a number of seconds.
fn duration(text: &str) -> Result<i64, String> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Ok((seconds * 1000.0).round() as i64);
    }
    let expr = parse(&format!("x offset {text}"), ParseOptions::default()).map_err(|error| error.to_string())?;
    match expr.kind {
        ExprKind::Selector { modifiers: Modifiers { offset: Some(offset), .. }, .. } => match offset.kind {
            LengthKind::Seconds { value, .. } => Ok((value * 1000.0).round() as i64),
            _ => Err(format!("{text:?} is not a duration")),
        },
        _ => Err(format!("{text:?} is not a duration")),
    }
}
