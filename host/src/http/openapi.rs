//! What the API is, for programs: `openapi.json`, with the paths of this host.

use super::error::ApiError;
use crate::config::{Config, Metrics, Snapshot};
use axum::http::StatusCode;
use bytes::Bytes;
use serde_json::Value;

const DOCUMENT: &str = include_str!("openapi.json");

/// As it is sent.
pub(super) fn document(config: &Config) -> Result<Bytes, ApiError> {
    let document = of(config).and_then(|document| serde_json::to_vec(&document));
    document.map(Bytes::from).map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// Some paths are the operator's to choose.
fn of(config: &Config) -> serde_json::Result<Value> {
    let mut document: Value = serde_json::from_str(DOCUMENT)?;
    if let Some(info) = document.get_mut("info").and_then(Value::as_object_mut) {
        info.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    }
    if let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) {
        let usual = [Metrics::default().path, Snapshot::default().path];
        let described = usual.map(|path| paths.remove(&path));
        let chosen = [&config.metrics.path, &config.snapshot.path];
        paths.extend(chosen.into_iter().cloned().zip(described).filter_map(|(path, item)| Some((path, item?))));
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::routes::operations;
    use crate::tokens::Right;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn config() -> Config {
        let mut config = Config::default();
        config.metrics.path = "/scrape".to_owned();
        config.snapshot.path = "/app".to_owned();
        config
    }

    #[test]
    fn it_describes_every_operation_there_is_and_none_that_is_not_with_the_right_it_needs() {
        let document = of(&config()).unwrap();
        let mut described = BTreeMap::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
                described.insert((path.clone(), method.to_uppercase()), operation["security"].clone());
            }
        }
        let there = operations(&config()).into_iter().map(|operation| {
            let security = match operation.needs {
                None => json!([]),
                Some(Right::Read) => json!([{}, { "bearer": ["read"] }, { "session": [] }]),
                Some(right) => json!([{ "bearer": [right.as_str()] }]),
            };
            ((operation.path, operation.method.to_string()), security)
        });
        assert_eq!(described, there.collect::<BTreeMap<_, _>>());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(members) => members.iter().for_each(|(key, value)| match (key.as_str(), value) {
                    ("$ref", Value::String(to)) => found.push(to),
                    _ => references(value, found),
                }),
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = of(&config()).unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for to in found {
            assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
        }
    }
}
