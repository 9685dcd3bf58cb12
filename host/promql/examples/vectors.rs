//! Compares answers with those of another engine: `cargo run --release --example vectors -- FOLDER`.
//!
//! The folder holds data sets (`dataset-*.txt`) and cases (`cases-*.jsonl`), each a query and what it must answer.

#![allow(clippy::print_stdout, reason = "it reports to its user")]
#![allow(clippy::indexing_slicing, reason = "an index into JSON finds null where there is nothing")]

use dropsonde_model::Labels;
use dropsonde_promql::{
    AnnotationKind, Answer, Limits, MemorySource, ParseOptions, Query, QueryError, STALE, Settings, Times, Value,
    number, parse,
};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(folder) = std::env::args().nth(1) else {
        println!("usage: vectors FOLDER");
        return ExitCode::FAILURE;
    };
    match run(Path::new(&folder)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &Path) -> Result<bool, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    let mut sources: BTreeMap<String, MemorySource> = BTreeMap::new();
    let (mut passed, mut failed) = (0, 0);
    for path in &paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(set) = name.strip_prefix("dataset-").and_then(|rest| rest.strip_suffix(".txt")) {
            sources.insert(set.to_uppercase(), data_set(&read(path)?).map_err(|why| format!("{name}: {why}"))?);
        }
    }
    for path in &paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !name.starts_with("cases-") || !name.ends_with(".jsonl") {
            continue;
        }
        for line in read(path)?.lines().filter(|line| !line.trim().is_empty()) {
            let case: Json = serde_json::from_str(line).map_err(|error| format!("{name}: {error}"))?;
            let set = case["dataset"].as_str().unwrap_or_default();
            let source = sources.get(set).ok_or_else(|| format!("{name}: there is no data set {set:?}"))?;
            match check(&case, source) {
                Ok(()) => passed += 1,
                Err(why) => {
                    failed += 1;
                    println!("{}: {}\n    {why}", case["id"].as_str().unwrap_or_default(), case["expr"]);
                }
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Reads series: their labels as JSON, a tab, and values at the ticks of a clock.
fn data_set(text: &str) -> Result<MemorySource, String> {
    let mut source = MemorySource::new();
    let mut usual_step = 0;
    for line in text.lines() {
        if let Some(step) = line.strip_prefix("# step_ms ") {
            usual_step = step.trim().parse().map_err(|_| format!("{line:?}"))?;
            continue;
        }
        let Some((labels, tokens)) = line.split_once('\t') else { continue };
        let labels: Labels = serde_json::from_str(labels).map_err(|error| error.to_string())?;
        let (mut clock, mut step, mut last) = (0_i64, usual_step, f64::NAN);
        for token in tokens.split_whitespace() {
            let integer = |text: &str| text.parse::<i64>().map_err(|_| format!("{token:?}"));
            let mut put = |value: f64, clock: &mut i64| {
                source.push(&labels, *clock, value);
                *clock += step;
            };
            if let Some(at) = token.strip_prefix('@') {
                clock = integer(at)?;
            } else if let Some(other) = token.strip_prefix('~') {
                step = integer(other)?;
            } else if let Some(times) = token.strip_prefix("_x") {
                clock += step * integer(times)?;
            } else if token == "_" {
                clock += step;
            } else if let Some(times) = token.strip_prefix("=x") {
                for _ in 0..integer(times)? {
                    put(last, &mut clock);
                }
            } else if token == "stale" {
                put(STALE, &mut clock);
            } else {
                last = token.parse().map_err(|_| format!("{token:?}"))?;
                put(last, &mut clock);
            }
        }
    }
    Ok(source)
}

fn check(case: &Json, source: &MemorySource) -> Result<(), String> {
    // Where a newer version of the engine answers otherwise, it counts.
    let expected = if case["v314"].is_object() { &case["v314"] } else { case };
    let answer = answer(case, source);
    if let Some(error) = expected.get("error").filter(|error| !error.is_null()) {
        let wanted = error["type"].as_str().unwrap_or_default();
        return match answer {
            Ok(answer) => Err(format!("expected {wanted}, found {:?}", answer.value)),
            Err(error) if error_type(&error) == wanted => Ok(()),
            Err(found) => Err(format!("expected {error}, found {}: {found}", error_type(&found))),
        };
    }
    let answer = answer.map_err(|error| format!("{}: {error}", error_type(&error)))?;
    for (name, kind) in [("warnings", AnnotationKind::Warning), ("infos", AnnotationKind::Info)] {
        let has = answer.annotations.iter().any(|annotation| annotation.kind == kind);
        if has != expected[name].as_bool().unwrap_or_default() {
            return Err(format!("{name}: {:?}", answer.annotations));
        }
    }
    compare(case, &expected["expect"], &json(&answer.value))
}

fn answer(case: &Json, source: &MemorySource) -> Result<Answer, QueryError> {
    let milliseconds = |name: &str| (case[name].as_f64().unwrap_or_default() * 1000.0).round() as i64;
    let times = match case["kind"].as_str() {
        Some("instant") => Times::At(milliseconds("time")),
        _ => {
            Times::Range { start_ms: milliseconds("start"), end_ms: milliseconds("end"), step_ms: milliseconds("step") }
        }
    };
    let expr = parse(case["expr"].as_str().unwrap_or_default(), ParseOptions::default())?;
    Query { expr: &expr, times, settings: Settings::default() }.run(source, &Limits::default())
}

fn error_type(error: &QueryError) -> &'static str {
    match error {
        QueryError::Parse(_) | QueryError::Invalid(_) => "bad_data",
        _ => "execution",
    }
}

/// Returns a value as the API writes it.
fn json(value: &Value) -> Json {
    let point = |at_ms: i64, value: f64| serde_json::json!([at_ms as f64 / 1000.0, number::of_sample(value)]);
    match value {
        Value::Scalar(at_ms, value) => {
            serde_json::json!({"resultType": "scalar", "result": [*at_ms as f64 / 1000.0, number::plain(*value)]})
        }
        Value::String(at_ms, text) => {
            serde_json::json!({"resultType": "string", "result": [*at_ms as f64 / 1000.0, text]})
        }
        Value::Vector(at_ms, series) => {
            let series = series.iter();
            let all =
                series.map(|(labels, value)| serde_json::json!({"metric": labels, "value": point(*at_ms, *value)}));
            serde_json::json!({"resultType": "vector", "result": all.collect::<Json>()})
        }
        Value::Matrix(series) => {
            let all = series.iter().map(|(labels, points)| {
                let points: Json = points.iter().map(|(at_ms, value)| point(*at_ms, *value)).collect();
                serde_json::json!({"metric": labels, "values": points})
            });
            serde_json::json!({"resultType": "matrix", "result": all.collect::<Json>()})
        }
    }
}

fn compare(case: &Json, expected: &Json, found: &Json) -> Result<(), String> {
    let differ = |why: &str| Err(format!("{why}\n    expected {expected}\n    found    {found}"));
    if expected["resultType"] != found["resultType"] {
        return differ("another type");
    }
    if matches!(expected["resultType"].as_str(), Some("scalar" | "string")) {
        let close = is_close(&expected["result"][1], &found["result"][1])
            && expected["result"][0].as_f64() == found["result"][0].as_f64();
        return if close { Ok(()) } else { differ("another value") };
    }
    let empty = Vec::new();
    let wanted = expected["result"].as_array().unwrap_or(&empty);
    let known = found["result"].as_array().unwrap_or(&empty);
    if wanted.len() != known.len() {
        return differ("another number of series");
    }
    let points = |series: &Json| -> Vec<(f64, Json)> {
        let all = match (&series["values"], &series["value"]) {
            (Json::Array(points), _) => points.clone(),
            (_, point) => vec![point.clone()],
        };
        all.iter().map(|point| (point[0].as_f64().unwrap_or(f64::NAN), point[1].clone())).collect()
    };
    let are_close = |a: &Json, b: &Json| {
        let (a, b) = (points(a), points(b));
        a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.0 == b.0 && is_close(&a.1, &b.1))
    };
    if case["tie"].as_bool().unwrap_or_default() {
        // Which of several equal series is taken depends on their order: the values count.
        let values = |all: &[Json]| {
            let mut values: Vec<String> = all.iter().map(|series| format!("{:?}", points(series))).collect();
            values.sort();
            values
        };
        return if values(wanted) == values(known) { Ok(()) } else { differ("other values") };
    }
    if case["ordered"].as_bool().unwrap_or_default() {
        // Series of equal value can stand in any order among themselves.
        let is_same = wanted.iter().zip(known).all(|(a, b)| are_close(a, b));
        if !is_same {
            return differ("another order");
        }
    }
    for series in wanted {
        let Some(same) = known.iter().find(|other| other["metric"] == series["metric"]) else {
            return differ(&format!("no series {}", series["metric"]));
        };
        if !are_close(series, same) {
            return differ(&format!("{} differs", series["metric"]));
        }
    }
    let is_sorted = |all: &[Json]| {
        let labels = |series: &Json| serde_json::from_value::<Labels>(series["metric"].clone()).unwrap_or_default();
        all.is_sorted_by(|a, b| labels(a).iter().cmp(labels(b).iter()).is_le())
    };
    if expected["resultType"] == "matrix" && !is_sorted(known) {
        return differ("not sorted by labels");
    }
    Ok(())
}

fn is_close(a: &Json, b: &Json) -> bool {
    if a == b {
        return true;
    }
    let number = |value: &Json| value.as_str().and_then(|text| text.parse::<f64>().ok());
    match (number(a), number(b)) {
        (Some(a), Some(b)) => {
            a.is_nan() && b.is_nan()
                || a == b
                || (a - b).abs() <= 1e-9 * a.abs().max(b.abs()) && a.is_finite() && b.is_finite()
        }
        _ => false,
    }
}
