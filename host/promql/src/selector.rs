use crate::error::ParseError;
use crate::matcher::{MatchOperator, Matcher};
use crate::quoted;

/// The label that holds the name of a metric.
const NAME: &str = "__name__";

/// Parses a selector of series: a metric's name, matchers of labels in braces, or both. Names with other characters than
/// letters, digits, `_` and `:` are in quotes inside the braces. At least one matcher must not match the empty value,
/// so that nobody selects all series by mistake.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    let mut reader = Reader { text, at: 0 };
    let mut matchers = Vec::new();
    reader.skip_blanks();
    let name = reader.word(|c| c == ':');
    if !name.is_empty() {
        matchers.push(Matcher::equal(NAME, name));
    }
    reader.skip_blanks();
    if reader.take("{") {
        reader.matchers(&mut matchers)?;
    } else if name.is_empty() {
        return Err(reader.expected("the name of a metric or `{`"));
    }
    reader.skip_blanks();
    if !reader.rest().is_empty() {
        return Err(reader.expected("the end of the selector"));
    }
    if matchers.iter().all(|matcher| matcher.matches("")) {
        let why = "a selector must have at least one matcher that does not match the empty value";
        return Err(ParseError::new(text, 0..text.len(), why));
    }
    Ok(matchers)
}

/// A text that is being read.
struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Skips blanks and comments.
    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\n', '\r']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    fn take(&mut self, what: &str) -> bool {
        let is_there = self.rest().starts_with(what);
        self.at += if is_there { what.len() } else { 0 };
        is_there
    }

    /// Reads a name that does not begin with a digit. `may` tells which characters it may have beside letters, digits
    /// and `_`.
    fn word(&mut self, may: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let is_in = |c: char| c.is_ascii_alphanumeric() || c == '_' || may(c);
        let end = rest.find(|c| !is_in(c)).unwrap_or(rest.len());
        let word = rest.get(..end).filter(|word| !word.starts_with(|c: char| c.is_ascii_digit())).unwrap_or_default();
        self.at += word.len();
        word
    }

    fn matchers(&mut self, matchers: &mut Vec<Matcher>) -> Result<(), ParseError> {
        loop {
            self.skip_blanks();
            if self.take("}") {
                return Ok(());
            }
            let start = self.at;
            let is_quoted = self.rest().starts_with(['"', '\'', '`']);
            let name = if is_quoted { self.string()? } else { self.word(|_| false).to_owned() };
            if name.is_empty() {
                return Err(self.expected("the name of a label or `}`"));
            }
            self.skip_blanks();
            let operators =
                [MatchOperator::Regex, MatchOperator::NotRegex, MatchOperator::NotEqual, MatchOperator::Equal];
            match operators.into_iter().find(|operator| self.take(operator.as_str())) {
                Some(operator) => {
                    self.skip_blanks();
                    let from = self.at;
                    let value = self.string()?;
                    let matcher = Matcher::new(name, operator, value);
                    matchers.push(matcher.map_err(|why| ParseError::new(self.text, from..self.at, why))?);
                }
                // A string alone is the name of the metric.
                None if is_quoted => {
                    if matchers.iter().any(|matcher| matcher.name == NAME) {
                        let why = "the name of the metric is given twice";
                        return Err(ParseError::new(self.text, start..self.at, why));
                    }
                    matchers.insert(0, Matcher::equal(NAME, name));
                }
                None => return Err(self.expected("one of `=`, `!=`, `=~`, `!~`")),
            }
            self.skip_blanks();
            if !self.take(",") && !self.rest().starts_with('}') {
                return Err(self.expected("`,` or `}`"));
            }
        }
    }

    fn string(&mut self) -> Result<String, ParseError> {
        if !self.rest().starts_with(['"', '\'', '`']) {
            return Err(self.expected("a string in quotes"));
        }
        let (string, length) =
            quoted::read(self.rest()).map_err(|why| ParseError::new(self.text, self.at..self.text.len(), why))?;
        self.at += length;
        Ok(string)
    }

    fn expected(&self, what: &str) -> ParseError {
        let found = match self.rest().chars().next() {
            Some(c) => format!("found `{}`", c.escape_debug()),
            None => "the text ends".to_owned(),
        };
        let length = self.rest().chars().next().map_or(0, char::len_utf8);
        ParseError::new(self.text, self.at..self.at + length, format!("expected {what}, but {found}"))
    }
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
