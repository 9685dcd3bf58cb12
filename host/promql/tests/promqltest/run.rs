//! Runs the cases of Prometheus' PromQL tests.

use super::script::{Case, CaseTimes, Command, Expected, Pattern, Remarks, read};
use dropsonde_model::Labels;
use dropsonde_promql::{
    AnnotationKind, Answer, Expr, ExprKind, FixedTime, Limits, MemorySource, Modifiers, ParseOptions, Query,
    QueryError, Settings, Times, Value, parse,
};
use std::collections::{BTreeMap, BTreeSet};

/// The outcome of the cases of one file.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) passed: usize,
    pub(crate) failures: Vec<String>,
    pub(crate) out_of_scope: usize,
}

/// As the built-in runner of Prometheus has them.
const SETTINGS: Settings = Settings { lookback_ms: 300_000, subquery_step_ms: 60_000, delayed_name_removal: true };

const OPTIONS: ParseOptions = ParseOptions { experimental: true };

/// Runs all cases of a file, each alone, but those in `out_of_scope`, by their lines.
pub(crate) fn run(text: &str, out_of_scope: &BTreeSet<usize>) -> Result<Outcome, String> {
    let mut outcome = Outcome::default();
    let mut source = MemorySource::new();
    for command in read(text)? {
        match command {
            Command::Clear => source.clear(),
            Command::Load(series) => {
                for (labels, samples) in series {
                    for (at_ms, value) in samples {
                        source.push(&labels, at_ms, value);
                    }
                }
            }
            Command::Evaluate(case) if out_of_scope.contains(&case.line) => outcome.out_of_scope += 1,
            Command::Evaluate(case) => match check(&case, &source) {
                Ok(()) => outcome.passed += 1,
                Err(why) => outcome.failures.push(format!("line {}: {}\n    {why}", case.line, case.expression)),
            },
        }
    }
    Ok(outcome)
}

fn evaluate(expression: &str, times: Times, source: &MemorySource) -> Result<Answer, QueryError> {
    let expr = parse(expression, OPTIONS)?;
    Query { expr: &expr, times, settings: SETTINGS }.run(source, &Limits::default())
}

fn check(case: &Case, source: &MemorySource) -> Result<(), String> {
    let times = match case.times {
        CaseTimes::At(at_ms) => Times::At(at_ms),
        CaseTimes::Range { start_ms, end_ms, step_ms } => Times::Range { start_ms, end_ms, step_ms },
    };
    let answer = evaluate(&case.expression, times, source);
    compare(case, &case.expression, times, &answer)?;
    let Times::At(at_ms) = times else { return Ok(()) };
    if case.expected.fails.is_some() {
        return Ok(());
    }
    let expr = parse(&case.expression, OPTIONS).map_err(|error| error.to_string())?;
    check_steps(case, &case.expression, &expr, at_ms, source)?;
    if calls_any(&expr, &DEPEND_ON_TIME) {
        return Ok(());
    }
    let mut fixed = expr;
    fix_time(&mut fixed, at_ms);
    let printed = fixed.to_string();
    let times = if at_ms == 0 { vec![-1000, 0, 1000] } else { vec![-10 * at_ms, 0, at_ms / 5, at_ms, 10 * at_ms] };
    for at_ms in times {
        let answer = evaluate(&printed, Times::At(at_ms), source);
        let at = format!("as {printed} at {at_ms}ms: ");
        compare(case, &printed, Times::At(at_ms), &answer).map_err(|why| at.clone() + &why)?;
        check_steps(case, &printed, &fixed, at_ms, source).map_err(|why| at + &why)?;
    }
    Ok(())
}

/// Functions whose value depends on the time of the query, whatever their selectors say.
const DEPEND_ON_TIME: [&str; 16] = [
    "time",
    "timestamp",
    "predict_linear",
    "days_in_month",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "hour",
    "minute",
    "month",
    "year",
    "start",
    "end",
    "step",
    "range",
    "start_timestamp",
];

fn calls_any(expr: &Expr, names: &[&str]) -> bool {
    let calls = matches!(&expr.kind, ExprKind::Call { function, .. } if names.contains(&function.name));
    calls || expr.children().into_iter().any(|child| calls_any(child, names))
}

/// Gives a time to all selectors and subqueries that have none.
fn fix_time(expr: &mut Expr, at_ms: i64) {
    let fix = |modifiers: &mut Modifiers| {
        let is_free = modifiers.time.is_none();
        modifiers.time.get_or_insert(FixedTime::At(at_ms));
        is_free
    };
    match &mut expr.kind {
        ExprKind::Selector { modifiers, .. } | ExprKind::Range { modifiers, .. } => _ = fix(modifiers),
        ExprKind::Subquery { modifiers, .. } => _ = fix(modifiers),
        ExprKind::Call { arguments, .. } => arguments.iter_mut().for_each(|argument| fix_time(argument, at_ms)),
        ExprKind::Aggregation { parameter, expr, .. } => {
            parameter.iter_mut().for_each(|parameter| fix_time(parameter, at_ms));
            fix_time(expr, at_ms);
        }
        ExprKind::Unary { expr, .. } | ExprKind::Parentheses(expr) => fix_time(expr, at_ms),
        ExprKind::Binary { left, right, .. } => {
            fix_time(left, at_ms);
            fix_time(right, at_ms);
        }
        ExprKind::Number { .. } | ExprKind::String { .. } => {}
    }
}

/// Checks that the middle step of a range query answers as the instant query does.
fn check_steps(case: &Case, text: &str, expr: &Expr, at_ms: i64, source: &MemorySource) -> Result<(), String> {
    let is_matrix =
        matches!(expr.value_type(), dropsonde_promql::ValueType::Matrix | dropsonde_promql::ValueType::String);
    if is_matrix
        || case.expected.is_ordered
        || calls_any(expr, &["start", "end", "step", "range"])
        || text.contains("start()")
        || text.contains("end()")
        || text.contains("step()")
        || text.contains("range()")
    {
        return Ok(());
    }
    let times = Times::Range { start_ms: at_ms - 60_000, end_ms: at_ms + 60_000, step_ms: 60_000 };
    let answer = evaluate(text, times, source).map_err(|error| format!("as a range query: {error}"))?;
    let Value::Matrix(series) = answer.value else { return Err("a range query has no matrix".to_owned()) };
    let at_step = |points: &[(i64, f64)]| points.iter().find(|(time, _)| *time == at_ms).map(|(_, value)| *value);
    let found: Vec<(Labels, f64)> =
        series.iter().filter_map(|(labels, points)| Some((labels.clone(), at_step(points)?))).collect();
    let value = match case.expected.number {
        Some(_) => Value::Scalar(at_ms, found.first().map_or(f64::NAN, |(_, value)| *value)),
        None => Value::Vector(at_ms, found),
    };
    compare_value(&case.expected, Times::At(at_ms), &value).map_err(|why| format!("as a range query: {why}"))
}

fn compare(case: &Case, text: &str, times: Times, answer: &Result<Answer, QueryError>) -> Result<(), String> {
    let answer = match (answer, &case.expected.fails) {
        (Err(error), Some(pattern)) if pattern.matches(&error.to_string()) => return Ok(()),
        (Err(error), Some(pattern)) => return Err(format!("failed with {error:?} instead of {pattern:?}")),
        (Err(error), None) => return Err(format!("failed: {error}")),
        (Ok(answer), Some(_)) => return Err(format!("did not fail: {:?}", answer.value)),
        (Ok(answer), None) => answer,
    };
    // Positions are those of the text as it was written.
    if text == case.expression {
        let texts = |kind: AnnotationKind| -> Vec<String> {
            let all = answer.annotations.iter().filter(|annotation| annotation.kind == kind);
            all.map(|annotation| annotation.text(text)).collect()
        };
        compare_remarks("warnings", &case.expected.warnings, &texts(AnnotationKind::Warning))?;
        compare_remarks("infos", &case.expected.infos, &texts(AnnotationKind::Info))?;
    }
    compare_value(&case.expected, times, &answer.value)
}

fn compare_remarks(what: &str, expected: &Remarks, found: &[String]) -> Result<(), String> {
    if expected.none && !found.is_empty() {
        return Err(format!("{what} that are not expected: {found:?}"));
    }
    if expected.some.is_empty() {
        return Ok(());
    }
    let any = |pattern: &Pattern| found.iter().any(|text| pattern.matches(text));
    let is_expected = |text: &String| expected.some.iter().any(|pattern| pattern.matches(text));
    if !expected.some.iter().all(any) || !found.iter().all(is_expected) {
        return Err(format!("{what}: expected {:?}, found {found:?}", expected.some));
    }
    Ok(())
}

fn compare_value(expected: &Expected, times: Times, value: &Value) -> Result<(), String> {
    match value {
        Value::String(_, text) => match &expected.text {
            Some(wanted) if wanted == text => Ok(()),
            wanted => Err(format!("expected {wanted:?}, found {text:?}")),
        },
        Value::Scalar(_, value) => match expected.number {
            Some(wanted) if is_close(wanted, *value) => Ok(()),
            wanted => Err(format!("expected {wanted:?}, found {value}")),
        },
        Value::Vector(_, found) => {
            if let Some(number) = expected.number {
                return Err(format!("expected the scalar {number}, found a vector"));
            }
            let wanted: Vec<(Labels, f64)> = expected
                .series
                .iter()
                .filter_map(|(labels, values)| Some((labels.clone(), values.first().copied()??)))
                .collect();
            let missing = |why: String| Err(format!("{why}\n    expected {wanted:?}\n    found    {found:?}"));
            if wanted.len() != found.len() {
                return missing("another number of series".to_owned());
            }
            for (nth, (labels, value)) in wanted.iter().enumerate() {
                let place = found.iter().position(|(known, _)| known == labels);
                let Some((place, (_, known))) = place.and_then(|place| Some((place, found.get(place)?))) else {
                    return missing(format!("no series {labels:?}"));
                };
                if expected.is_ordered && place != nth {
                    return missing(format!("{labels:?} is at place {place}"));
                }
                if !is_close(*value, *known) {
                    return missing(format!("{labels:?} is {known}"));
                }
            }
            Ok(())
        }
        Value::Matrix(found) => {
            let at = match (expected.samples_at, times) {
                (Some((start_ms, _, step_ms)), _) | (None, Times::Range { start_ms, step_ms, .. }) => {
                    move |nth: usize| start_ms + nth as i64 * step_ms
                }
                (None, Times::At(_)) => return Err("samples that are not expected".to_owned()),
            };
            let mut wanted: BTreeMap<String, Vec<(i64, f64)>> = BTreeMap::new();
            for (labels, values) in &expected.series {
                let points = values.iter().enumerate().filter_map(|(nth, value)| Some((at(nth), (*value)?)));
                wanted.insert(format!("{labels:?}"), points.collect());
            }
            wanted.retain(|_, points| !points.is_empty());
            let is_sorted = found.is_sorted_by(|(a, _), (b, _)| a.iter().cmp(b.iter()).is_lt());
            let is_equal = wanted.len() == found.len()
                && found.iter().all(|(labels, points)| {
                    wanted.get(&format!("{labels:?}")).is_some_and(|wanted| {
                        let close = |(a, b): (&(i64, f64), &(i64, f64))| a.0 == b.0 && is_close(a.1, b.1);
                        wanted.len() == points.len() && wanted.iter().zip(points).all(close)
                    })
                });
            if !is_equal || !is_sorted {
                return Err(format!("sorted: {is_sorted}\n    expected {wanted:?}\n    found    {found:?}"));
            }
            Ok(())
        }
    }
}

/// Compares as the built-in runner of Prometheus does.
fn is_close(a: f64, b: f64) -> bool {
    const TOLERANCE: f64 = 1e-6;
    if a.is_nan() && b.is_nan() || a == b {
        return true;
    }
    if a == 0.0 || b == 0.0 || a.abs() + b.abs() < f64::MIN_POSITIVE {
        return (a - b).abs() < TOLERANCE * f64::MIN_POSITIVE;
    }
    (a - b).abs() / (a.abs() + b.abs()).min(f64::MAX) < TOLERANCE
}
