use super::Aggregate;
use super::sections::json_of_all;
use crate::json;
use bytes::Bytes;
use serde_json::{Value, json};

/// The snapshot as it is served.
#[derive(Debug, Clone)]
pub struct Document {
    pub json: Bytes,
    /// The entity tag, which changes with the document.
    pub etag: String,
    pub aggregate: Aggregate,
}

/// A source as the document lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedSource {
    pub(super) name: String,
    /// The time of its last report.
    pub(super) at_ms: Option<i64>,
    pub(super) status: &'static str,
}

impl Document {
    pub(super) fn of(aggregate: Aggregate, at_ms: i64, sources: &[ListedSource]) -> Self {
        let sources = sources.iter().map(|source| {
            let mut page = json!({ "name": source.name });
            if let (Some(page), Some(at_ms)) = (page.as_object_mut(), source.at_ms) {
                page.insert("at".to_owned(), json!(json::time(at_ms)));
            }
            if let Some(page) = page.as_object_mut() {
                page.insert("status".to_owned(), json!(source.status));
            }
            page
        });
        let mut document = json_of_all(&aggregate);
        document.insert("at".to_owned(), json!(json::time(at_ms)));
        document.insert("sources".to_owned(), sources.collect());
        let document = Value::Object(document);
        let json = Bytes::from(document.to_string());
        let hash = blake3::hash(&json).to_hex();
        Self { json, etag: format!("\"{}\"", hash.get(..16).unwrap_or_default()), aggregate }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_sandbox::{CacheStats, ChannelStats};

    #[test]
    fn a_document_without_sources_is_all_zeros_without_optional_numbers() {
        let document = Document::of(Aggregate::default(), 0, &[]);
        let expected = r#"{"channels":{"total_active":0},"envelopes":{"rate_per_second":0},"presence":{"total_users":0,"total_agents":0,"average_per_channel":0},"history":{"total_envelopes_buffered":0,"buffer_utilization_pct":0},"tokens":{"issued_last_hour":0,"revoked_last_hour":0,"active_count":0},"cache":{"hit_rate_pct":0,"size_bytes":0,"evictions_last_hour":0},"at":"1970-01-01T00:00:00Z","sources":[]}"#;
        assert_eq!(document.json, expected);
    }

    #[test]
    fn a_document_has_the_optional_numbers_that_are_not_zero() {
        let channels = ChannelStats { total_active: 2, by_pattern: vec![("a".to_owned(), 2), ("b".to_owned(), 0)] };
        let cache = CacheStats { hit_rate_pct: 12.5, size_entries: 3, ..CacheStats::default() };
        let sources = [ListedSource { name: "s".to_owned(), at_ms: None, status: "stale" }];
        let document = Document::of(Aggregate { channels, cache, ..Aggregate::default() }, 0, &sources);
        let json: Value = serde_json::from_slice(&document.json).unwrap();
        assert_eq!(json["channels"], json!({ "total_active": 2, "by_pattern": { "a": 2 } }));
        assert_eq!((&json["cache"]["size_entries"], &json["cache"]["hit_rate_pct"]), (&json!(3), &json!(12.5)));
        assert_eq!(json["sources"], json!([{ "name": "s", "status": "stale" }]));
    }

    #[test]
    fn the_etag_changes_with_the_document() {
        let at = |at_ms| Document::of(Aggregate::default(), at_ms, &[]).etag;
        assert_eq!(at(0), at(0));
        assert_ne!(at(0), at(1000));
    }
}
