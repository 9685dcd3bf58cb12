use serde::Deserialize;
use serde::de::{self, Deserializer};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// Bytes of the longest path that the kernel accepts for a socket, without the NUL at its end.
const LONGEST_PATH: usize = 107;

/// The address of the HTTP server: an IP address and a port, or a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    /// Written `unix:PATH`.
    Unix(PathBuf),
}

// === impl Listen ===

impl Listen {
    /// Returns whether other machines can reach it.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Tcp(address) if !address.ip().is_loopback())
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix("unix:") else {
            let address = text.parse();
            return address.map(Self::Tcp).map_err(|_| {
                format!(
                    "{text:?} is not an address; write it like 127.0.0.1:9090, [::1]:9090 or unix:/run/dropsonde.sock"
                )
            });
        };
        if path.is_empty() || path.len() > LONGEST_PATH || path.contains('\0') {
            return Err(format!("{path:?} cannot be the path of a socket, which has 1 to {LONGEST_PATH} bytes"));
        }
        Ok(Self::Unix(path.into()))
    }
}

impl Default for Listen {
    fn default() -> Self {
        SocketAddr::from(([127, 0, 0, 1], 9090)).into()
    }
}

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listen_address_parses_and_prints_as_the_same_text() {
        for text in ["127.0.0.1:9090", "[::1]:0", "unix:/run/dropsonde.sock"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for wrong in ["9090", "localhost:9090", "unix:", "", &format!("unix:/{}", "x".repeat(107))] {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_addresses_that_are_not_loopback_are_open_to_other_machines() {
        let is_open = |text: &str| text.parse::<Listen>().unwrap().is_open();
        assert!(is_open("0.0.0.0:1") && is_open("[::]:1") && is_open("10.0.0.1:1"));
        assert!(!is_open("127.0.0.2:1") && !is_open("[::1]:1") && !is_open("unix:/x"));
    }
}
