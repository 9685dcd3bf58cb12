//! Labels of instances, for metrics and filters.

use crate::text::is_harmful;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The labels of an instance, sorted by key. Cheap to clone. All of them are in one string, because a host may hold the
/// labels of 100 000 instances.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(
    /// Each key and each value is followed by [`END`].
    Option<Arc<str>>,
);

/// The label that holds the name of a series' metric.
pub const NAME: &str = "__name__";

/// Ends a key or a value in the string. Keys and values do not contain it: it becomes U+FFFD, as other control
/// characters do.
const END: char = '\0';

/// What stands for an [`END`] in a text.
const REPLACEMENT: &str = "\u{fffd}";

/// The rule for label keys, as error messages quote it.
pub const RULE: &str =
    "a label key is [a-zA-Z_][a-zA-Z0-9_]*, not id, sampler, plugin, instance, job or le, and does not begin with `__`";

/// Longest value, in bytes. Longer values are cut.
const LONGEST_VALUE: usize = 256;

/// Most labels per instance.
const MOST: usize = 32;

const LONGEST_KEY: usize = 64;

/// Keys of labels that the host or Prometheus sets.
pub const RESERVED_KEYS: [&str; 6] = ["id", "sampler", "plugin", "instance", "job", "le"];

/// Returns whether [`Labels::as_text`] can have returned a text: it has complete pairs, and the keys ascend.
pub fn is_text(text: &str) -> bool {
    // A history of a million series has as many of these texts, so bytes are read instead of characters.
    let mut rest = text.as_bytes();
    let mut before: Option<&[u8]> = None;
    while !rest.is_empty() {
        let mut word = || {
            let end = rest.iter().position(|byte| *byte == END as u8)?;
            let (word, behind) = rest.split_at(end);
            rest = behind.get(1..)?;
            Some(word)
        };
        let (Some(key), Some(_)) = (word(), word()) else { return false };
        if before.is_some_and(|before| before >= key) {
            return false;
        }
        before = Some(key);
    }
    true
}

/// Returns the pairs of a text that [`Labels::as_text`] returned.
pub fn pairs_of_text(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    // Words are short: looking at their bytes costs less than starting a search for a character.
    let mut word = move || {
        let end = rest.bytes().position(|byte| byte == END as u8)?;
        let (word, behind) = rest.split_at_checked(end)?;
        rest = behind.get(1..)?;
        Some(word)
    };
    std::iter::from_fn(move || Some((word()?, word()?)))
}

/// Returns whether a text is a valid label key.
pub fn is_valid_key(key: &str) -> bool {
    let begins = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let goes_on = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    begins && goes_on && key.len() <= LONGEST_KEY && !key.starts_with("__") && !RESERVED_KEYS.contains(&key)
}

/// Checks labels that a program or the operator gives. They are accepted unchanged or refused.
pub fn check(labels: &Labels) -> Result<(), String> {
    if labels.len() > MOST {
        return Err(format!("labels: {} are given; at most {MOST} are allowed", labels.len()));
    }
    for (key, value) in labels.iter() {
        if !is_valid_key(key) {
            let shown: String = key.chars().take(LONGEST_KEY).collect();
            return Err(format!("labels.{}: {RULE}", shown.escape_debug()));
        }
        if clean(value) != *value {
            return Err(format!("labels.{key}: a value has at most {LONGEST_VALUE} bytes and no control characters"));
        }
    }
    Ok(())
}

/// Returns the labels of a plugin that have valid keys, at most 32. Long values are cut, and control characters
/// replaced.
pub fn cleaned(labels: Vec<(String, String)>) -> Labels {
    let valid = labels.into_iter().filter(|(key, _)| is_valid_key(key));
    valid.map(|(key, value)| (key, clean(&value))).take(MOST).collect()
}

fn clean(value: &str) -> String {
    let mut cleaned = String::new();
    for c in value.chars().map(|c| if is_harmful(c) { '\u{fffd}' } else { c }) {
        if cleaned.len() + c.len_utf8() > LONGEST_VALUE {
            break;
        }
        cleaned.push(c);
    }
    cleaned
}

// === impl Labels ===

impl Labels {
    pub const fn new() -> Self {
        Self(None)
    }

    /// Returns pairs of key and value, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        pairs_of_text(self.as_text())
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    pub fn len(&self) -> usize {
        self.iter().count()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the labels as one text: each key and each value is followed by a NUL character.
    pub fn as_text(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }

    /// Returns the labels of a text that [`Labels::as_text`] returned; `None` if it is not such a text.
    pub fn from_text(text: &str) -> Option<Self> {
        is_text(text).then(|| Self((!text.is_empty()).then(|| text.into())))
    }

    /// Returns labels of pairs that are sorted by key, each key once. Keys and values must not contain NUL characters.
    pub fn from_sorted<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let mut text = String::new();
        for word in pairs.into_iter().flat_map(|(key, value)| [key, value]) {
            text.push_str(word);
            text.push(END);
        }
        debug_assert!(is_text(&text), "{text:?}");
        Self((!text.is_empty()).then(|| text.into()))
    }

    /// Returns the number of bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.iter().map(|(key, value)| key.len() + value.len()).sum()
    }
}

/// If a key is given several times, the last value counts.
impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Labels {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        let given: Vec<(K, V)> = pairs.into_iter().collect();
        let mut sorted: Vec<(&str, &str)> = given.iter().map(|(key, value)| (key.as_ref(), value.as_ref())).collect();
        // The order of those with the same key stays, so the last of them comes last.
        sorted.sort_by_key(|(key, _)| *key);
        if sorted.is_empty() {
            return Self::new();
        }
        let mut text = String::with_capacity(sorted.iter().map(|(key, value)| key.len() + value.len() + 2).sum());
        for of_key in sorted.chunk_by(|(a, _), (b, _)| a == b) {
            for word in of_key.last().into_iter().flat_map(|(key, value)| [key, value]) {
                match word.contains(END) {
                    true => text.push_str(&word.replace(END, REPLACEMENT)),
                    false => text.push_str(word),
                }
                text.push(END);
            }
        }
        Self(Some(text.into()))
    }
}

impl<K: AsRef<str>, V: AsRef<str>, const N: usize> From<[(K, V); N]> for Labels {
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::<String, String>::deserialize(deserializer).map(|map| map.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn labels_behave_like_a_sorted_map(pairs in vec(("[a-c]{0,2}", "[^\\x00]{0,5}"), 0..8)) {
            let map: BTreeMap<String, String> = pairs.iter().cloned().collect();
            let labels: Labels = pairs.iter().cloned().collect();
            prop_assert!(labels.iter().eq(map.iter().map(|(key, value)| (&**key, &**value))));
            prop_assert_eq!((labels.len(), labels.is_empty()), (map.len(), map.is_empty()));
            prop_assert!(map.iter().all(|(key, value)| labels.get(key) == Some(value)));
            prop_assert_eq!(Labels::from_text(labels.as_text()), Some(labels.clone()));
            prop_assert_eq!(Labels::from_sorted(labels.iter()), labels.clone());
            let json = serde_json::to_string(&labels).unwrap();
            prop_assert_eq!(&json, &serde_json::to_string(&map).unwrap());
            prop_assert_eq!(serde_json::from_str::<Labels>(&json).unwrap(), labels);
        }
    }

    #[test]
    fn a_text_without_complete_ascending_pairs_is_no_labels() {
        for text in ["a", "a\0", "a\0b", "a\0b\0c\0", "b\0x\0a\0x\0", "a\0x\0a\0y\0"] {
            assert_eq!(Labels::from_text(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_nul_character_in_a_value_is_replaced() {
        let labels = Labels::from([("a", "1\0b\x002")]);
        assert!(labels.iter().eq([("a", "1\u{fffd}b\u{fffd}2")]));
    }

    #[test]
    fn label_keys_reserved_by_prometheus_or_the_host_are_invalid() {
        for key in ["workload", "_x", "a1"] {
            assert!(is_valid_key(key), "{key}");
        }
        for key in ["", "1a", "a-b", "__name__", "id", "le", "job", "ä"] {
            assert!(!is_valid_key(key), "{key}");
        }
    }

    #[test]
    fn labels_of_a_plugin_are_cut_and_made_printable() {
        let given = vec![("ok".to_owned(), "a\nb\u{202e}".to_owned()), ("le".to_owned(), "1".to_owned())];
        assert_eq!(cleaned(given), Labels::from([("ok", "a\u{fffd}b\u{fffd}")]));
        let long = cleaned(vec![("k".to_owned(), "ü".repeat(1000))]);
        assert!(long.bytes() <= "k".len() + LONGEST_VALUE);
        let many = (0..100).map(|i| (format!("k{i}"), String::new())).collect();
        assert_eq!(cleaned(many).len(), MOST);
    }
}
