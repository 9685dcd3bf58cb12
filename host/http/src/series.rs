//! Series by their labels: their list, their samples in a window, and federation.

use super::chunked::{JsonProducer, LARGEST, ORDINARY, make};
use super::error::ApiError;
use super::range_query::{QueryParameters, RangeQuery};
use super::{AppState, CallerExtension};
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use dropsonde_engine::{json, series};
use dropsonde_model::{Labels, MetricType};
use dropsonde_openmetrics::{ExpositionFormat, ExpositionText, number, series_text, unit_of};
use dropsonde_promql::{Matcher, parse_selector};
use dropsonde_store::{Query, SelectedSeries, SeriesSamples, SeriesSelection, is_stale};
use serde::Serialize;
use std::ops::Range;

const NAME: &str = "__name__";

/// The parameter with selectors, as Prometheus names it.
const MATCH: &str = "match[]";

/// The most series of a list, if the client names no limit.
const USUAL_LIMIT: usize = 1000;

/// The series whose samples are read together.
const AT_ONCE: usize = 64;

/// How long before now a sample may be that federation shows.
const LOOKBACK_MS: i64 = 300_000;

/// A series in a list.
#[derive(Serialize)]
struct ListedSeries<'a> {
    series: String,
    name: &'a str,
    labels: serde_json::Map<String, serde_json::Value>,
    #[serde(rename = "type")]
    metric_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'static str>,
    first_at: String,
    last_at: String,
}

/// Lists the series that have samples, sorted by name and labels. Parameters: `match[]` (repeatable), `since`, `until`,
/// `limit`, `after`.
pub(crate) async fn list(
    State(app): AppState,
    Extension(caller): CallerExtension,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = QueryParameters::parse(query.as_deref());
    let selectors = selectors(&parameters)?;
    let window = parameters.window(app.engine.clock.now_ms())?;
    let limit = match parameters.one("limit") {
        None => USUAL_LIMIT,
        Some(text) => text.parse().map_err(|_| ApiError::invalid("limit", format_args!("{text:?} is not a number")))?,
    };
    let after = parameters.one("after").map(labels_of).transpose()?;
    let shared = app.clone();
    let mut left: Option<std::vec::IntoIter<SelectedSeries>> = None;
    let mut open = b'[';
    let more: JsonProducer = Box::new(move |json| {
        let left = left.get_or_insert_with(|| {
            // Without selectors, all series are listed.
            let all = [Vec::new()];
            let selectors = if selectors.is_empty() { &all[..] } else { &selectors };
            let selection = series::select(&shared.engine, selectors, &window);
            let is_after =
                |series: &&SelectedSeries| after.as_ref().is_none_or(|after| series.labels.iter().gt(after.iter()));
            selection.series().iter().filter(is_after).take(limit).cloned().collect::<Vec<_>>().into_iter()
        });
        for series in left.by_ref().take(AT_ONCE) {
            json.push(std::mem::replace(&mut open, b','));
            json.extend(serde_json::to_vec(&ListedSeries::of(&series)).unwrap_or_default());
        }
        end_array(json, open, left.len() > 0)
    });
    Ok(make(app, &caller.peer, LARGEST, ORDINARY, more).await?.into_response())
}

/// Returns the samples of series in a window. Each point has the mean of a gauge's samples, and the last total of a
/// counter.
pub(crate) async fn range(
    State(app): AppState,
    Extension(caller): CallerExtension,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let parameters = QueryParameters::parse(query.as_deref());
    let selectors = selectors(&parameters)?;
    if selectors.is_empty() {
        return Err(ApiError::invalid(MATCH, "name the series to read, such as match[]=up"));
    }
    let interval = app.engine.options.load().poll.interval.get();
    let interval_ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
    let RangeQuery { mut query, bands } = RangeQuery::parse(&parameters, app.engine.clock.now_ms(), interval_ms)?;
    query.until_ms = app.engine.reach_ms(query.until_ms);
    let shared = app.clone();
    let (mut selection, mut next, mut open): (Option<SeriesSelection>, usize, u8) = (None, 0, b'[');
    let more: JsonProducer = Box::new(move |json| {
        let window = query.since_ms..query.until_ms;
        let selection = selection.get_or_insert_with(|| series::select(&shared.engine, &selectors, &window));
        let part = selection.part(next..next.saturating_add(AT_ONCE));
        next = next.saturating_add(AT_ONCE);
        for (series, samples) in part.series().iter().zip(part.samples(window)) {
            json.push(std::mem::replace(&mut open, b','));
            points(json, series, &samples, &query, bands);
        }
        end_array(json, open, next < selection.series().len())
    });
    Ok(make(app, &caller.peer, LARGEST, ORDINARY, more).await?.into_response())
}

/// Returns the newest samples of the series that selectors select, for another Prometheus.
pub(crate) async fn federate(
    State(app): AppState,
    Extension(caller): CallerExtension,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let selectors = selectors(&QueryParameters::parse(query.as_deref()))?;
    let shared = app.clone();
    let text = super::blocking::query(&app, &caller.peer, move || {
        let until_ms = shared.engine.reach_ms(shared.engine.clock.now_ms());
        let window = until_ms.saturating_sub(LOOKBACK_MS)..until_ms;
        federated(&series::select(&shared.engine, &selectors, &window), window)
    })
    .await?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(ExpositionFormat::Text.content_type())),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, text).into_response())
}

/// Returns the selectors of a query.
fn selectors(parameters: &QueryParameters<'_>) -> Result<Vec<Vec<Matcher>>, ApiError> {
    let parse =
        |text: &str| parse_selector(text).map_err(|why| ApiError::invalid(MATCH, format_args!("{text:?}: {why}")));
    parameters.all(MATCH).map(parse).collect()
}

/// Returns the labels that a series in a list is named by.
fn labels_of(text: &str) -> Result<Labels, ApiError> {
    let matchers = parse_selector(text).map_err(|why| ApiError::invalid("after", format_args!("{text:?}: {why}")))?;
    Ok(matchers.into_iter().map(|matcher| (matcher.name, matcher.value)).collect())
}

/// Ends an array unless there is more.
fn end_array(json: &mut Vec<u8>, open: u8, is_more: bool) -> bool {
    if !is_more {
        // The array is empty.
        if open == b'[' {
            json.push(open);
        }
        json.push(b']');
    }
    is_more
}

/// Returns a series as a selector that selects it.
fn named(labels: &Labels) -> String {
    let name = labels.get(NAME).unwrap_or_default();
    series_text(name, labels.iter().filter(|(key, _)| *key != NAME))
}

fn points(json: &mut Vec<u8>, series: &SelectedSeries, samples: &SeriesSamples, query: &Query, bands: bool) {
    json.extend_from_slice(b"{\"series\":");
    json.extend(serde_json::to_vec(&named(&series.labels)).unwrap_or_default());
    json.extend_from_slice(b",\"points\":");
    let mut open = b'[';
    let is_current = |(_, value): &(&i64, &f64)| !is_stale(**value);
    let current: Vec<(i64, f64)> =
        samples.at_ms.iter().zip(&samples.values).filter(is_current).map(|(at, value)| (*at, *value)).collect();
    for bucket in current.chunk_by(|(a, _), (b, _)| query.bucket(*a) == query.bucket(*b)) {
        let Some((first_ms, _)) = bucket.first() else { continue };
        let values = || bucket.iter().map(|(_, value)| *value);
        let value = match series.metric_type {
            MetricType::Gauge => values().sum::<f64>() / bucket.len() as f64,
            _ => values().next_back().unwrap_or(f64::NAN),
        };
        json.push(std::mem::replace(&mut open, b','));
        json.extend_from_slice(format!("{{\"at\":\"{}\",\"value\":", json::time(query.bucket(*first_ms))).as_bytes());
        json::number(json, value);
        if bands {
            json.extend_from_slice(b",\"min\":");
            json::number(json, values().fold(f64::INFINITY, f64::min));
            json.extend_from_slice(b",\"max\":");
            json::number(json, values().fold(f64::NEG_INFINITY, f64::max));
        }
        json.push(b'}');
    }
    end_array(json, open, false);
    json.push(b'}');
}

/// Returns the newest samples as an exposition, family by family, each with its time.
fn federated(selection: &SeriesSelection, window: Range<i64>) -> Vec<u8> {
    let mut text = ExpositionText::new(ExpositionFormat::Text);
    let mut family = "";
    for (series, sample) in selection.series().iter().zip(selection.newest(window)) {
        let (Some((at_ms, value)), Some(name)) = (sample, series.labels.get(NAME)) else { continue };
        if name != family {
            // The type of a part of a histogram is not that of the whole.
            let shown = match series.metric_type {
                MetricType::Counter => "counter",
                MetricType::Gauge => "gauge",
                _ => "untyped",
            };
            text.bytes.extend_from_slice(format!("# TYPE {name} {shown}\n").as_bytes());
            family = name;
        }
        text.bytes.extend_from_slice(named(&series.labels).as_bytes());
        text.bytes.push(b' ');
        number(&mut text.bytes, value);
        text.bytes.extend_from_slice(format!(" {at_ms}\n").as_bytes());
    }
    text.bytes
}

impl<'a> ListedSeries<'a> {
    fn of(series: &'a SelectedSeries) -> Self {
        let name = series.labels.get(NAME).unwrap_or_default();
        let labels = series.labels.iter().filter(|(key, _)| *key != NAME);
        Self {
            series: named(&series.labels),
            name,
            labels: labels.map(|(key, value)| (key.to_owned(), value.into())).collect(),
            metric_type: series.metric_type.as_str(),
            unit: unit_of(name),
            first_at: json::time(series.first_ms),
            last_at: json::time(series.last_ms),
        }
    }
}
