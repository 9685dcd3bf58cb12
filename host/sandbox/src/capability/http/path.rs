//! The path of a request, as every server reads it.

/// Decodes the path of a request, without its query. None if two servers could understand it differently: it has an
/// encoded `/`, `.` or `%`, a segment `.` or `..`, an empty segment, a backslash, a control character, or a character
/// beyond ASCII that is not encoded. A rule about paths then allows it for no server.
pub(super) fn decode(path: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let byte = (hex(bytes.next()?)? << 4) | hex(bytes.next()?)?;
            if b"/\\.%;?#".contains(&byte) {
                return None;
            }
            decoded.push(byte);
        } else if byte.is_ascii() {
            decoded.push(byte);
        } else {
            return None;
        }
    }
    let decoded = String::from_utf8(decoded).ok()?;
    let mut segments = decoded.strip_prefix('/')?.split('/').peekable();
    while let Some(segment) = segments.next() {
        // Some servers cut parameters off before they look at dots.
        let name = segment.split(';').next().unwrap_or_default();
        if name == "." || name == ".." || (segment.is_empty() && segments.peek().is_some()) {
            return None;
        }
    }
    (!decoded.contains(|char: char| char == '\\' || char.is_control())).then_some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_path_is_decoded() {
        assert_eq!(decode("/v1.41/containers/a%20b/json"), Some("/v1.41/containers/a b/json".to_owned()));
        assert_eq!(decode("/"), Some("/".to_owned()));
        assert_eq!(decode("/metrics/"), Some("/metrics/".to_owned()));
        assert_eq!(decode("/%C3%A4"), Some("/ä".to_owned()));
    }

    #[test]
    fn a_path_that_servers_may_read_in_two_ways_is_none() {
        for path in [
            "",
            "metrics",
            "http://evil/",
            "*",
            "//metrics",
            "/a//b",
            "/a/../b",
            "/a/..",
            "/./a",
            "/a/%2e%2E/b",
            "/a/.%2e/b",
            "/a/..;/b",
            "/a/..;x=1/b",
            "/a%2fb",
            "/a%5Cb",
            "/a\\..\\b",
            "/a%252e",
            "/a%00",
            "/a%0d%0a",
            "/a%",
            "/a%2",
            "/a%zz",
            "/%ff",
            "/a/\u{2025}/b",
        ] {
            assert_eq!(decode(path), None, "{path}");
        }
    }
}
