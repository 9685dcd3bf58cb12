use super::failure::Failure;
use crate::body;
use crate::{App, CallerExtension};
use axum::extract::{FromRequest, Request};
use axum::http::Method;
use axum::{Extension, RequestExt as _};
use dropsonde_model::time::time_ms;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of the largest form: a query is a text that somebody wrote.
const LARGEST_FORM: usize = 256 << 10;

/// Numbers from here on are milliseconds: as seconds they would be in the year 5138.
const MILLISECONDS_FROM: f64 = 1e11;

/// The latest time, in seconds, that fits into milliseconds in 63 bits.
const LATEST: f64 = i64::MAX as f64 / 1000.0;

/// The parameters of a request: of its form, then of its query string.
#[derive(Debug)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl FromRequest<Arc<App>> for Parameters {
    type Rejection = Failure;

    async fn from_request(mut request: Request, app: &Arc<App>) -> Result<Self, Failure> {
        let caller = request.extract_parts::<CallerExtension>().await;
        let Extension(caller) = caller.map_err(|_| Failure::internal("the sender is not known"))?;
        let (head, body) = request.into_parts();
        let mut all: Vec<(String, String)> = Vec::new();
        if head.method == Method::POST {
            let form = body::read(app, &caller.peer, &head.headers, body, LARGEST_FORM).await?;
            all.extend(form_urlencoded::parse(&form).into_owned());
        }
        all.extend(form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned());
        Ok(Self(all))
    }
}

impl Parameters {
    /// Returns all values of that name.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// Returns the first value of that name. An empty value counts as absent.
    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.all(name).next().filter(|value| !value.is_empty())
    }

    pub(super) fn required(&self, name: &str) -> Result<&str, Failure> {
        self.one(name).ok_or_else(|| Failure::invalid(name, "it is missing"))
    }

    /// Returns the limit of a list; none if it is 0 or absent.
    pub(super) fn limit(&self) -> Result<Option<usize>, Failure> {
        let parse = |text: &str| {
            text.parse::<usize>().map_err(|_| Failure::invalid("limit", format_args!("{text:?} is not a whole number")))
        };
        Ok(self.one("limit").map(parse).transpose()?.filter(|limit| *limit > 0))
    }

    /// Returns the time of that name, in milliseconds since 1970.
    pub(super) fn time(&self, name: &str) -> Result<Option<i64>, Failure> {
        let parse = |text: &str| {
            time(text).ok_or_else(|| Failure::invalid(name, format_args!("cannot parse {text:?} to a valid timestamp")))
        };
        self.one(name).map(parse).transpose()
    }

    /// Returns the duration of that name, in milliseconds.
    pub(super) fn duration(&self, name: &str) -> Result<Option<i64>, Failure> {
        let parse = |text: &str| {
            duration(text)
                .ok_or_else(|| Failure::invalid(name, format_args!("cannot parse {text:?} to a valid duration")))
        };
        self.one(name).map(parse).transpose()
    }

    /// Returns how long the query may take: what the client says, but no longer than is allowed.
    pub(super) fn timeout(&self, longest: Duration) -> Result<Duration, Failure> {
        let wanted = self.duration("timeout")?.and_then(|milliseconds| u64::try_from(milliseconds).ok());
        Ok(wanted.map_or(longest, |wanted| longest.min(Duration::from_millis(wanted))))
    }
}

/// Reads a time: RFC 3339, or seconds since 1970. Grafana also sends milliseconds.
fn time(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse::<f64>() {
        let milliseconds = if number.abs() >= MILLISECONDS_FROM { number } else { number * 1000.0 };
        return (milliseconds.is_finite() && milliseconds.abs() < LATEST * 1000.0).then(|| milliseconds.round() as i64);
    }
    time_ms(text)
}

/// Reads a duration: seconds, or a text such as `1m30s`.
fn duration(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return (seconds.is_finite() && seconds.abs() < LATEST).then_some((seconds * 1000.0) as i64);
    }
    dropsonde_promql::duration_ms(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_all_forms_that_clients_send() {
        for (text, expected) in [
            ("1700000000", Some(1_700_000_000_000)),
            ("1700000000.5", Some(1_700_000_000_500)),
            ("1700000000123", Some(1_700_000_000_123)),
            ("2023-11-14T22:13:20Z", Some(1_700_000_000_000)),
            ("2023-11-14T23:13:20.25+01:00", Some(1_700_000_000_250)),
            ("-1", Some(-1000)),
            ("NaN", None),
            ("1e300", None),
            ("yesterday", None),
        ] {
            assert_eq!(time(text), expected, "{text}");
        }
        for (text, expected) in [("15", Some(15_000)), ("0.5", Some(500)), ("1m30s", Some(90_000)), ("soon", None)] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }
}
