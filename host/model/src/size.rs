use serde::Deserialize;
use serde::de::{self, Visitor};
use std::fmt;
use std::num::IntErrorKind;

/// Largest size, in TiB. No machine has more disk or memory, and sums of such sizes do not overflow.
const LARGEST_TIB: usize = 1024;

/// A number of bytes, written as `64MiB`, `512 KiB`, `1GB`, or as a bare number of bytes. At most 1024 TiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(usize);

impl Size {
    pub const fn new(bytes: usize) -> Self {
        Self(bytes)
    }

    pub const fn get(self) -> usize {
        self.0
    }

    fn bounded(bytes: usize) -> Option<Self> {
        (bytes <= LARGEST_TIB << 40).then_some(Self(bytes))
    }
}

/// Writes the size with one decimal, unless that is 0.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tenths = |shift: u32| {
            let text = format!("{:.1}", self.0 as f64 / (1_u64 << shift) as f64);
            text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
        };
        match self.0 {
            bytes @ 0..1024 => write!(f, "{bytes} bytes"),
            bytes if bytes < 1 << 20 => write!(f, "{} KiB", tenths(10)),
            _ => write!(f, "{} MiB", tenths(20)),
        }
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a size; write it like 512KiB, 64MiB or 1GB");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let unit: usize = match unit.trim() {
            "" | "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "kB" | "KB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            _ => return Err(wrong()),
        };
        let bytes = match number.parse::<usize>() {
            Ok(number) => number.saturating_mul(unit),
            Err(error) if *error.kind() == IntErrorKind::PosOverflow => usize::MAX,
            Err(_) => return Err(wrong()),
        };
        Self::bounded(bytes).ok_or_else(|| format!("{text:?} is too large; at most {LARGEST_TIB}TiB are allowed"))
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size like \"64MiB\", or bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                let bytes = usize::try_from(bytes).map_err(|_| E::custom("a size must not be negative"))?;
                let size = Size::bounded(bytes);
                size.ok_or_else(|| E::custom(format!("{bytes} is too large; at most {LARGEST_TIB}TiB are allowed")))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_parsed_with_and_without_units() {
        let bytes = |text: &str| text.parse::<Size>().map(Size::get);
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("1 GB"), Ok(1_000_000_000));
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!((bytes("1TB"), bytes("1024TiB")), (Ok(1_000_000_000_000), Ok(1 << 50)));
        for wrong in ["", "MiB", "1.5GiB", "-1", "64 megs"] {
            assert!(bytes(wrong).unwrap_err().contains("is not a size"), "{wrong}");
        }
        for large in ["99999999999999999999GiB", "99999999999GiB", "1025TiB", "18446744073709551615"] {
            assert!(bytes(large).unwrap_err().contains("too large; at most 1024TiB"), "{large}");
        }
    }

    #[test]
    fn sizes_are_displayed_with_a_decimal_unless_it_is_zero() {
        let sizes = [7, 1536, 64 << 20, 1_180_312].map(|bytes| Size::new(bytes).to_string());
        assert_eq!(sizes, ["7 bytes", "1.5 KiB", "64 MiB", "1.1 MiB"]);
    }
}
