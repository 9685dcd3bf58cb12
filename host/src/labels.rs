//! Labels: what tells instances apart in metrics and filters.

use dropsonde_sandbox::is_harmful;
use std::collections::BTreeMap;

/// Sorted by key.
pub type Labels = BTreeMap<String, String>;

pub(crate) const RULE: &str =
    "a label key is [a-zA-Z_][a-zA-Z0-9_]*, not id, sampler, plugin, instance, job or le, and does not begin with `__`";

/// In bytes; longer values are cut.
const LONGEST_VALUE: usize = 256;

/// Labels per instance; more are left out.
const MOST: usize = 32;

const LONGEST_KEY: usize = 64;

pub(crate) fn is_valid_key(key: &str) -> bool {
    const TAKEN: [&str; 6] = ["id", "sampler", "plugin", "instance", "job", "le"];
    let begins = key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let goes_on = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    begins && goes_on && key.len() <= LONGEST_KEY && !key.starts_with("__") && !TAKEN.contains(&key)
}

/// What a program or the operator says is taken as it is, or refused.
pub(crate) fn check(labels: &Labels) -> Result<(), String> {
    if labels.len() > MOST {
        return Err(format!("labels: {} are given; at most {MOST} are taken", labels.len()));
    }
    for (key, value) in labels {
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

/// What is kept of labels a plugin gives: valid keys, bounded values without control characters.
pub(crate) fn cleaned(labels: Vec<(String, String)>) -> Labels {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_prometheus_or_the_host_owns_are_not_taken() {
        for key in ["workload", "_x", "a1"] {
            assert!(is_valid_key(key), "{key}");
        }
        for key in ["", "1a", "a-b", "__name__", "id", "le", "job", "ä"] {
            assert!(!is_valid_key(key), "{key}");
        }
    }

    #[test]
    fn what_a_plugin_says_is_bounded_and_printable() {
        let given = vec![("ok".to_owned(), "a\nb\u{202e}".to_owned()), ("le".to_owned(), "1".to_owned())];
        assert_eq!(cleaned(given), Labels::from([("ok".to_owned(), "a\u{fffd}b\u{fffd}".to_owned())]));
        let long = cleaned(vec![("k".to_owned(), "ü".repeat(1000))]);
        assert!(long["k"].len() <= LONGEST_VALUE);
        let many = (0..100).map(|i| (format!("k{i}"), String::new())).collect();
        assert_eq!(cleaned(many).len(), MOST);
    }
}
