use super::select;
use crate::Engine;
use dropsonde_model::labels::NAME;
use dropsonde_openmetrics::{ExpositionFormat, unit_of};
use std::collections::BTreeMap;

/// The type, the help and the unit of a metric.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `counter`, `gauge`, `histogram` or `unknown`.
    pub metric_type: String,
    pub help: String,
    pub unit: String,
}

/// Returns what is known of all metrics, by the names of their families: those on `/metrics` with their help, and those
/// that are in history only. May read files.
pub fn metadata(engine: &Engine) -> BTreeMap<String, Metadata> {
    let mut all: BTreeMap<String, Metadata> = BTreeMap::new();
    let text = engine.exposition.text(engine, ExpositionFormat::Text);
    for line in String::from_utf8_lossy(&text).lines() {
        let Some(comment) = line.strip_prefix("# ") else { continue };
        let mut words = comment.splitn(3, ' ');
        let (Some(what), Some(name), Some(rest)) = (words.next(), words.next(), words.next()) else { continue };
        let known = all.entry(name.to_owned()).or_default();
        match what {
            "HELP" => known.help = rest.replace("\\n", "\n").replace("\\\\", "\\"),
            "TYPE" => known.metric_type = rest.to_owned(),
            _ => {}
        }
    }
    for series in select(engine, &[Vec::new()], &(i64::MIN..i64::MAX)).series() {
        let Some(name) = series.labels.get(NAME) else { continue };
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let is_part = family.is_some_and(|family| all.contains_key(family));
        if !is_part && !all.contains_key(name) {
            let metric_type = series.metric_type.as_str().to_owned();
            all.insert(name.to_owned(), Metadata { metric_type, ..Metadata::default() });
        }
    }
    for (name, known) in &mut all {
        known.unit = unit_of(name).unwrap_or_default().to_owned();
        if known.metric_type.is_empty() || known.metric_type == "untyped" {
            known.metric_type = "unknown".to_owned();
        }
    }
    all
}
