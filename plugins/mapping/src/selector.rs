//! Selectors: which series of an exposition a field is made of, written as in PromQL.

use dropsonde_openmetrics::read::LabelText;
use regex_lite::Regex;
use std::str::FromStr;

/// A metric's name with matchers of labels: `http_requests_total{code=~"5..", method!="OPTIONS"}`.
#[derive(Debug, Clone)]
pub(crate) struct Selector {
    pub(crate) metric: String,
    matchers: Vec<Matcher>,
}

#[derive(Debug, Clone)]
struct Matcher {
    label: String,
    test: Test,
    /// Whether a value that passes the test is one that is left out: `!=`, `!~`.
    is_negated: bool,
}

#[derive(Debug, Clone)]
enum Test {
    Is(String),
    /// Matches the whole value.
    Matches(Regex),
}

// === impl Selector ===

impl Selector {
    /// Returns whether the labels of a series match. As in PromQL, a label that is not there has an empty value.
    pub(crate) fn matches(&self, labels: LabelText<'_>) -> bool {
        self.matchers.iter().all(|matcher| {
            let value = labels.get(&matcher.label).unwrap_or_default();
            let passes = match &matcher.test {
                Test::Is(wanted) => *wanted == value,
                Test::Matches(wanted) => wanted.is_match(&value),
            };
            passes != matcher.is_negated
        })
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("{text:?} is not a selector such as up{{job=\"web\"}}: {why}");
        let (metric, matchers) = match text.trim().split_once('{') {
            None => (text.trim(), ""),
            Some((metric, rest)) => {
                let matchers = rest.trim_end().strip_suffix('}').ok_or_else(|| wrong("the `}` is missing"))?;
                (metric.trim_end(), matchers)
            }
        };
        let is_in_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
        if metric.is_empty()
            || !metric.bytes().all(is_in_name)
            || metric.starts_with(|first: char| first.is_ascii_digit())
        {
            return Err(wrong("it does not begin with the name of a metric"));
        }
        let mut rest = matchers.trim_start();
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (matcher, others) = matcher(rest).map_err(|why| wrong(&why))?;
            found.push(matcher);
            rest = match others.strip_prefix(',') {
                Some(others) => others.trim_start(),
                None if others.is_empty() => others,
                None => return Err(wrong("a `,` is missing between two matchers")),
            };
        }
        Ok(Self { metric: metric.to_owned(), matchers: found })
    }
}

/// Parses the first matcher of a list. Returns it with the text behind it.
fn matcher(text: &str) -> Result<(Matcher, &str), String> {
    let end = text.find(|char: char| !char.is_ascii_alphanumeric() && char != '_').unwrap_or(text.len());
    let (label, rest) = text.split_at(end);
    let operators = ["=~", "!~", "!=", "="];
    let found = operators.iter().find_map(|operator| Some((*operator, rest.trim_start().strip_prefix(operator)?)));
    let (Some((operator, rest)), false) = (found, label.is_empty()) else {
        return Err(format!("{text:?} does not begin with a label and one of = != =~ !~"));
    };
    let (value, rest) = quoted(rest.trim_start()).ok_or_else(|| format!("the value of {label} is not in quotes"))?;
    let test = if operator.ends_with('~') {
        Test::Matches(whole(&value).map_err(|why| format!("the expression of {label} is not valid: {why}"))?)
    } else {
        Test::Is(value)
    };
    Ok((Matcher { label: label.to_owned(), test, is_negated: operator.starts_with('!') }, rest.trim_start()))
}

/// Reads a text in quotes. Returns it with what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mark = text.chars().next().filter(|mark| ['"', '\''].contains(mark))?;
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                char if char == mark || char == '\\' => value.push(char),
                // Of a regular expression, such as `\d`.
                char => value.extend(['\\', char]),
            },
            char if char == mark => return Some((value, text.get(at + 1..)?)),
            char => value.push(char),
        }
    }
    None
}

/// Compiles a regular expression that matches only whole values.
pub fn whole(expression: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?s:{expression})$")).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropsonde_openmetrics::ExpositionFormat;
    use dropsonde_openmetrics::read::{ExpositionLine, read};

    fn matches(selector: &str, series: &str) -> bool {
        let selector: Selector = selector.parse().unwrap();
        let mut matches = false;
        read(format!("{series} 1\n").as_bytes(), ExpositionFormat::Text, &mut |line| {
            if let ExpositionLine::Sample(sample) = line {
                matches = sample.name == selector.metric && selector.matches(sample.labels);
            }
        })
        .unwrap();
        matches
    }

    #[test]
    fn a_selector_matches_as_in_promql() {
        let series = r#"http_requests_total{code="503",method="GET",path="/a\"b"}"#;
        for selector in [
            "http_requests_total",
            "http_requests_total{}",
            r#"http_requests_total{code="503"}"#,
            r#" http_requests_total { code =~ "5.." , method != 'POST', } "#,
            r#"http_requests_total{code!~"2..|3..", missing=""}"#,
            r#"http_requests_total{path="/a\"b"}"#,
            r#"http_requests_total{code=~"\\d+", code=~"\d+"}"#,
        ] {
            assert!(matches(selector, series), "{selector}");
        }
        for selector in [
            "http_requests",
            r#"http_requests_total{code="50"}"#,
            r#"http_requests_total{code=~"50"}"#,
            r#"http_requests_total{code=~"4..|50"}"#,
            r#"http_requests_total{missing!=""}"#,
            r#"http_requests_total{method!~"G.*"}"#,
        ] {
            assert!(!matches(selector, series), "{selector}");
        }
    }

    #[test]
    fn a_selector_with_a_mistake_is_refused_with_the_mistake() {
        for (selector, why) in [
            ("", "name of a metric"),
            ("1up", "name of a metric"),
            ("up{", "`}` is missing"),
            ("up{job}", "= != =~ !~"),
            ("up{job=web}", "not in quotes"),
            ("up{job=\"web}", "not in quotes"),
            ("up{a=\"1\" b=\"2\"}", "`,` is missing"),
            ("up{a=~\"(\"}", "expression of a is not valid"),
        ] {
            let error = selector.parse::<Selector>().unwrap_err();
            assert!(error.contains(why), "{selector}: {error}");
        }
    }
}
