//! Unit tests of rules, in the format of `promtool test rules`.

use crate::alert::AlertState;
use crate::evaluation::{RuleSettings, Storage};
use crate::file::{RuleFile, RuleKind};
use crate::group::RunningGroup;
use dropsonde_model::Labels;
use dropsonde_promql::number::parse_duration;
use dropsonde_promql::{
    Limits, MemorySource, ParseOptions, Query, QueryError, Request, Source, Times, Value, Visit, is_stale, notation,
    parse, parse_selector,
};
use serde::Deserialize;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The interval of evaluations, if a file gives none.
const USUAL_INTERVAL_MS: i64 = 60_000;

/// Most evaluations of one test.
const MOST_EVALUATIONS: i64 = 1_000_000;

/// A file of tests.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestFile {
    /// The rule files that are tested: paths beside this file, with `*`.
    #[serde(default)]
    pub rule_files: Vec<String>,
    evaluation_interval: Option<String>,
    #[serde(default)]
    group_eval_order: Vec<String>,
    #[serde(default)]
    fuzzy_compare: bool,
    #[serde(default)]
    tests: Vec<TestCase>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestCase {
    #[serde(default)]
    name: String,
    interval: Option<String>,
    #[serde(default)]
    input_series: Vec<InputSeries>,
    #[serde(default)]
    alert_rule_test: Vec<AlertTest>,
    #[serde(default)]
    promql_expr_test: Vec<ExpressionTest>,
    #[serde(default)]
    external_labels: BTreeMap<String, String>,
    #[serde(default)]
    external_url: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InputSeries {
    series: String,
    values: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AlertTest {
    eval_time: String,
    alertname: String,
    #[serde(default)]
    exp_alerts: Option<Vec<ExpectedAlert>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedAlert {
    #[serde(default)]
    exp_labels: Option<BTreeMap<String, String>>,
    #[serde(default)]
    exp_annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpressionTest {
    expr: String,
    eval_time: String,
    #[serde(default)]
    exp_samples: Option<Vec<ExpectedSample>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedSample {
    labels: String,
    value: f64,
}

/// Labels and annotations of an alert.
type Described = (BTreeMap<String, String>, BTreeMap<String, String>);

/// Series in memory that can be read while they are written.
#[derive(Default)]
struct SharedMemory(RefCell<MemorySource>);

impl Source for SharedMemory {
    fn select(&self, request: &Request<'_>, visit: &mut Visit<'_>) -> Result<(), QueryError> {
        self.0.borrow().select(request, visit)
    }
}

impl Storage for SharedMemory {
    fn write(&self, _: usize, at_ms: i64, samples: &[(Labels, f64)]) {
        let mut memory = self.0.borrow_mut();
        samples.iter().for_each(|(labels, value)| memory.push(labels, at_ms, *value));
    }
}

impl TestFile {
    /// Reads a file of tests.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_saphyr::from_str(text).map_err(|error: serde_saphyr::Error| {
            let at = error.location().map_or_else(String::new, |at| format!("{}:{}: ", at.line(), at.column()));
            format!("{at}{}", error.without_snippet().to_string().lines().next().unwrap_or_default())
        })
    }

    /// Runs all tests with the rules of some files. Returns what is not as expected; nothing if all is.
    pub fn run(&self, files: &[RuleFile]) -> Result<Vec<String>, String> {
        let interval_ms = self.evaluation_interval.as_deref().map_or(Ok(USUAL_INTERVAL_MS), duration)?;
        if interval_ms <= 0 {
            return Err("evaluation_interval must be positive".to_owned());
        }
        let mut failures = Vec::new();
        for (nth, case) in self.tests.iter().enumerate() {
            let name = if case.name.is_empty() { format!("test {}", nth + 1) } else { case.name.clone() };
            let found = self.run_case(case, files, interval_ms).map_err(|why| format!("{name}: {why}"))?;
            failures.extend(found.into_iter().map(|failure| format!("{name}: {failure}")));
        }
        Ok(failures)
    }

    fn run_case(&self, case: &TestCase, files: &[RuleFile], interval_ms: i64) -> Result<Vec<String>, String> {
        let storage = SharedMemory::default();
        let step_ms = case.interval.as_deref().map_or(Ok(interval_ms), duration)?;
        for InputSeries { series, values } in &case.input_series {
            let (labels, values) =
                notation::series(&format!("{series} {values}")).map_err(|why| format!("{series}: {why}"))?;
            for (nth, value) in (0..).zip(values) {
                if let Some(value) = value {
                    storage.write(0, step_ms.saturating_mul(nth), &[(labels.clone(), value)]);
                }
            }
        }
        let settings = RuleSettings {
            external_labels: case.external_labels.clone(),
            external_url: case.external_url.clone(),
            ..RuleSettings::default()
        };
        let mut groups: Vec<RunningGroup> =
            files.iter().flat_map(|file| &file.groups).cloned().map(RunningGroup::new).collect();
        let place = |name: &str| self.group_eval_order.iter().position(|known| known == name).unwrap_or(usize::MAX);
        groups.sort_by_key(|group| place(&group.group().name));
        let mut times: Vec<(i64, &AlertTest)> = Vec::new();
        for test in &case.alert_rule_test {
            times.push((duration(&test.eval_time)?, test));
        }
        let mut expressions: Vec<(i64, &ExpressionTest)> = Vec::new();
        for test in &case.promql_expr_test {
            expressions.push((duration(&test.eval_time)?, test));
        }
        let last_ms = times.iter().map(|(at_ms, _)| *at_ms).chain(expressions.iter().map(|(at_ms, _)| *at_ms)).max();
        let last_ms = last_ms.unwrap_or(0);
        if last_ms / interval_ms > MOST_EVALUATIONS {
            return Err(format!("it takes more than {MOST_EVALUATIONS} evaluations"));
        }
        let mut failures = Vec::new();
        for at_ms in (0..=last_ms).step_by(usize::try_from(interval_ms).unwrap_or(usize::MAX)) {
            for group in &mut groups {
                for failure in group.evaluate(at_ms, &storage, &settings) {
                    failures.push(format!("rule {}, at {}: {}", failure.rule, shown(at_ms), failure.why));
                }
            }
            let until_ms = at_ms.saturating_add(interval_ms);
            for (due_ms, test) in times.iter().filter(|(due_ms, _)| (at_ms..until_ms).contains(due_ms)) {
                failures.extend(alert_failure(test, *due_ms, &groups));
            }
        }
        for (at_ms, test) in expressions {
            failures.extend(self.expression_failure(test, at_ms, &storage, &settings)?);
        }
        Ok(failures)
    }

    fn expression_failure(
        &self,
        test: &ExpressionTest,
        at_ms: i64,
        storage: &SharedMemory,
        settings: &RuleSettings,
    ) -> Result<Option<String>, String> {
        let expr =
            parse(&test.expr, ParseOptions::default()).map_err(|error| format!("expr {:?}: {error}", test.expr))?;
        let query = Query { expr: &expr, times: Times::At(at_ms), settings: settings.query };
        let found = match query.run(storage, &Limits::default()).map(|answer| answer.value) {
            Ok(Value::Vector(_, series)) => series,
            Ok(Value::Scalar(_, value)) => vec![(Labels::new(), value)],
            Ok(_) => return Err(format!("expr {:?} has no instant vector", test.expr)),
            Err(error) => return Ok(Some(format!("expr {:?}, at {}: {error}", test.expr, shown(at_ms)))),
        };
        let mut expected = Vec::new();
        for sample in test.exp_samples.iter().flatten() {
            expected.push((labels_of(&sample.labels)?, sample.value));
        }
        let sorted = |mut series: Vec<(Labels, f64)>| {
            series.retain(|(_, value)| !is_stale(*value));
            series.sort_by(|(a, _), (b, _)| a.iter().cmp(b.iter()));
            series
        };
        let (found, expected) = (sorted(found), sorted(expected));
        let is_value = |a: f64, b: f64| {
            let is_near = self.fuzzy_compare && (a - b).abs() <= a.abs().max(b.abs()) * 1e-15;
            a == b || is_near || (a.is_nan() && b.is_nan())
        };
        let is_alike = found.len() == expected.len()
            && found.iter().zip(&expected).all(|((a, x), (b, y))| a == b && is_value(*x, *y));
        if is_alike {
            return Ok(None);
        }
        let text = |series: &[(Labels, f64)]| {
            let lines = series.iter().map(|(labels, value)| format!("\n      {} {value}", written(labels.iter())));
            if series.is_empty() { " nothing".to_owned() } else { lines.collect() }
        };
        let (expected, found) = (text(&expected), text(&found));
        Ok(Some(format!("expr {:?}, at {}\n    expected:{expected}\n    got:{found}", test.expr, shown(at_ms))))
    }
}

/// Returns how the firing alerts of a name differ from the expected ones, if they do.
fn alert_failure(test: &AlertTest, at_ms: i64, groups: &[RunningGroup]) -> Option<String> {
    let mut found: Vec<Described> = Vec::new();
    for group in groups {
        for (nth, rule) in group.group().rules.iter().enumerate() {
            if matches!(&rule.kind, RuleKind::Alerting(alerting) if alerting.name == test.alertname) {
                let firing = group.alerts(nth).filter(|alert| alert.state == AlertState::Firing);
                found.extend(firing.map(|alert| {
                    let labels = alert.labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
                    (labels.collect(), alert.annotations.clone())
                }));
            }
        }
    }
    let expected = test.exp_alerts.iter().flatten().map(|alert| {
        let mut labels = alert.exp_labels.clone().unwrap_or_default();
        labels.insert("alertname".to_owned(), test.alertname.clone());
        (labels, alert.exp_annotations.clone().unwrap_or_default())
    });
    let (mut expected, mut found): (Vec<Described>, _) = (expected.collect(), found);
    expected.sort();
    found.sort();
    if expected == found {
        return None;
    }
    let text = |alerts: &[Described]| -> String {
        let line = |(labels, annotations): &Described| {
            let pairs = |of: &BTreeMap<String, String>| written(of.iter().map(|(name, text)| (&**name, &**text)));
            format!("\n      {} {}", pairs(labels), pairs(annotations))
        };
        if alerts.is_empty() { " none".to_owned() } else { alerts.iter().map(line).collect() }
    };
    let (name, at) = (&test.alertname, shown(at_ms));
    Some(format!("alertname {name}, at {at}\n    expected:{}\n    got:{}", text(&expected), text(&found)))
}

/// Writes pairs in braces.
fn written<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

fn labels_of(text: &str) -> Result<Labels, String> {
    if matches!(text.trim(), "" | "{}") {
        return Ok(Labels::new());
    }
    let matchers = parse_selector(text).map_err(|error| format!("{text:?}: {error}"))?;
    Ok(matchers.into_iter().map(|matcher| (matcher.name, matcher.value)).collect())
}

fn duration(text: &str) -> Result<i64, String> {
    if text == "0" { Ok(0) } else { parse_duration(text) }
}

fn shown(at_ms: i64) -> String {
    dropsonde_promql::number::duration(at_ms)
}
