use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of an instance: 1–256 bytes of printable UTF-8 without `/`, not `.` or `..`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

/// Why a text is not a valid instance id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidInstanceId {
    #[error("an instance id must not be empty")]
    Empty,
    #[error("an instance id has at most {} bytes", InstanceId::LONGEST)]
    TooLong,
    #[error("an instance id must not be `.` or `..`, or contain `/`")]
    PathLike,
    #[error("an instance id must be printable")]
    NotPrintable,
}

impl InstanceId {
    /// Longest id, in bytes.
    pub const LONGEST: usize = 256;

    pub fn new(id: impl AsRef<str>) -> Result<Self, InvalidInstanceId> {
        let id = id.as_ref();
        if id.is_empty() {
            Err(InvalidInstanceId::Empty)
        } else if id.len() > Self::LONGEST {
            Err(InvalidInstanceId::TooLong)
        } else if matches!(id, "." | "..") || id.contains('/') {
            Err(InvalidInstanceId::PathLike)
        } else if id.chars().any(is_unprintable) {
            Err(InvalidInstanceId::NotPrintable)
        } else {
            Ok(Self(id.into()))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns whether a character is a control character, a line separator, or one that reorders or hides what a terminal
/// shows.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for InstanceId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_names_of_any_script_are_ids() {
        for id in ["host", "nginx-12-3456", "büro/".trim_end_matches('/'), "サーバー", "a b", "...", "%2F", "=\"{}"]
        {
            assert_eq!(InstanceId::new(id).unwrap().as_str(), id);
        }
        assert!(InstanceId::new("x".repeat(256)).is_ok());
    }

    #[test]
    fn paths_and_control_characters_are_invalid_ids() {
        use InvalidInstanceId::*;
        let cases = [("", Empty), (".", PathLike), ("..", PathLike), ("a/b", PathLike), ("a\nb", NotPrintable)];
        for (id, why) in cases.into_iter().chain([("\u{202e}x", NotPrintable), ("\u{7f}", NotPrintable)]) {
            assert_eq!(InstanceId::new(id), Err(why), "{id:?}");
        }
        assert_eq!(InstanceId::new("x".repeat(257)), Err(TooLong));
    }
}
