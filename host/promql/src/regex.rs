//! Regular expressions as RE2 understands them, which Prometheus uses. They match whole values, and `.` matches line
//! breaks too.

use crate::matcher::ValuePattern;
use regex::bytes::{Regex, RegexBuilder};
use std::fmt::Write as _;

/// The largest number of repetitions in braces.
const MOST_REPETITIONS: u32 = 1000;

/// The bytes that a compiled expression usually needs at most, and may take at most.
const USUAL: usize = 64 << 10;
const LARGEST: usize = 1 << 20;

/// The bytes of the states that an expression keeps while it is matched.
const LARGEST_CACHE: usize = 256 << 10;

/// The same of all expressions in one text. What is small as a text can be large when it is compiled.
const LARGEST_TOGETHER: usize = 8 << 20;

/// Characters of an expression that an error shows.
const LONGEST_SHOWN: usize = 100;

/// Characters behind a bracket that are looked at to know what it begins.
const AHEAD: usize = 64;

/// The memory that is left for the compiled expressions of one text.
#[derive(Debug, Clone)]
pub(crate) struct Allowance(usize);

impl Default for Allowance {
    fn default() -> Self {
        Self(LARGEST_TOGETHER)
    }
}

/// Returns the values that an expression matches. Expressions that are a list of texts, or a text with `.*` behind it,
/// need no test of each value.
pub(crate) fn pattern(expression: &str, allowance: &mut Allowance) -> Result<ValuePattern, String> {
    if let Some(texts) = expression.split('|').map(literal).collect::<Option<Vec<_>>>() {
        return Ok(ValuePattern::AnyOf(texts));
    }
    if let Some(start) = expression.strip_suffix(".*").and_then(literal) {
        return Ok(ValuePattern::BeginsWith(start));
    }
    compile(expression, allowance).map(ValuePattern::Regex)
}

/// Returns the text that an expression without operators matches.
fn literal(expression: &str) -> Option<String> {
    let mut text = String::with_capacity(expression.len());
    let mut chars = expression.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(chars.next().filter(char::is_ascii_punctuation)?),
            '.' | '+' | '*' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '^' | '$' | '|' => return None,
            _ => text.push(c),
        }
    }
    Some(text)
}

/// Compiles an expression that must match a value as a whole.
pub(crate) fn compile(expression: &str, allowance: &mut Allowance) -> Result<Regex, String> {
    let translated = format!("^(?s:{})$", translated(expression)?);
    let build = |size: usize| RegexBuilder::new(&translated).size_limit(size).dfa_size_limit(LARGEST_CACHE).build();
    let (built, size) = match build(USUAL) {
        Err(regex::Error::CompiledTooBig(_)) if allowance.0 >= LARGEST => (build(LARGEST), LARGEST),
        built => (built, USUAL),
    };
    let left = allowance.0.checked_sub(size).ok_or("the regular expressions are too large together")?;
    *allowance = Allowance(left);
    built.map_err(|error| {
        let error = error.to_string();
        // The last line of a syntax error says what is wrong; the others show an expression that nobody wrote.
        let why = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        invalid(expression, why)
    })
}

/// Returns the error of an expression, with its beginning if it is long.
fn invalid(expression: &str, why: &str) -> String {
    let mut shown: String = expression.chars().take(LONGEST_SHOWN).collect();
    if shown.len() < expression.len() {
        shown.push('…');
    }
    format!("invalid regular expression {shown:?}: {why}")
}

/// Translates what RE2 and Rust's `regex` understand differently: classes such as `\d` are ASCII in RE2, `\Q…\E` quotes,
/// sets have no operators such as `&&`, and a repetition cannot be repeated.
fn translated(expression: &str) -> Result<String, String> {
    let mut out = String::with_capacity(expression.len() + 8);
    let mut chars = expression.chars().peekable();
    let mut is_in_set = false;
    // Whether the last item was a repetition, and whether it was made lazy already.
    let mut repeated: Option<bool> = None;
    let mut is_behind_parenthesis = false;
    while let Some(c) = chars.next() {
        let before = repeated.take();
        let begins_group = std::mem::replace(&mut is_behind_parenthesis, c == '(' && !is_in_set);
        match c {
            '\\' => match chars.next() {
                Some('Q') => {
                    while let Some(c) = chars.next() {
                        if c == '\\' && chars.next_if_eq(&'E').is_some() {
                            break;
                        }
                        out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
                    }
                }
                Some('E') if !is_in_set => {}
                Some('d') => out.push_str("[0-9]"),
                Some('D') => out.push_str("[^0-9]"),
                Some('w') => out.push_str("[0-9A-Za-z_]"),
                Some('W') => out.push_str("[^0-9A-Za-z_]"),
                Some('s') => out.push_str(r"[\t\n\x0C\r ]"),
                Some('S') => out.push_str(r"[^\t\n\x0C\r ]"),
                Some('b') if !is_in_set => out.push_str(r"(?-u:\b)"),
                Some('B') if !is_in_set => out.push_str(r"(?-u:\B)"),
                // Braces belong to these.
                Some(class @ ('x' | 'p' | 'P')) if chars.peek() == Some(&'{') => {
                    out.push('\\');
                    out.push(class);
                    for c in chars.by_ref() {
                        out.push(c);
                        if c == '}' {
                            break;
                        }
                    }
                }
                Some(other) => {
                    out.push('\\');
                    out.push(other);
                }
                None => out.push('\\'),
            },
            '[' if is_in_set => {
                if chars.peek() == Some(&':') {
                    // A named class such as `[:alpha:]`.
                    out.push('[');
                    for c in chars.by_ref() {
                        out.push(c);
                        if c == ']' {
                            break;
                        }
                    }
                } else {
                    out.push_str("\\[");
                }
            }
            '[' => {
                is_in_set = true;
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                // A bracket right at the start stands for itself.
                if chars.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            ']' if is_in_set => {
                is_in_set = false;
                out.push(']');
            }
            '&' | '~' if is_in_set => {
                out.push('\\');
                out.push(c);
            }
            '-' if is_in_set && chars.peek() == Some(&'-') => out.push_str("\\-"),
            '*' | '+' | '?' if !is_in_set => {
                match before {
                    Some(false) if c == '?' => repeated = Some(true),
                    Some(_) => return Err(invalid(expression, "repeated repetition")),
                    // Behind `(` a question mark begins a group with options.
                    None if c == '?' && begins_group => {
                        if !is_known_group(&chars.clone().take(AHEAD).collect::<String>()) {
                            return Err(invalid(expression, "unknown group"));
                        }
                    }
                    None => repeated = Some(false),
                }
                out.push(c);
            }
            '{' if !is_in_set => match repetition(&chars.clone().take(AHEAD).collect::<String>()) {
                Some((bounds, length)) => {
                    if before.is_some() {
                        return Err(invalid(expression, "repeated repetition"));
                    }
                    if bounds.iter().any(|bound| *bound > MOST_REPETITIONS) {
                        let why = format!("more than {MOST_REPETITIONS} repetitions");
                        return Err(invalid(expression, &why));
                    }
                    out.push('{');
                    out.extend(chars.by_ref().take(length));
                    repeated = Some(false);
                }
                // In RE2 braces without numbers stand for themselves.
                None => out.push_str("\\{"),
            },
            '}' if !is_in_set => out.push_str("\\}"),
            // Outside of sets, `regex` would take some characters for something else only in its verbose mode.
            _ => {
                let _ = out.write_char(c);
            }
        }
    }
    Ok(out)
}

/// Returns whether RE2 knows the options of the group that begins with `(?` and these characters.
fn is_known_group(rest: &str) -> bool {
    if ["P<", "<"].iter().any(|name| rest.starts_with(name)) {
        return !["<=", "<!"].iter().any(|look| rest.starts_with(look));
    }
    let options = rest.trim_start_matches(['i', 'm', 's', 'U', '-']);
    options.starts_with([':', ')'])
}

/// Reads `3}`, `3,}` or `3,5}`. Returns the bounds, and the number of characters.
fn repetition(text: &str) -> Option<(Vec<u32>, usize)> {
    let (inside, _) = text.split_once('}')?;
    let bounds = match inside.split_once(',') {
        None => vec![inside.parse().ok()?],
        Some((least, "")) => vec![least.parse().ok()?],
        Some((least, most)) => vec![least.parse().ok()?, most.parse().ok()?],
    };
    let is_number = |c: char| c.is_ascii_digit() || c == ',';
    inside.chars().all(is_number).then_some((bounds, inside.chars().count() + 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(expression: &str, value: &str) -> bool {
        pattern(expression, &mut Allowance::default()).unwrap_or_else(|why| panic!("{why}")).has(value)
    }

    #[test]
    fn expressions_together_may_be_compiled_to_some_megabytes() {
        let mut allowance = Allowance::default();
        // A million characters are too large by themselves.
        assert!(compile("(?:a.{1000}){1000}", &mut allowance).is_err());
        let large = "a.{1000}";
        let count = (0..1000).take_while(|_| compile(large, &mut allowance).is_ok()).count();
        assert!((5..10).contains(&count), "{count}");
        let mut allowance = Allowance::default();
        let count = (0..1000).take_while(|_| compile("a.+b", &mut allowance).is_ok()).count();
        assert!((100..=128).contains(&count), "{count}");
        assert!(compile("a.+b", &mut allowance).unwrap_err().contains("too large together"));
    }

    #[test]
    fn an_expression_matches_the_whole_value_and_its_dot_also_line_breaks() {
        for (expression, value, is_match) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a|b", "b", true),
            ("a|b", "ab", false),
            ("ab.*", "abc\nd", true),
            ("a.c", "a\nc", true),
            ("", "", true),
            (".*", "", true),
            (".+", "", false),
            (r"a\.b", "a.b", true),
            (r"a\.b|c", "axb", false),
            ("(?i)ab", "aB", true),
            (r"\d+", "12", true),
            (r"\d", "\u{0663}", false),
            (r"\w", "\u{e4}", false),
            (r"[\w-]+", "a-b", true),
            ("[a&&b]+", "a&b", true),
            ("[[a]", "[", true),
            ("[]a]+", "]a", true),
            ("[^]a]", "b", true),
            ("[a--z]", "b", true),
            ("[[:alpha:]_]+", "a_b", true),
            (r"\Qa.b\E.", "a.bc", true),
            (r"\Qa.b", "a.b", true),
            ("x{2}", "xx", true),
            ("x{2", "x{2", true),
            ("x{,3}", "x{,3}", true),
            ("a+?b", "aab", true),
            ("(?:a|b)?c", "c", true),
            (r"\p{Greek}\pL\x{41}", "\u{3b1}bA", true),
            (r"a\Bb", "ab", true),
            (r"a\B\u{e4}".trim_end_matches(r"\u{e4}"), "a", false),
            ("(?P<x>a)(?i-s:B)", "ab", true),
        ] {
            assert_eq!(matches(expression, value), is_match, "{expression:?} {value:?}");
        }
    }

    #[test]
    fn what_re2_refuses_is_refused() {
        for expression in [
            "a**", "a+*", "x{1001}", "x{2}{3}", "(", "a)", "[a", r"\1", "*", "a??*", "(?x)a", "(?=a)", "(?<!a)b",
            "(?u)a",
        ] {
            assert!(pattern(expression, &mut Allowance::default()).is_err(), "{expression}");
        }
        let why = pattern("(", &mut Allowance::default()).unwrap_err();
        assert_eq!(why, "invalid regular expression \"(\": unclosed group");
    }

    proptest! {
        #[test]
        fn any_expression_is_compiled_or_refused(expression in r"[a-c.*+?|(){}\[\]\\^$&~,0-9:QEdwsb-]{0,16}", value in "[a-c]{0,3}") {
            if let Ok(pattern) = pattern(&expression, &mut Allowance::default()) {
                let _ = pattern.has(&value);
            }
        }

        /// The ways around the expression give the same answer as the expression.
        #[test]
        fn lists_and_starts_match_as_their_expression_does(
            expression in r"[ab]{0,2}(\|[ab\\.]{0,2}){0,2}(\.\*)?",
            value in "[ab.]{0,3}",
        ) {
            if let (Ok(pattern), Ok(regex)) = (pattern(&expression, &mut Allowance::default()), compile(&expression, &mut Allowance::default())) {
                prop_assert_eq!(pattern.has(&value), regex.is_match(value.as_bytes()));
            }
        }
    }
}
