//! URLs, and the grants that requests to them need.

use std::net::IpAddr;

/// The networks, besides the internet, that host names of targets may resolve into.
pub const PRIVATE_NETWORKS: [&str; 7] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8", "fc00::/7", "::1/128"];

/// The parts of a URL of the form `http://host:port/path?query`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Url<'a> {
    /// Scheme, host and port.
    pub origin: &'a str,
    pub host: &'a str,
    /// At least `/`; without the query.
    pub path: &'a str,
}

// === impl Url ===

impl<'a> Url<'a> {
    pub fn parse(url: &'a str) -> Result<Self, String> {
        let wrong = || format!("{url:?} is not a URL of the form http://host:port/path");
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end).ok_or_else(wrong)?;
        if !["http", "https"].contains(&scheme) || authority.is_empty() || authority.contains('@') {
            return Err(wrong());
        }
        let origin = url.get(..scheme.len() + 3 + end).ok_or_else(wrong)?;
        let host = match authority.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        };
        let path = path.split(['?', '#']).next().filter(|path| !path.is_empty()).unwrap_or("/");
        Ok(Self { origin, host, path })
    }

    /// Returns the rule that allows requests of a method to this URL, as a grant.
    pub fn rule(&self, method: &str) -> String {
        format!("{method} {} {}", self.origin, path_glob(self.path))
    }

    /// Returns whether the host is a name, which has to be resolved.
    pub fn has_name(&self) -> bool {
        self.host != "localhost" && self.host.parse::<IpAddr>().is_err()
    }
}

/// Returns the glob that matches exactly this path. A path with characters that a glob would understand otherwise has
/// none: then all paths are meant.
pub fn path_glob(path: &str) -> &str {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~:@+,=".contains(&byte);
    if path.starts_with('/') && path.bytes().all(is_plain) { path } else { "/**" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_an_origin_a_host_and_a_path() {
        for (url, origin, host, path) in [
            ("http://a:1/b?c", "http://a:1", "a", "/b"),
            ("https://a", "https://a", "a", "/"),
            ("http://a?b", "http://a", "a", "/"),
            ("http://[::1]:9/x#y", "http://[::1]:9", "::1", "/x"),
        ] {
            assert_eq!(Url::parse(url), Ok(Url { origin, host, path }));
        }
        for url in ["", "a/b", "ftp://a/b", "http://", "http:///b", "http://user@a/b"] {
            assert!(Url::parse(url).unwrap_err().contains("is not a URL"), "{url}");
        }
    }

    #[test]
    fn a_rule_is_for_exactly_the_path() {
        assert_eq!(Url::parse("http://a:1/b?c").unwrap().rule("GET"), "GET http://a:1 /b");
        assert_eq!(Url::parse("http://a/[b]").unwrap().rule("GET"), "GET http://a /**");
        assert!(Url::parse("http://a").unwrap().has_name());
        assert!(
            ["http://10.0.0.1:1", "http://[::1]", "http://localhost"]
                .iter()
                .all(|url| !Url::parse(url).unwrap().has_name())
        );
    }
}
