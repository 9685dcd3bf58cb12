//! The description of the API for programs: `openapi.json`, with the paths of this host.

use crate::ServerOptions;
use bytes::Bytes;

const DOCUMENT: &str = include_str!("openapi.json");

/// Returns the document, with the paths that the operator has chosen. They need no escapes.
pub(super) fn document(options: &ServerOptions) -> Bytes {
    let usual = ServerOptions::default();
    let usual = [&usual.metrics_path, &usual.snapshot_path];
    let chosen = [&options.metrics_path, &options.snapshot_path];
    let mut document = None;
    for (usual, chosen) in usual.into_iter().zip(chosen).filter(|(usual, chosen)| usual != chosen) {
        let text = document.as_deref().unwrap_or(DOCUMENT);
        document = Some(text.replacen(&format!("\"{usual}\":"), &format!("\"{chosen}\":"), 1));
    }
    document.map_or(Bytes::from_static(DOCUMENT.as_bytes()), Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::{Operation, operations};
    use dropsonde_model::Right;
    use serde_json::{Value, json};
    use std::collections::{BTreeMap, BTreeSet};

    fn options() -> ServerOptions {
        let (metrics_path, snapshot_path) = ("/scrape".to_owned(), "/app".to_owned());
        ServerOptions { metrics_path, snapshot_path, ..ServerOptions::default() }
    }

    #[test]
    fn openapi_describes_exactly_the_existing_operations_with_their_rights() {
        let document: Value = serde_json::from_slice(&document(&options())).unwrap();
        let mut described = BTreeMap::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
                described.insert((path.clone(), method.to_uppercase()), operation["security"].clone());
            }
        }
        let there = operations(&options()).into_iter().map(|operation| {
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
    fn openapi_describes_exactly_the_query_parameters_of_each_operation() {
        let document: Value = serde_json::from_slice(&document(&options())).unwrap();
        for Operation { path, method, takes, .. } in operations(&options()) {
            let described = &document["paths"][&path][method.as_str().to_lowercase()]["parameters"];
            let described = described.as_array().into_iter().flatten().map(|parameter| {
                let reference = parameter["$ref"].as_str().map(|to| to.trim_start_matches('#'));
                reference.map_or(parameter, |to| document.pointer(to).unwrap())
            });
            let described: BTreeSet<_> = described
                .filter(|parameter| parameter["in"] == "query")
                .map(|parameter| parameter["name"].as_str().unwrap())
                .collect();
            assert_eq!(described, takes.iter().copied().collect(), "{method} {path}");
        }
    }

    #[test]
    fn openapi_has_the_version_of_this_package() {
        let document: Value = serde_json::from_slice(&document(&ServerOptions::default())).unwrap();
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn every_reference_in_openapi_resolves() {
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
        let document: Value = serde_json::from_slice(&document(&options())).unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for to in found {
            assert!(document.pointer(to.trim_start_matches('#')).is_some(), "{to}");
        }
    }
}
