//! Reads the language of Prometheus' PromQL tests.

use dropsonde_model::Labels;
use dropsonde_promql::{ExprKind, LengthKind, Modifiers, ParseOptions, notation, parse};

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
                let (labels, points) = notation::series(line)?;
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
    if let Ok(number) = notation::number(line) {
        expected.number = Some(number);
        return Ok(());
    }
    let (labels, points) = notation::series(line)?;
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
