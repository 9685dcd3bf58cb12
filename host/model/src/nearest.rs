//! Suggests a known word for a misspelt one.

use serde::de::IgnoredAny;
use std::collections::BTreeMap;

/// Least similarity of two words to suggest one for the other, from 0 to 1. `hosst` and `host` have 0.8, `a` and `b`
/// have 0.
const ALIKE: f64 = 0.5;

/// Longest word that is compared, in bytes. A longer one is hardly a typing error, and comparing it would take long.
const LONGEST: usize = 128;

/// Most known words that an error lists; a sampler may have hundreds of fields.
const MOST_LISTED: usize = 40;

/// Returns the known word that is most similar to `word`, or none if no known word is similar. If several are equally
/// similar, it returns the first.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST {
        return None;
    }
    let lower = word.to_lowercase();
    let mut best: Option<(f64, &str)> = None;
    for candidate in known {
        let other = candidate.to_lowercase();
        // `cpu` finds `cpu_percent`, although that is much longer.
        let begins = lower.len() >= 2 && other.starts_with(&lower);
        let alike = strsim::normalized_damerau_levenshtein(&lower, &other).max(if begins { ALIKE } else { 0.0 });
        if alike >= ALIKE && best.is_none_or(|(most, _)| alike > most) {
            best = Some((alike, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Returns the text of an error: unknown parameter `resolutoin`; did you mean `resolution`? known: range, since, …
pub fn unknown(kind: &str, word: &str, known: &[&str]) -> String {
    let shown: String = word.chars().take(LONGEST).collect();
    let meant = nearest(word, known.iter().copied());
    let meant = meant.map(|meant| format!("; did you mean `{meant}`?")).unwrap_or_else(|| ";".to_owned());
    let listed = known.iter().take(MOST_LISTED).copied().collect::<Vec<_>>().join(", ");
    let known = match known.len() {
        0 => "none is known here".to_owned(),
        count if count > MOST_LISTED => format!("known: {listed} and {} more", count - MOST_LISTED),
        _ => format!("known: {listed}"),
    };
    format!("unknown {kind} `{}`{meant} {known}", shown.escape_debug())
}

/// Returns an error's text about the first unknown key of a JSON object. None if all keys are known, or if the text is
/// not an object.
pub fn unknown_key(json: &str, known: &[&str]) -> Option<String> {
    let keys: BTreeMap<String, IgnoredAny> = serde_json::from_str(json).ok()?;
    let wrong = keys.keys().find(|key| !known.contains(&key.as_str()))?;
    Some(unknown("key", wrong, known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_the_most_similar_known_word() {
        let known = ["range", "since", "until", "resolution", "points", "fields"];
        for (word, meant) in
            [("resolutoin", "resolution"), ("Points", "points"), ("feilds", "fields"), ("rnage", "range")]
        {
            assert_eq!(nearest(word, known), Some(meant), "{word}");
        }
        assert_eq!(nearest("hosst", ["web-1", "host"]), Some("host"));
    }

    #[test]
    fn a_prefix_finds_the_known_word() {
        assert_eq!(nearest("cpu", ["memory_used_mb", "cpu_percent"]), Some("cpu_percent"));
    }

    #[test]
    fn a_word_unlike_all_known_words_finds_none() {
        assert_eq!(nearest("zzz", ["range", "since"]), None);
        assert_eq!(nearest("", ["range"]), None);
        assert_eq!(nearest("range", []), None);
    }

    #[test]
    fn an_unknown_word_error_names_the_nearest_and_all_known_words() {
        let text = unknown("parameter", "resolutoin", &["range", "resolution"]);
        assert_eq!(text, "unknown parameter `resolutoin`; did you mean `resolution`? known: range, resolution");
        assert_eq!(unknown("parameter", "zzz", &["range"]), "unknown parameter `zzz`; known: range");
        assert_eq!(unknown("parameter", "x\n", &[]), "unknown parameter `x\\n`; none is known here");
        let many: Vec<String> = (0..50).map(|nth| format!("f{nth}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(unknown("field", &"x".repeat(1 << 20), &many).ends_with("f39 and 10 more"));
    }

    #[test]
    fn the_first_unknown_key_of_a_json_object_is_named() {
        assert_eq!(unknown_key(r#"{"name":1,"at":{}}"#, &["at", "name"]), None);
        let text = unknown_key(r#"{"nam":1,"at":{}}"#, &["at", "name"]).unwrap();
        assert!(text.starts_with("unknown key `nam`; did you mean `name`?"), "{text}");
        assert_eq!(unknown_key("[1]", &["at"]), None);
    }
}
