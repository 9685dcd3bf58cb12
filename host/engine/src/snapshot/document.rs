use super::Aggregate;
use crate::json;
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// The snapshot as it is served.
#[derive(Debug, Clone)]
pub struct Document {
    pub json: Bytes,
    /// Changes when anything in it does.
    pub etag: String,
    pub aggregate: Aggregate,
}

/// A source, as the document names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) name: String,
    /// Of what it last said.
    pub(super) at_ms: Option<i64>,
    pub(super) status: &'static str,
}

/// A number of the snapshot: its field in history, what follows `dropsonde_snapshot_` in its metric, what it is.
pub struct Number {
    pub field: &'static str,
    pub metric: &'static str,
    pub help: &'static str,
    pub value: fn(&Aggregate) -> f64,
}

macro_rules! numbers {
    ($($field:literal $metric:literal $help:literal $section:ident.$name:ident;)*) => {
        &[$(Number {
            field: $field,
            metric: $metric,
            help: $help,
            value: |all| all.$section.$name as f64,
        }),*]
    };
}

/// The numbers of the document, in its order; maps are left out.
pub const METRICS: &[Number] = numbers! {
    "channels_total_active" "channels_total_active" "Open channels." channels.total_active;
    "envelopes_rate_per_second" "envelopes_rate_per_second" "Messages per second." envelopes.rate_per_second;
    "presence_total_users" "presence_total_users" "Users who are there." presence.total_users;
    "presence_total_agents" "presence_total_agents" "Agents that are there." presence.total_agents;
    "presence_average_per_channel" "presence_average_per_channel" "Average number of members per open channel."
        presence.average_per_channel;
    "history_total_envelopes_buffered" "history_total_envelopes_buffered" "Messages that are kept."
        history.total_envelopes_buffered;
    "history_buffer_utilization_pct" "history_buffer_utilization_pct" "Share of the room for messages that is used, 0 to 100."
        history.buffer_utilization_pct;
    "tokens_issued_last_hour" "tokens_issued_last_hour" "Tokens issued within the last hour." tokens.issued_last_hour;
    "tokens_revoked_last_hour" "tokens_revoked_last_hour" "Tokens revoked within the last hour." tokens.revoked_last_hour;
    // A gauge must not end in `_count`.
    "tokens_active_count" "tokens_active" "Tokens that are good." tokens.active_count;
    "cache_hit_rate_pct" "cache_hit_rate_pct" "Share of look-ups the cache answered, 0 to 100." cache.hit_rate_pct;
    "cache_size_bytes" "cache_size_bytes" "What the cache takes." cache.size_bytes;
    "cache_size_entries" "cache_size_entries" "Entries of the cache." cache.size_entries;
    "cache_evictions_last_hour" "cache_evictions_last_hour" "Entries the cache let go of within the last hour."
        cache.evictions_last_hour;
};

impl Document {
    pub(super) fn of(aggregate: Aggregate, at_ms: i64, sources: &[Named]) -> Self {
        let Aggregate { channels, envelopes, presence, history, tokens, cache } = &aggregate;
        let by_name = |counts: &[(String, i64)]| -> Map<String, Value> {
            counts.iter().filter(|(_, count)| *count != 0).map(|(name, count)| (name.clone(), json!(count))).collect()
        };
        let with = |mut section: Value, name: &str, by_name: Map<String, Value>| {
            if let Some(section) = section.as_object_mut().filter(|_| !by_name.is_empty()) {
                section.insert(name.to_owned(), Value::Object(by_name));
            }
            section
        };
        let mut cache_json = json!({ "hit_rate_pct": number(cache.hit_rate_pct), "size_bytes": cache.size_bytes });
        if let Some(section) = cache_json.as_object_mut() {
            if cache.size_entries != 0 {
                section.insert("size_entries".to_owned(), json!(cache.size_entries));
            }
            section.insert("evictions_last_hour".to_owned(), json!(cache.evictions_last_hour));
        }
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
        let document = json!({
            "channels": with(json!({ "total_active": channels.total_active }), "by_pattern", by_name(&channels.by_pattern)),
            "envelopes": with(
                json!({ "rate_per_second": number(envelopes.rate_per_second) }), "by_aspect", by_name(&envelopes.by_aspect)
            ),
            "presence": {
                "total_users": presence.total_users, "total_agents": presence.total_agents,
                "average_per_channel": number(presence.average_per_channel),
            },
            "history": {
                "total_envelopes_buffered": history.total_envelopes_buffered,
                "buffer_utilization_pct": number(history.buffer_utilization_pct),
            },
            "tokens": {
                "issued_last_hour": tokens.issued_last_hour, "revoked_last_hour": tokens.revoked_last_hour,
                "active_count": tokens.active_count,
            },
            "cache": cache_json,
            "at": json::time(at_ms),
            "sources": sources.collect::<Vec<_>>(),
        });
        let json = Bytes::from(document.to_string());
        let hash = blake3::hash(&json).to_hex();
        Self { json, etag: format!("\"{}\"", hash.get(..16).unwrap_or_default()), aggregate }
    }
}

/// Integers print as integers.
fn number(value: f64) -> Value {
    let whole = value as i64;
    if whole as f64 == value && whole.unsigned_abs() < 1 << 53 { json!(whole) } else { json!(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_sandbox::{CacheStats, ChannelStats};

    #[test]
    fn an_empty_application_is_all_zeros_and_what_is_optional_is_left_out() {
        let document = Document::of(Aggregate::default(), 0, &[]);
        let expected = r#"{"channels":{"total_active":0},"envelopes":{"rate_per_second":0},"presence":{"total_users":0,"total_agents":0,"average_per_channel":0},"history":{"total_envelopes_buffered":0,"buffer_utilization_pct":0},"tokens":{"issued_last_hour":0,"revoked_last_hour":0,"active_count":0},"cache":{"hit_rate_pct":0,"size_bytes":0,"evictions_last_hour":0},"at":"1970-01-01T00:00:00Z","sources":[]}"#;
        assert_eq!(document.json, expected);
    }

    #[test]
    fn what_there_is_of_what_is_optional_is_there() {
        let channels = ChannelStats { total_active: 2, by_pattern: vec![("a".to_owned(), 2), ("b".to_owned(), 0)] };
        let cache = CacheStats { hit_rate_pct: 12.5, size_entries: 3, ..CacheStats::default() };
        let sources = [Named { name: "s".to_owned(), at_ms: None, status: "stale" }];
        let document = Document::of(Aggregate { channels, cache, ..Aggregate::default() }, 0, &sources);
        let json: Value = serde_json::from_slice(&document.json).unwrap();
        assert_eq!(json["channels"], json!({ "total_active": 2, "by_pattern": { "a": 2 } }));
        assert_eq!((&json["cache"]["size_entries"], &json["cache"]["hit_rate_pct"]), (&json!(3), &json!(12.5)));
        assert_eq!(json["sources"], json!([{ "name": "s", "status": "stale" }]));
    }

    #[test]
    fn the_tag_changes_with_the_document() {
        let at = |at_ms| Document::of(Aggregate::default(), at_ms, &[]).etag;
        assert_eq!(at(0), at(0));
        assert_ne!(at(0), at(1000));
    }
}
