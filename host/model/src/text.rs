//! Removes characters that could harm a reader or a terminal, and makes error texts short.

/// Returns whether a character controls a terminal, ends a line, or changes the order in which text is shown.
pub fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns the text with a space in place of each harmful character.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if is_harmful(c) { ' ' } else { c }).collect()
}

/// Returns the text of an operating system error, without its number.
pub fn os_error(error: &std::io::Error) -> String {
    without_numbers(&error.to_string())
}

/// Returns the text of an error, followed by each of its causes that adds something.
pub fn error(error: &(dyn std::error::Error + 'static)) -> String {
    let mut told = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = without_numbers(&error.to_string());
        if !told.contains(&text) {
            if !told.is_empty() {
                told.push_str(": ");
            }
            told.push_str(&text);
        }
        cause = error.source();
    }
    told
}

/// Returns the text without the numbers of operating system errors, such as `(os error 2)`.
pub fn without_numbers(text: &str) -> String {
    const NUMBER: &str = " (os error ";
    let mut parts = text.split(NUMBER);
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.trim_start_matches(|c: char| c == '-' || c.is_ascii_digit());
        match digits.strip_prefix(')') {
            Some(rest) => plain.push_str(rest),
            None => plain.extend([NUMBER, part]),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_errors_are_shown_without_their_number() {
        let error = std::io::Error::from_raw_os_error(2);
        assert_eq!(os_error(&error), "No such file or directory");
        assert_eq!(super::error(&error), "No such file or directory");
        assert_eq!(without_numbers("a: no (os error 2); b: no (os error x"), "a: no; b: no (os error x");
    }
}
