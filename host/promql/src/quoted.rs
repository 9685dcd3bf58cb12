//! Strings in quotes, as Go writes them: `"…"` and `'…'` with escapes, `` `…` `` without.

use std::fmt::Write as _;

/// Reads the string that begins at the start of a text. Returns its bytes, which need not be
/// UTF-8, and its length with the quotes; or what is wrong with it.
pub fn read(text: &str) -> Result<(Vec<u8>, usize), String> {
    let mut chars = text.char_indices();
    let quote = match chars.next() {
        Some((_, quote @ ('"' | '\'' | '`'))) => quote,
        _ => return Err("expected a string in quotes".to_owned()),
    };
    let mut bytes: Vec<u8> = Vec::new();
    let put = |bytes: &mut Vec<u8>, c: char| bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => return Ok((bytes, at + 1)),
            '\n' if quote != '`' => return Err("a line break in a string".to_owned()),
            '\\' if quote != '`' => {
                let escaped = chars.next().map(|(_, c)| c).ok_or_else(unterminated)?;
                let mut digits = |count: usize, radix: u32, first: &str| -> Result<u32, String> {
                    let more = (0..count).filter_map(|_| chars.next().map(|(_, c)| c));
                    let digits: String = first.chars().chain(more).collect();
                    u32::from_str_radix(&digits, radix)
                        .map_err(|_| format!("invalid escape sequence \\{escaped}{digits}"))
                };
                let byte = |value: u32| u8::try_from(value).map_err(|_| "an escaped byte is above 255".to_owned());
                match escaped {
                    'a' => bytes.push(7),
                    'b' => bytes.push(8),
                    'f' => bytes.push(12),
                    'n' => bytes.push(b'\n'),
                    'r' => bytes.push(b'\r'),
                    't' => bytes.push(b'\t'),
                    'v' => bytes.push(11),
                    '\\' => bytes.push(b'\\'),
                    'x' => bytes.push(byte(digits(2, 16, "")?)?),
                    '0'..='7' => bytes.push(byte(digits(2, 8, &escaped.to_string())?)?),
                    'u' | 'U' => {
                        let value = digits(if escaped == 'u' { 4 } else { 8 }, 16, "")?;
                        let c = char::from_u32(value).ok_or_else(|| format!("{value:#x} is not a character"))?;
                        put(&mut bytes, c);
                    }
                    _ if escaped == quote => put(&mut bytes, quote),
                    other => return Err(format!("unknown escape sequence \\{other}")),
                }
            }
            _ => put(&mut bytes, c),
        }
    }
    Err(unterminated())
}

fn unterminated() -> String {
    "the string has no end".to_owned()
}

/// Writes a string in quotes, as Go does.
pub fn quoted(text: &str) -> String {
    let mut written = String::with_capacity(text.len() + 2);
    written.push('"');
    for c in text.chars() {
        match c {
            '"' => written.push_str("\\\""),
            '\\' => written.push_str("\\\\"),
            '\u{7}' => written.push_str("\\a"),
            '\u{8}' => written.push_str("\\b"),
            '\u{c}' => written.push_str("\\f"),
            '\n' => written.push_str("\\n"),
            '\r' => written.push_str("\\r"),
            '\t' => written.push_str("\\t"),
            '\u{b}' => written.push_str("\\v"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => {
                let _ = write!(written, "\\x{:02x}", u32::from(c));
            }
            // What Rust would escape in a debug text is not printable; Go writes its number.
            c if !c.is_ascii() && c.escape_debug().count() > 1 => {
                let code = u32::from(c);
                let _ = if code > 0xffff { write!(written, "\\U{code:08x}") } else { write!(written, "\\u{code:04x}") };
            }
            c => written.push(c),
        }
    }
    written.push('"');
    written
}

#[cfg(test)]
mod tests {
    use super::{quoted, read};
    use proptest::prelude::*;

    #[test]
    fn strings_are_read_as_go_reads_them() {
        for (text, string) in [
            (r#""a" b"#, "a"),
            (r"'it\'s'", "it's"),
            (r#""\x41\102\u00e4\U0001F600\t\\""#, "AB\u{e4}\u{1F600}\t\\"),
            ("`a\\n\nb`", "a\\n\nb"),
            (r#""\xc3\xa4""#, "\u{e4}"),
        ] {
            assert_eq!(read(text).unwrap().0, string.as_bytes(), "{text}");
        }
        assert_eq!(read(r#""a" b"#).unwrap().1, 3);
        for text in ["", "a", "\"", "\"a\n\"", r#""\z""#, r#""\'""#, r#""\xzz""#, r#""\ud800""#, r#""\400""#] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_string_in_quotes_is_read_as_it_was(text: String) {
            prop_assert_eq!(read(&quoted(&text)), Ok((text.clone().into_bytes(), quoted(&text).len())));
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            let _ = read(&format!("\"{text}"));
        }
    }
}
