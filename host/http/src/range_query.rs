//! The parameters of a range query.

use super::error::ApiError;
use dropsonde_model::Span;
use dropsonde_model::time::{FURTHEST_MS, time_at};
use dropsonde_store::ladder::{self, AUTO_POINTS};
use dropsonde_store::{Align, Query};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ops::Range;

/// The largest number of fields in one query: more than a sampler can have.
const MOST_FIELDS: usize = 1024;

/// The largest number of points in one answer: a chart has fewer pixels.
const MOST_POINTS: i64 = 11_000;

/// The length of a window without `since` and `range`: an hour.
const DEFAULT_WINDOW_MS: i64 = 3_600_000;

/// A query string, decoded.
#[derive(Debug)]
pub(crate) struct QueryParameters<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

/// A parsed range query.
#[derive(Debug, PartialEq)]
pub(crate) struct RangeQuery {
    pub(crate) query: Query,
    /// Whether the answer has `_min` and `_max` of each field.
    pub(crate) bands: bool,
}

// === impl QueryParameters ===

impl<'a> QueryParameters<'a> {
    pub(crate) fn parse(query: Option<&'a str>) -> Self {
        Self(form_urlencoded::parse(query.unwrap_or_default().as_bytes()).collect())
    }

    /// Returns all values of that name, empty ones included.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// Returns the first value of that name. An empty value counts as absent.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        self.all(name).next().filter(|value| !value.is_empty())
    }

    /// Returns the number of that name; `None` if it is absent.
    pub(crate) fn number(&self, name: &str) -> Result<Option<usize>, ApiError> {
        let parse =
            |text: &str| text.parse().map_err(|_| ApiError::invalid(name, format_args!("{text:?} is not a number")));
        self.one(name).map(parse).transpose()
    }

    /// Returns the window between `since` and `until`, which are optional: all history up to now.
    pub(crate) fn window(&self, now_ms: i64) -> Result<Range<i64>, ApiError> {
        let bound = |name| self.one(name).map(|text| time(name, text, now_ms)).transpose();
        let (since, until) = (bound("since")?, bound("until")?);
        Ok(since.unwrap_or(i64::MIN)..until.unwrap_or(now_ms.saturating_add(1)))
    }
}

// === impl RangeQuery ===

impl RangeQuery {
    /// Parses a range query. Automatic steps are no finer than `interval_ms`, the interval at which the instance is
    /// read.
    pub(crate) fn parse(parameters: &QueryParameters<'_>, now_ms: i64, interval_ms: i64) -> Result<Self, ApiError> {
        let align = match parameters.one("align") {
            None | Some("epoch") => Align::Epoch,
            Some("since") => Align::Since,
            Some(other) => {
                return Err(ApiError::invalid("align", format_args!("{other:?} is neither epoch nor since")));
            }
        };
        let bands = match parameters.one("bands") {
            None | Some("0" | "false") => false,
            Some("1" | "true") => true,
            Some(other) => return Err(ApiError::invalid("bands", format_args!("{other:?} is neither 0 nor 1"))),
        };
        let points = match parameters.one("points") {
            None => None,
            Some(text) => match text.parse() {
                Ok(points @ 1..=11_000) => Some(points),
                _ => {
                    return Err(ApiError::invalid(
                        "points",
                        format_args!("{text:?} is not a number from 1 to {MOST_POINTS}"),
                    ));
                }
            },
        };
        let range = parameters.one("range").map(|text| duration("range", text)).transpose()?;
        let since = parameters.one("since").map(|text| time("since", text, now_ms)).transpose()?;
        let until = parameters.one("until").map(|text| time("until", text, now_ms)).transpose()?;
        if range.is_some() && since.is_some() {
            return Err(ApiError::invalid("range", "give either range or since, not both"));
        }
        let mut until_ms = until.unwrap_or(now_ms);
        let mut since_ms = since.unwrap_or_else(|| until_ms - range.unwrap_or(DEFAULT_WINDOW_MS));
        if since_ms > until_ms {
            return Err(ApiError::invalid("since", "it is later than until"));
        }
        let window_ms = until_ms - since_ms;
        let step_ms = match parameters.one("resolution") {
            None | Some("auto") => {
                let step_ms = ladder::step_ms(window_ms, points.unwrap_or(AUTO_POINTS), interval_ms);
                if range.is_some() && align == Align::Epoch {
                    since_ms = ladder::floor(since_ms, step_ms);
                    until_ms = ladder::ceil(until_ms, step_ms);
                }
                step_ms
            }
            Some(text) => duration("resolution", text)?,
        };
        if window_ms / step_ms > MOST_POINTS {
            let count = window_ms / step_ms;
            return Err(ApiError::invalid(
                "resolution",
                format_args!(
                    "{count} points exceed the limit of {MOST_POINTS}; choose a longer step, or a shorter window"
                ),
            ));
        }
        let fields = parameters
            .one("fields")
            .map(|list| -> BTreeSet<&str> { list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect() });
        if let Some(fields) = fields.as_ref().filter(|fields| fields.len() > MOST_FIELDS) {
            let why = format_args!("{} fields are named; name at most {MOST_FIELDS}", fields.len());
            return Err(ApiError::invalid("fields", why));
        }
        let fields = fields.map(|fields| fields.into_iter().map(str::to_owned).collect());
        Ok(Self { query: Query { since_ms, until_ms, step_ms, align, fields }, bands })
    }
}

/// Parses a duration. Returns milliseconds, at least one.
fn duration(parameter: &str, text: &str) -> Result<i64, ApiError> {
    let span: Span = text.parse().map_err(|why| ApiError::invalid(parameter, why))?;
    match i64::try_from(span.get().as_millis()) {
        Ok(ms @ 1..=FURTHEST_MS) => Ok(ms),
        Ok(0) => Err(ApiError::invalid(parameter, "must be at least 1ms")),
        _ => Err(ApiError::invalid(parameter, format_args!("{text:?} is too long"))),
    }
}

/// Parses RFC 3339, Unix seconds with or without a fraction, or a time relative to now. Returns Unix milliseconds.
fn time(parameter: &str, text: &str, now_ms: i64) -> Result<i64, ApiError> {
    // In a query string a plus sign means a space, but people paste +02:00 as it is.
    let known = time_at(&text.replace(' ', "+"), now_ms);
    let why = format_args!("{text:?} is neither RFC 3339, nor Unix seconds, nor relative such as -1h");
    known.ok_or_else(|| ApiError::invalid(parameter, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::response::IntoResponse;

    const NOW: i64 = 1_700_000_007_000;
    const H: i64 = 3_600_000;

    fn parse(query: &str) -> Result<RangeQuery, ApiError> {
        RangeQuery::parse(&QueryParameters::parse(Some(query)), NOW, 10_000)
    }

    fn spans(query: &str) -> (i64, i64, i64) {
        let Query { since_ms, until_ms, step_ms, .. } = parse(query).unwrap().query;
        (since_ms, until_ms, step_ms)
    }

    #[test]
    fn a_range_query_without_parameters_covers_the_last_hour() {
        assert_eq!(spans(""), (NOW - H, NOW, 30_000));
    }

    #[test]
    fn a_range_with_automatic_steps_is_widened_to_whole_buckets() {
        let (since, until, step) = spans("range=7d");
        assert_eq!(step, 90 * 60_000);
        assert_eq!((since % step, until % step), (0, 0));
        assert!(since <= NOW - 7 * 24 * H && until >= NOW);
    }

    #[test]
    fn repeated_fields_count_once_and_too_many_fields_are_refused() {
        let fields = |query: &str| parse(query).map(|window| window.query.fields.unwrap());
        assert_eq!(fields("fields=b,a,b,,a").unwrap(), ["a", "b"]);
        let many: Vec<_> = (0..=MOST_FIELDS).map(|nth| format!("f{nth}")).collect();
        assert!(fields(&format!("fields={}", many.join(","))).is_err());
    }

    #[test]
    fn explicit_times_and_steps_are_used_unchanged() {
        assert_eq!(spans("range=1h&resolution=7s"), (NOW - H, NOW, 7_000));
        assert_eq!(spans("since=100&until=200&resolution=60"), (100_000, 200_000, 60_000));
        let rfc = "since=2023-11-14T22:00:00Z&until=2023-11-15T00:00:00%2B01:00";
        assert_eq!(spans(rfc), (1_699_999_200_000, 1_700_002_800_000, 30_000));
        assert_eq!(spans("range=3600").1 - spans("range=3600").0, spans("range=1h").1 - spans("range=1h").0);
    }

    #[test]
    fn an_invalid_query_is_refused_with_the_name_of_the_parameter() {
        for (query, parameter) in [
            ("range=soon", "range"),
            ("range=0", "range"),
            ("since=yesterday", "since"),
            ("since=nan", "since"),
            ("since=1e300", "since"),
            ("since=-1e300", "since"),
            ("since=-inf", "since"),
            ("since=200&until=100", "since"),
            ("range=1h&since=5", "range"),
            ("range=7d&resolution=1s", "resolution"),
            ("resolution=-5s", "resolution"),
            ("points=0", "points"),
            ("points=12000", "points"),
            ("bands=2", "bands"),
            ("align=left", "align"),
        ] {
            let error = parse(query).expect_err(query);
            assert!(format!("{error:?}").contains(&format!("invalid {parameter} parameter: ")), "{query}: {error:?}");
            assert_eq!(error.into_response().status(), 400);
        }
    }

    #[test]
    fn the_number_of_points_determines_the_step() {
        assert_eq!(spans("range=24h&points=48").2, 30 * 60_000);
    }
}
