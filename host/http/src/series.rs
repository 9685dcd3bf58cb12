//! Series by their labels: their list, their samples in a window, and federation.

use super::answer_memory::{reserve, resize};
use super::blocking::query;
use super::chunked::{JsonProducer, LARGEST, ORDINARY, end_array, make};
use super::error::ApiError;
use super::peer::Peer;
use super::range_query::{QueryParameters, RangeQuery};
use super::{AppState, CallerExtension};
use crate::App;
use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use dropsonde_engine::quota::QuotaPermit;
use dropsonde_engine::{json, series};
use dropsonde_model::labels::NAME;
use dropsonde_model::{Labels, MetricType};
use dropsonde_openmetrics::{ExpositionFormat, number, series_text, unit_of};
use dropsonde_promql::{Matcher, parse_selector};
use dropsonde_store::{Query, SelectedSeries, SeriesSamples, SeriesSelection, in_order, is_stale};
use serde::Serialize;
use std::ops::Range;
use std::sync::Arc;

/// The parameter with selectors, as Prometheus names it.
pub(super) const MATCH: &str = "match[]";

/// The most series of a list, if the client names no limit.
const USUAL_LIMIT: usize = 1000;

/// Most series that are read together: one frame has as many columns.
const AT_ONCE: usize = 256;

/// Most samples that are read together, unless one series has more.
const SAMPLES_AT_ONCE: usize = 1 << 16;

/// How long before now a sample may be that federation shows, or with which a stream begins.
pub(super) const LOOKBACK_MS: i64 = 300_000;

/// The most series that one request may select.
const MOST_SELECTED: usize = 200_000;

/// Approximate bytes of a selected series: its labels and its columns.
const EACH: usize = 512;

/// A series in a list.
#[derive(Serialize)]
struct ListedSeries<'a> {
    series: String,
    name: &'a str,
    labels: serde_json::Map<String, serde_json::Value>,
    kind: &'static str,
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
    let mut selectors = selectors(&parameters)?;
    if selectors.is_empty() {
        // One without conditions, which selects all series.
        selectors.push(Vec::new());
    }
    let window = parameters.window(app.engine.clock.now_ms())?;
    let limit = parameters.number("limit")?.unwrap_or(USUAL_LIMIT);
    let after = parameters.one("after").map(labels_of).transpose()?;
    let (selection, memory) = selected(&app, &caller.peer, selectors, window).await?;
    let is_after = |series: &SelectedSeries| after.as_ref().is_none_or(|after| in_order(&series.labels, after).is_gt());
    let first = selection.series().partition_point(|series| !is_after(series));
    let end = first.saturating_add(limit).min(selection.series().len());
    let (mut left, mut open) = (first..end, b'[');
    let more: JsonProducer = Box::new(move |json| {
        let _held = &memory;
        for series in left.by_ref().take(AT_ONCE).filter_map(|nth| selection.series().get(nth)) {
            json.push(std::mem::replace(&mut open, b','));
            json.extend(serde_json::to_vec(&ListedSeries::of(series)).unwrap_or_default());
        }
        !left.is_empty() || end_array(json, open)
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
    let window = query.since_ms..query.until_ms;
    let (selection, mut memory) = selected(&app, &caller.peer, selectors, window.clone()).await?;
    let longest = selection.series().iter().map(|series| samples_of(series, &window)).max().unwrap_or(0);
    let read = longest.max(SAMPLES_AT_ONCE).saturating_mul(size_of::<(i64, f64)>());
    resize(&app, &mut memory, (selection.series().len() * EACH).saturating_add(read))?;
    let mut open = b'[';
    let more = in_parts(selection, SAMPLES_AT_ONCE / longest.max(1), move |json, part, is_last| {
        let _held = &memory;
        for (series, samples) in part.series().iter().zip(part.samples(window.clone())) {
            json.push(std::mem::replace(&mut open, b','));
            points(json, series, &samples, &query, bands);
        }
        if is_last {
            end_array(json, open);
        }
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
    let until_ms = app.engine.reach_ms(app.engine.clock.now_ms());
    let window = until_ms.saturating_sub(LOOKBACK_MS)..until_ms;
    let (selection, memory) = selected(&app, &caller.peer, selectors, window.clone()).await?;
    let mut family = String::new();
    let more = in_parts(selection, AT_ONCE, move |text, part, _| {
        let _held = &memory;
        federated(text, part, window.clone(), &mut family);
    });
    let mut response = make(app, &caller.peer, LARGEST, ORDINARY, more).await?.into_response();
    let text = HeaderValue::from_static(ExpositionFormat::Text.content_type());
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Ok(response)
}

/// Finds the series that selectors select and that have samples in a window. Returns them with the memory that is
/// reserved for them.
pub(super) async fn selected(
    app: &Arc<App>,
    peer: &Peer,
    selectors: Vec<Vec<Matcher>>,
    window: Range<i64>,
) -> Result<(SeriesSelection, QuotaPermit), ApiError> {
    let shared = app.clone();
    let (count, selectors) = query(app, peer, move || (series::count(&shared.engine, &selectors), selectors)).await?;
    if count > MOST_SELECTED {
        let why =
            format_args!("it selects {count} series, of which at most {MOST_SELECTED} can be read at once; narrow it");
        return Err(ApiError::invalid(MATCH, why));
    }
    let memory = reserve(app, peer, count * EACH).await?;
    let shared = app.clone();
    Ok((query(app, peer, move || series::select(&shared.engine, &selectors, &window)).await?, memory))
}

/// Returns how many samples a series has in a window at most, if they come on schedule.
fn samples_of(series: &SelectedSeries, window: &Range<i64>) -> usize {
    let span_ms = series.last_ms.min(window.end).saturating_sub(series.first_ms.max(window.start)).max(0);
    usize::try_from(span_ms / series.interval_ms.max(1)).unwrap_or(usize::MAX).saturating_add(1)
}

/// Makes an answer from some series at a time. `write` gets the series, and whether they are the last.
fn in_parts(
    selection: SeriesSelection,
    at_once: usize,
    mut write: impl FnMut(&mut Vec<u8>, &SeriesSelection, bool) + Send + 'static,
) -> JsonProducer {
    let (at_once, mut next) = (at_once.clamp(1, AT_ONCE), 0_usize);
    Box::new(move |out| {
        let part = selection.part(next..next.saturating_add(at_once));
        next = next.saturating_add(at_once);
        let is_last = next >= selection.series().len();
        write(out, &part, is_last);
        !is_last
    })
}

/// Returns the selectors of a query.
pub(super) fn selectors(parameters: &QueryParameters<'_>) -> Result<Vec<Vec<Matcher>>, ApiError> {
    let parse =
        |text: &str| parse_selector(text).map_err(|why| ApiError::invalid(MATCH, format_args!("{text:?}: {why}")));
    parameters.all(MATCH).map(parse).collect()
}

/// Returns the labels that a series in a list is named by.
fn labels_of(text: &str) -> Result<Labels, ApiError> {
    let matchers = parse_selector(text).map_err(|why| ApiError::invalid("after", format_args!("{text:?}: {why}")))?;
    Ok(matchers.into_iter().map(|matcher| (matcher.name, matcher.value)).collect())
}

/// Returns a series as a selector that selects it.
pub(super) fn named(labels: &Labels) -> String {
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
    end_array(json, open);
    json.push(b'}');
}

/// Appends the newest samples as an exposition, family by family, each with its time. `family` is the last family so
/// far.
fn federated(text: &mut Vec<u8>, selection: &SeriesSelection, window: Range<i64>, family: &mut String) {
    for (series, sample) in selection.series().iter().zip(selection.newest(window)) {
        let (Some((at_ms, value)), Some(name)) = (sample, series.labels.get(NAME)) else { continue };
        if name != family {
            // The type of a part of a histogram is not that of the whole.
            let shown = match series.metric_type {
                MetricType::Counter => "counter",
                MetricType::Gauge => "gauge",
                _ => "untyped",
            };
            text.extend_from_slice(format!("# TYPE {name} {shown}\n").as_bytes());
            name.clone_into(family);
        }
        text.extend_from_slice(named(&series.labels).as_bytes());
        text.push(b' ');
        number(text, value);
        text.extend_from_slice(format!(" {at_ms}\n").as_bytes());
    }
}

impl<'a> ListedSeries<'a> {
    fn of(series: &'a SelectedSeries) -> Self {
        let name = series.labels.get(NAME).unwrap_or_default();
        let labels = series.labels.iter().filter(|(key, _)| *key != NAME);
        Self {
            series: named(&series.labels),
            name,
            labels: labels.map(|(key, value)| (key.to_owned(), value.into())).collect(),
            kind: series.metric_type.as_str(),
            unit: unit_of(name),
            first_at: json::time(series.first_ms),
            last_at: json::time(series.last_ms),
        }
    }
}
