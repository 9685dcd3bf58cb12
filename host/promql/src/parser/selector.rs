//! Selectors of series: `up{job="api", code=~"5.."}`.

use crate::ast::Selector;
use crate::error::ParseError;
use crate::matcher::{MatchOperator, Matcher};
use crate::regex::Allowance;
use crate::text::Text;
use dropsonde_model::labels::NAME;

/// Parses a selector of series: a metric's name, matchers of labels in braces, or both. Names with other characters than
/// letters, digits, `_` and `:` are in quotes inside the braces. At least one matcher must not match the empty value,
/// so that nobody selects all series by mistake.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    selector(text, &mut Allowance::default())
}

/// Parses several selectors, whose regular expressions have one limit together.
pub fn parse_selectors<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<Vec<Matcher>>, ParseError> {
    let mut allowance = Allowance::default();
    texts.into_iter().map(|text| selector(text, &mut allowance)).collect()
}

fn selector(text: &str, allowance: &mut Allowance) -> Result<Vec<Matcher>, ParseError> {
    let mut reader = Text { allowance: allowance.clone(), ..Text::new(text) };
    reader.skip_blanks();
    let name = Some(reader.word(true).to_owned()).filter(|name| !name.is_empty());
    reader.advance(name.as_ref().map_or(0, String::len));
    let selector = match name {
        _ if reader.peek() == Some(b'{') => in_braces(&mut reader, name, 0)?,
        Some(name) => Selector::named(name),
        None => return Err(reader.expected("the name of a metric or `{`")),
    };
    if !reader.rest().is_empty() {
        return Err(reader.expected("the end of the selector"));
    }
    check(&reader, &selector, 0)?;
    *allowance = reader.allowance;
    Ok(selector.matchers)
}

/// Reads the matchers in braces. The selector begins at `start`, with its name, if it has one.
pub(super) fn in_braces(text: &mut Text<'_>, name: Option<String>, start: usize) -> Result<Selector, ParseError> {
    let mut selector = name.map(Selector::named).unwrap_or_default();
    text.expect("{", "`{`")?;
    loop {
        if text.take("}") {
            check(text, &selector, start)?;
            return Ok(selector);
        }
        let from = text.at;
        let is_quoted = text.begins_string();
        let label = if is_quoted { text.string()? } else { text.word(false).to_owned() };
        if label.is_empty() {
            return Err(text.expected("the name of a label or `}`"));
        }
        if !is_quoted {
            text.advance(label.len());
        }
        let operators = [MatchOperator::Regex, MatchOperator::NotRegex, MatchOperator::NotEqual, MatchOperator::Equal];
        let matcher = match operators.into_iter().find(|operator| text.take(operator.as_str())) {
            Some(operator) => {
                let from = text.at;
                let value = text.string()?;
                Matcher::within(label, operator, value, &mut text.allowance)
                    .map_err(|why| text.error(from..text.end, why))?
            }
            // A string alone is the name of the metric.
            None if is_quoted => Matcher::equal(NAME, label),
            None => return Err(text.expected("one of `=`, `!=`, `=~`, `!~`")),
        };
        if matcher.name == NAME && selector.name.is_some() {
            return Err(text.error(from..text.end, "the name of the metric is given twice"));
        }
        selector.matchers.push(matcher);
        if text.peek() != Some(b'}') {
            text.expect(",", "`,` or `}`")?;
        }
    }
}

/// Checks that a selector does not select all series.
fn check(text: &Text<'_>, selector: &Selector, start: usize) -> Result<(), ParseError> {
    if selector.matchers.iter().all(|matcher| matcher.matches("")) {
        let why = "a selector must have at least one matcher that does not match the empty value";
        return Err(text.error(start..text.end, why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        let matchers = parse_selector(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        matchers.iter().map(|m| format!("{}{}{:?}", m.name, m.operator.as_str(), m.value)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn selectors_in_all_their_forms_are_read() {
        for (text, expected) in [
            ("up", r#"__name__="up""#),
            (" job:rate:5m { } ", r#"__name__="job:rate:5m""#),
            (r#"{__name__=~"a.*"}"#, r#"__name__=~"a.*""#),
            (r#"up{job="a",zone!='b',}"#, r#"__name__="up" job="a" zone!="b""#),
            (r#"{"my.metric", "my label"!~`x\d`}"#, r#"__name__="my.metric" my label!~"x\\d""#),
            ("up { # comment\n a = \"1\" }", r#"__name__="up" a="1""#),
            (r#"up{a="}"}"#, r#"__name__="up" a="}""#),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn an_error_tells_the_place_and_what_was_expected() {
        for (text, expected) in [
            ("", "1:1: parse error: expected the name of a metric or `{`, but the text ends"),
            ("1up", "1:1: parse error: expected the name of a metric or `{`, but found `1`"),
            ("up{", "1:4: parse error: expected the name of a label or `}`, but the text ends"),
            ("up{a}", "1:5: parse error: expected one of `=`, `!=`, `=~`, `!~`, but found `}`"),
            ("up{a=b}", "1:6: parse error: expected a string in quotes, but found `b`"),
            ("up{a='b' c='d'}", "1:10: parse error: expected `,` or `}`, but found `c`"),
            ("up{\na='b}", "2:3: parse error: the string has no end"),
            ("up[5m]", "1:3: parse error: expected the end of the selector, but found `[`"),
            ("up{'x'}", "1:4: parse error: the name of the metric is given twice"),
            (
                "{a=~'.*'}",
                "1:1: parse error: a selector must have at least one matcher that does not match the empty value",
            ),
        ] {
            assert_eq!(parse_selector(text).unwrap_err().to_string(), expected, "{text}");
        }
        let error = parse_selector("up{a=~'('}").unwrap_err();
        assert_eq!(error.at, 6..9);
        assert!(error.message.contains("unclosed group"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z_:0-9{}=~!,'\"`\\\\ #\n().*+|\\[\\]]{0,30}") {
            let _ = parse_selector(&text);
        }

        #[test]
        fn any_value_in_quotes_is_matched(value: String) {
            let text = format!("{{a={value:?}, b!=\"\"}}");
            if let Ok(matchers) = parse_selector(&text) {
                prop_assert_eq!(&matchers[0].value, &value);
            } else {
                // Rust writes some escapes that Go does not have.
                prop_assert!(text.contains("\\u{") || text.contains("\\0") || text.contains("\\'"), "{}", text);
            }
        }
    }
}
