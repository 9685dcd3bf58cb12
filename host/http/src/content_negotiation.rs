//! The format and the compression that a scraper prefers.

use axum::http::header::{ACCEPT, ACCEPT_ENCODING};
use axum::http::{HeaderMap, HeaderName};
use dropsonde_openmetrics::ExpositionFormat;

/// One part of an `Accept` or `Accept-Encoding` header.
struct AcceptItem<'a> {
    name: &'a str,
    version: Option<&'a str>,
    /// The weight `q`: 1 if it is absent, 0 if it is not a number from 0 to 1.
    quality: f32,
}

/// Returns the format with the highest weight. Of equal weights the more specific one wins. Without any, it is the text
/// format.
pub(super) fn format(headers: &HeaderMap) -> ExpositionFormat {
    let mut best: Option<((f32, u8), ExpositionFormat)> = None;
    let mut offer = |quality: f32, specific: u8, format| {
        if quality > 0.0 && best.is_none_or(|(so_far, _)| (quality, specific) > so_far) {
            best = Some(((quality, specific), format));
        }
    };
    for part in parts(headers, &ACCEPT) {
        match (part.name, part.version) {
            ("application/openmetrics-text", None | Some("1.0.0")) => {
                offer(part.quality, 2, ExpositionFormat::OpenMetrics)
            }
            ("text/plain", None | Some("0.0.4")) => offer(part.quality, 1, ExpositionFormat::Text),
            ("text/*" | "*/*", _) => offer(part.quality, 0, ExpositionFormat::Text),
            _ => {}
        }
    }
    best.map_or(ExpositionFormat::Text, |(_, format)| format)
}

/// Returns whether the client accepts gzip. It does only if it says so.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    takes(headers, &["gzip", "x-gzip"])
}

/// Returns whether the client accepts brotli. It does only if it says so.
pub(super) fn takes_brotli(headers: &HeaderMap) -> bool {
    takes(headers, &["br"])
}

fn takes(headers: &HeaderMap, names: &[&str]) -> bool {
    let quality = |wanted: &[&str]| {
        parts(headers, &ACCEPT_ENCODING).find(|part| wanted.contains(&part.name)).map(|part| part.quality)
    };
    quality(names).or_else(|| quality(&["*"])).is_some_and(|quality| quality > 0.0)
}

fn parts<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = AcceptItem<'a>> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|part| {
        let mut parameters = part.split(';').map(str::trim);
        let mut part = AcceptItem { name: parameters.next().unwrap_or_default(), version: None, quality: 1.0 };
        for (key, value) in parameters.filter_map(|parameter| parameter.split_once('=')) {
            match key.trim_end() {
                "q" => part.quality = value.trim().parse().ok().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(0.0),
                "version" => part.version = Some(value.trim().trim_matches('"')),
                _ => {}
            }
        }
        part
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn wanted(accept: &str) -> ExpositionFormat {
        format(&HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(accept).unwrap())]))
    }

    fn gzip(accept: &str) -> bool {
        takes_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_str(accept).unwrap())]))
    }

    #[test]
    fn a_scraper_gets_the_format_with_the_highest_weight() {
        for prometheus in [
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "application/openmetrics-text; version=\"1.0.0\"",
            "text/plain, application/openmetrics-text",
        ] {
            assert_eq!(wanted(prometheus), ExpositionFormat::OpenMetrics, "{prometheus}");
        }
        for classic in [
            "",
            "*/*",
            "text/*;q=0.5",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
            "text/plain;version=0.0.4;q=0.9,application/openmetrics-text;q=0.1",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=nonsense,text/plain;q=0.1",
            "application/json",
        ] {
            assert_eq!(wanted(classic), ExpositionFormat::Text, "{classic}");
        }
        assert_eq!(format(&HeaderMap::new()), ExpositionFormat::Text);
    }

    #[test]
    fn only_clients_that_accept_gzip_get_gzip() {
        for yes in ["gzip", "deflate, gzip;q=0.5", "*", "x-gzip"] {
            assert!(gzip(yes), "{yes}");
        }
        for no in ["", "identity", "gzip;q=0", "*;q=0", "gzip;q=0, *", "br"] {
            assert!(!gzip(no), "{no}");
        }
    }
}
