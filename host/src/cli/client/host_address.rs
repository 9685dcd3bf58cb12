use crate::config::{Config, Listen};
use anyhow::{Context as _, Result, bail};
use hyper::Uri;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// The address of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HostAddress {
    Tcp {
        is_secure: bool,
        /// A name or an address, without brackets.
        host: String,
        port: u16,
    },
    Unix(PathBuf),
}

impl HostAddress {
    /// Returns the address in a URL, or else the address in the host's configuration.
    pub(super) fn of(url: Option<&str>, config: &Config) -> Result<Self> {
        match url {
            Some(url) => Self::parse(url),
            None => Self::listening(config),
        }
    }

    fn parse(url: &str) -> Result<Self> {
        if let Some(path) = url.strip_prefix("unix:") {
            return Ok(Self::Unix(path.into()));
        }
        let uri: Uri = url.parse().with_context(|| format!("--url {url}: not a URL"))?;
        let is_secure = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => bail!("--url {url}: must begin with http://, https:// or unix:"),
        };
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.with_context(|| format!("--url {url}: the host name is missing"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self::Tcp { is_secure, host, port: uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 }) })
    }

    fn listening(config: &Config) -> Result<Self> {
        let address = match &config.listen {
            Listen::Unix(path) => return Ok(Self::Unix(path.clone())),
            Listen::Tcp(address) if address.port() == 0 => {
                bail!("the configuration lets the host take any free port; name the host with --url")
            }
            Listen::Tcp(address) => address,
        };
        let host = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Ok(Self::Tcp { is_secure: config.tls.files().is_some(), host: host.to_string(), port: address.port() })
    }

    /// Returns whether the host is on this machine.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        }
    }

    /// Returns whether nobody on the network can read the traffic.
    pub(super) fn is_secure(&self) -> bool {
        matches!(self, Self::Unix(_) | Self::Tcp { is_secure: true, .. })
    }

    /// Returns `host:port`, as in a request's `Host` header.
    pub(super) fn authority(&self) -> String {
        match self {
            Self::Unix(_) => "localhost".to_owned(),
            Self::Tcp { host, port, .. } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port, .. } => format!("{host}:{port}"),
        }
    }

    /// Returns a hint for a host that accepts connections but does not answer.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::Tcp { is_secure: false, .. } => "; if the host uses TLS, its URL begins with https://",
            _ => "",
        }
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp { is_secure, .. } => {
                write!(f, "{}://{}", if *is_secure { "https" } else { "http" }, self.authority())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_address_comes_from_the_url_or_else_from_the_configuration() {
        let shown = |url| HostAddress::of(url, &Config::default()).map(|target| target.to_string());
        assert_eq!(shown(None).unwrap(), "http://127.0.0.1:9090");
        for (url, expected) in [
            ("http://h", "http://h:80"),
            ("https://[::1]/", "https://[::1]:443"),
            ("unix:/run/d.sock", "unix:/run/d.sock"),
        ] {
            assert_eq!(shown(Some(url)).unwrap(), expected);
        }
        for wrong in ["ftp://x", "h:9090", "http://", ""] {
            assert!(shown(Some(wrong)).is_err(), "{wrong}");
        }
        let listens = |listen: &str| {
            let config = Config { listen: listen.parse().unwrap(), ..Config::default() };
            HostAddress::of(None, &config).map(|target| target.to_string()).unwrap_or_default()
        };
        assert_eq!(listens("0.0.0.0:1"), "http://127.0.0.1:1");
        assert_eq!(listens("[::]:1"), "http://[::1]:1");
        assert_eq!(listens("unix:/x"), "unix:/x");
        assert_eq!(listens("127.0.0.1:0"), "");
    }
}
