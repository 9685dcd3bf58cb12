//! The command that asks a running host in PromQL.

use super::chart;
use super::client::{HostClient, encode};
use super::out::{Out, aside};
use super::{ClientArgs, query, time};
use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use dropsonde_model::Right;
use dropsonde_openmetrics::series_text;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Args)]
pub(super) struct QueryArgs {
    /// The expression
    expression: String,
    /// The time of the values, or the end of the range: RFC 3339, Unix seconds, or -1h [default: now]
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    time: Option<i64>,
    /// Draw the values of this time, such as 30m, 6h or 7d [default: one value]
    #[arg(long, value_name = "SPAN")]
    range: Option<String>,
    /// The time between two values [default: a 240th of the range, at least 1s]
    #[arg(long, value_name = "SPAN", requires = "range")]
    step: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// The number of values that a range has if the step is not given.
const USUAL_POINTS: f64 = 240.0;

#[derive(Deserialize)]
struct Answer {
    data: Data,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    infos: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "resultType", content = "result", rename_all = "lowercase")]
enum Data {
    Scalar((f64, String)),
    String((f64, String)),
    Vector(Vec<Series>),
    Matrix(Vec<Series>),
}

#[derive(Deserialize)]
struct Series {
    metric: BTreeMap<String, String>,
    value: Option<(f64, String)>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

/// The times of a range query, in seconds.
struct Range {
    start: f64,
    end: f64,
    step: f64,
}

pub(super) async fn ask(args: QueryArgs, out: &mut Out) -> Result<()> {
    let client = HostClient::new(&args.client.host, Right::Read)?;
    let end = args.time.map_or_else(now, |at_ms| at_ms as f64 / 1000.0);
    let seconds = |text: &str| {
        let milliseconds = dropsonde_promql::duration_ms(text);
        milliseconds
            .map(|ms| ms as f64 / 1000.0)
            .filter(|seconds| *seconds > 0.0)
            .ok_or_else(|| anyhow!("{text:?} is not a duration; write it like 30m, 6h or 7d"))
    };
    let range = match &args.range {
        None => None,
        Some(span) => {
            let span = seconds(span).context("--range")?;
            let step = match &args.step {
                Some(step) => seconds(step).context("--step")?,
                None => (span / USUAL_POINTS).ceil().max(1.0),
            };
            // Whole steps give the same times from one call to the next.
            let end = (end / step).floor() * step;
            Some(Range { start: end - (span / step).floor() * step, end, step })
        }
    };
    let query = encode(&args.expression);
    let path = match &range {
        None => format!("/api/v1/query?query={query}&time={end}"),
        Some(Range { start, end, step }) => {
            format!("/api/v1/query_range?query={query}&start={start}&end={end}&step={step}")
        }
    };
    let body = client.get(&path).await.map_err(|error| pointed_out(&args.expression, error))?;
    if args.client.json {
        return query::print(&body, out);
    }
    let Answer { data, warnings, infos } = serde_json::from_slice(&body).context("the host's answer is no value")?;
    for remark in warnings.iter().chain(&infos) {
        aside(remark);
    }
    match data {
        Data::Scalar((_, value)) => Ok(writeln!(out, "{value}")?),
        Data::String((_, text)) => Ok(writeln!(out, "{}", text.escape_debug())?),
        Data::Vector(series) | Data::Matrix(series) if series.is_empty() => {
            bail!("no series{}", if range.is_some() { " in this time" } else { "" })
        }
        Data::Vector(series) => table(&series, out),
        Data::Matrix(series) => match range {
            Some(range) => draw(&series, &range, out),
            None => list(&series, out),
        },
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Adds the expression to an error that names a place in it, with a mark at the place.
fn pointed_out(expression: &str, error: anyhow::Error) -> anyhow::Error {
    let message = error.to_string();
    let Some((before, _)) = message.split_once(": parse error:") else { return error };
    let mut numbers = before.rsplit([' ', ':']);
    let mut number = || numbers.next().and_then(|text| text.parse::<usize>().ok());
    let (Some(column), Some(line)) = (number(), number()) else { return error };
    let Some(text) = expression.lines().nth(line.saturating_sub(1)) else { return error };
    anyhow!("{message}\n  {text}\n  {}^", " ".repeat(column.saturating_sub(1)))
}

/// Returns what to call each series: without the labels that all of them have, which come first, as a text of their
/// own.
fn names(series: &[Series]) -> (String, Vec<String>) {
    let is_common = |name: &str, value: &str| {
        series.len() > 1 && series.iter().all(|other| other.metric.get(name).is_some_and(|known| known == value))
    };
    let named = |labels: &mut dyn Iterator<Item = (&String, &String)>| {
        let labels: Vec<(&str, &str)> = labels.map(|(name, value)| (&**name, &**value)).collect();
        let name = labels.iter().find(|(name, _)| *name == "__name__").map_or("", |(_, value)| value);
        let text = series_text(name, labels.iter().copied().filter(|(name, _)| *name != "__name__"));
        if text.is_empty() { "{}".to_owned() } else { text }
    };
    let first = series.first().map(|series| &series.metric);
    let common = named(&mut first.into_iter().flatten().filter(|(name, value)| is_common(name, value)));
    let names =
        series.iter().map(|series| named(&mut series.metric.iter().filter(|(name, value)| !is_common(name, value))));
    (common, names.collect())
}

fn table(series: &[Series], out: &mut Out) -> Result<()> {
    let (common, names) = names(series);
    if common != "{}" {
        writeln!(out, "{common}")?;
    }
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (name, series) in names.iter().zip(series) {
        let value = series.value.as_ref().map_or("", |(_, value)| value);
        writeln!(out, "{name:<width$}  {value}")?;
    }
    Ok(())
}

/// Draws the course of each series; a single one as a large chart.
fn draw(series: &[Series], range: &Range, out: &mut Out) -> Result<()> {
    let steps = ((range.end - range.start) / range.step).round() as usize + 1;
    let column = |series: &Series| {
        let mut values: Vec<Option<f64>> = vec![None; steps];
        for (at, value) in &series.values {
            let step = ((at - range.start) / range.step).round() as usize;
            let number = value.parse::<f64>().ok().filter(|value| value.is_finite());
            values.get_mut(step).into_iter().for_each(|value| *value = number);
        }
        values
    };
    let (common, names) = names(series);
    if common != "{}" {
        writeln!(out, "{common}")?;
    }
    match (series, &*names) {
        ([only], [name]) => write!(out, "{}", chart::chart(name, &column(only), chart::width()))?,
        _ => {
            let rows: Vec<_> = names.iter().map(String::as_str).zip(series.iter().map(column)).collect();
            write!(out, "{}", chart::lines("SERIES", &rows, chart::width()))?;
        }
    }
    Ok(())
}

/// Lists samples with their times.
fn list(series: &[Series], out: &mut Out) -> Result<()> {
    for (name, series) in names(series).1.iter().zip(series) {
        writeln!(out, "{name}")?;
        for (at, value) in &series.values {
            let time = jiff::Timestamp::from_millisecond((at * 1000.0).round() as i64);
            let time = time.map_or_else(|_| at.to_string(), |time| time.to_string());
            writeln!(out, "  {time}  {value}")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(pairs: &[(&str, &str)]) -> Series {
        let metric = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Series { metric, value: None, values: Vec::new() }
    }

    #[test]
    fn labels_that_all_series_have_are_named_once() {
        let both = [
            series(&[("__name__", "up"), ("job", "a"), ("zone", "x")]),
            series(&[("__name__", "up"), ("job", "a"), ("zone", "y")]),
        ];
        let expected = ("up{job=\"a\"}".to_owned(), vec!["{zone=\"x\"}".to_owned(), "{zone=\"y\"}".to_owned()]);
        assert_eq!(names(&both), expected);
        assert_eq!(names(&both[..1]), ("{}".to_owned(), vec!["up{job=\"a\",zone=\"x\"}".to_owned()]));
        assert_eq!(names(&[series(&[])]), ("{}".to_owned(), vec!["{}".to_owned()]));
    }

    #[test]
    fn a_mistake_in_an_expression_is_marked() {
        let error = anyhow!("invalid parameter \"query\": 1:6: parse error: expected an expression");
        let shown = pointed_out("rate(", error).to_string();
        assert!(shown.ends_with("expected an expression\n  rate(\n       ^"), "{shown}");
        assert_eq!(pointed_out("x", anyhow!("no answer")).to_string(), "no answer");
    }
}
