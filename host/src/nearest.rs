//! What a misspelt word was meant to be.

/// How alike two words must be to suggest one for the other, from 0 to 1. `hosst` and `host` are 0.8 alike, `a` and `b` 0.
const ALIKE: f64 = 0.5;

/// Returns the known word that `word` most likely was meant to be; none when nothing known is like it. Of equally alike words
/// it is the first.
#[allow(dead_code, reason = "the routes and commands that ask come next")]
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase();
    let mut best: Option<(f64, &str)> = None;
    for candidate in known {
        let other = candidate.to_lowercase();
        // `cpu` is meant to be `cpu_percent`, however much longer that is.
        let begins = lower.len() >= 2 && other.starts_with(&lower);
        let alike = strsim::normalized_damerau_levenshtein(&lower, &other).max(if begins { ALIKE } else { 0.0 });
        if alike >= ALIKE && best.is_none_or(|(most, _)| alike > most) {
            best = Some((alike, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_word_finds_the_known_one_it_is_most_like() {
        let known = ["range", "since", "until", "resolution", "points", "fields"];
        for (word, meant) in
            [("resolutoin", "resolution"), ("Points", "points"), ("feilds", "fields"), ("rnage", "range")]
        {
            assert_eq!(nearest(word, known), Some(meant), "{word}");
        }
        assert_eq!(nearest("hosst", ["web-1", "host"]), Some("host"));
    }

    #[test]
    fn the_beginning_of_a_known_word_finds_it() {
        assert_eq!(nearest("cpu", ["memory_used_mb", "cpu_percent"]), Some("cpu_percent"));
    }

    #[test]
    fn a_word_unlike_every_known_one_finds_none() {
        assert_eq!(nearest("zzz", ["range", "since"]), None);
        assert_eq!(nearest("", ["range"]), None);
        assert_eq!(nearest("range", []), None);
    }
}
