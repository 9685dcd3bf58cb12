//! Origins (scheme, host and port), and the origins and networks that an operator grants.

use super::address::{Network, is_public};
use super::rule::{Rule, SOCKET};
use crate::Root;
use crate::capability::files::Resolver;
use http::uri::Scheme;
use http::{Request, Uri};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

/// The rules about requests: where they may go, and with which methods and paths.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origins {
    rules: Vec<Rule>,
    /// The folder that paths of sockets are below. None: `/`.
    root: Option<Root>,
    /// Networks, besides the internet, that host names may resolve to.
    networks: Vec<Network>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) is_tls: bool,
    /// Host name or address, in lower case, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The origins of a rule: one, or those of any host or port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OriginPattern {
    pub(super) is_tls: bool,
    /// None, as text `*`: any host but Unix sockets.
    pub(super) host: Option<String>,
    /// None, as text `*`: any port.
    pub(super) port: Option<u16>,
}

/// Why a request may not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotAllowed {
    /// No rule has its origin.
    Origin,
    /// Rules have its origin, and none of them has its method and path.
    Request,
}

impl Origins {
    /// Grants an origin, a rule about one, or a network that host names may resolve to, such as `10.0.0.0/8`.
    pub(crate) fn grant(&mut self, what: &str) -> Result<(), String> {
        if !what.contains("://") && !what.contains("unix:") && !what.contains(' ') {
            self.networks.push(what.parse().map_err(|why| not_an_origin(what, why))?);
            return Ok(());
        }
        let rule: Rule = what.parse()?;
        if let Some(other) = self.rules.iter().find(|other| other.origin == rule.origin && other.socket != rule.socket)
        {
            let name = other.origin.host.as_deref().unwrap_or("*");
            return Err(format!("{name} stands for another socket already"));
        }
        self.rules.push(rule);
        Ok(())
    }

    /// Makes all paths of sockets those below a root.
    pub(crate) fn begin_at(&mut self, root: Root) {
        self.root = Some(root);
    }

    /// Opens a socket, without leaving the root. Returns the path to connect to, and a handle that keeps it.
    pub(super) fn socket(&self, path: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
        let Some(root) = &self.root else { return Ok((path.to_owned(), None)) };
        let handle = Resolver::of_this_process().open(path, Some(root)).map_err(|_| io::ErrorKind::NotFound)?;
        Ok((format!("/proc/self/fd/{}", handle.as_raw_fd()).into(), Some(handle)))
    }

    /// Explains why networks alone are useless, if no origin is granted.
    pub(crate) fn useless(&self) -> Option<String> {
        (self.rules.is_empty() && !self.networks.is_empty()).then(|| {
            "it is a network that host names may resolve to, but no origin is granted; add one, such as \
             http://db.example:8080"
                .to_owned()
        })
    }

    pub(crate) fn cover(&self, wanted: &str) -> bool {
        wanted.parse::<Rule>().is_ok_and(|rule| rule.is_covered_by(&self.rules))
    }

    /// Returns the rule that allows a request to an origin. The request's URI has only the path and the query.
    pub(super) fn allow<T>(&self, origin: &Origin, request: &Request<T>) -> Result<&Rule, NotAllowed> {
        let (method, path, headers) = (request.method(), request.uri().path(), request.headers());
        let mut rules = self.rules.iter().filter(|rule| rule.origin.contains(origin)).peekable();
        rules.peek().ok_or(NotAllowed::Origin)?;
        rules.find(|rule| rule.allows(method, path, headers)).ok_or(NotAllowed::Request)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns whether a request that a rule allows may connect to an address. It may if the address is on the internet
    /// or in a granted network, if the rule's host is this address, or if the host is `localhost` and the address is a
    /// loopback address.
    pub(super) fn may_lead_to(&self, rule: &OriginPattern, address: IpAddr) -> bool {
        is_public(address)
            || self.networks.iter().any(|network| network.contains(address))
            || rule.host.as_ref().is_some_and(|host| {
                host.parse::<IpAddr>() == Ok(address) || (host == "localhost" && address.is_loopback())
            })
    }
}

/// Returns the error for a text that is neither an origin nor a network. A bare host name most often means an origin.
fn not_an_origin(what: &str, why: String) -> String {
    let meant = format!("https://{what}");
    match Origin::parse(&meant) {
        Ok(origin) if origin.host.parse::<IpAddr>().is_err() && !what.contains('/') => {
            format!("it is not an origin: an origin begins with http:// or https://; did you mean {meant:?}?")
        }
        _ => why,
    }
}

// === impl OriginPattern ===

impl OriginPattern {
    /// Parses an origin whose host, port or both may be `*`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (text, any_port) = match text.strip_suffix(":*") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let (text, any_host) = match text.split_once("://*") {
            Some((scheme, port)) if port.is_empty() || port.starts_with([':', '/']) => {
                (format!("{scheme}://any{port}"), true)
            }
            Some(_) => return Err("`*` stands for a whole host, and not for a part of its name".to_owned()),
            None => (text.to_owned(), false),
        };
        let Origin { is_tls, host, port } = Origin::parse(&text)?;
        Ok(Self { is_tls, host: (!any_host).then_some(host), port: (!any_port).then_some(port) })
    }

    pub(super) fn contains(&self, origin: &Origin) -> bool {
        let has_host = match &self.host {
            Some(host) => *host == origin.host,
            None => !origin.host.ends_with(SOCKET),
        };
        self.is_tls == origin.is_tls && has_host && self.port.is_none_or(|port| port == origin.port)
    }

    /// Returns whether all origins of another pattern are in this one.
    pub(super) fn contains_all_of(&self, other: &Self) -> bool {
        let has_host = match (&self.host, &other.host) {
            (Some(host), Some(other)) => host == other,
            (Some(_), None) => false,
            (None, other) => other.as_ref().is_none_or(|host| !host.ends_with(SOCKET)),
        };
        self.is_tls == other.is_tls && has_host && (self.port.is_none() || self.port == other.port)
    }
}

// === impl Origin ===

impl Origin {
    fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| "it is not an origin such as https://example.com:8443".to_owned())?;
        let has_more = uri.path_and_query().is_some_and(|rest| rest.as_str() != "/")
            || uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        if has_more {
            return Err("an origin is only scheme, host and port".to_owned());
        }
        Self::of(&uri).ok_or_else(|| "it is not an origin such as https://example.com:8443".to_owned())
    }

    /// Returns the origin of a URI. None if its scheme is not http or https, or if it names no host.
    pub(crate) fn of(uri: &Uri) -> Option<Self> {
        let is_tls = match uri.scheme()? {
            scheme if *scheme == Scheme::HTTP => false,
            scheme if *scheme == Scheme::HTTPS => true,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            // The colon is followed by nothing, or by something that is not a number.
            None if authority.as_str().len() > authority.host().len() && !authority.as_str().contains('@') => {
                return None;
            }
            None => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
        };
        (!host.is_empty()).then(|| Self { is_tls, host: host.to_ascii_lowercase(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(granted: &[&str]) -> Origins {
        let mut origins = Origins::default();
        granted.iter().for_each(|what| origins.grant(what).unwrap());
        origins
    }

    fn origin(text: &str) -> Origin {
        Origin::parse(text).unwrap()
    }

    #[test]
    fn scheme_host_and_port_have_to_agree() {
        let origins = origins(&["http://example.com", "https://[2606::1]:8443/"]);
        for same in ["http://example.com", "http://example.com:80", "http://EXAMPLE.com/", "http://example.com./"] {
            assert!(origins.cover(same), "{same}");
        }
        assert!(origins.cover("https://[2606::1]:8443"));
        for other in [
            "https://example.com",
            "http://example.com:8080",
            "http://example.com.evil.org",
            "http://sub.example.com",
            "http://example.com@evil.org",
            "https://[2606::1]",
        ] {
            assert!(!origins.cover(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_origin_cannot_be_granted() {
        for bad in [
            "ftp://x",
            "http://",
            "http://x/path",
            "http:// /path",
            "http://x?q",
            "http://u:p@x",
            "http://x:",
            "//x",
            "x",
            "",
        ] {
            assert!(Origins::default().grant(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_stands_for_one_socket() {
        let mut origins = origins(&["GET unix:/run/a.sock as a /x", "POST unix:/run/a.sock as a /y"]);
        let refused = origins.grant("unix:/run/b.sock as a").unwrap_err();
        assert_eq!(refused, "a.unix stands for another socket already");
    }

    #[test]
    fn a_request_needs_one_rule_that_has_its_method_and_its_path() {
        let origins = origins(&["GET http://a /x", "POST http://a /y"]);
        let allowed = |origin_of: &str, method: &str, path: &str| {
            let request = Request::builder().method(method).uri(path).body(()).unwrap();
            origins.allow(&origin(origin_of), &request).map(|_| ())
        };
        assert_eq!(allowed("http://a", "GET", "/x?z"), Ok(()));
        assert_eq!(allowed("http://a", "POST", "/x"), Err(NotAllowed::Request));
        assert_eq!(allowed("http://b", "GET", "/x"), Err(NotAllowed::Origin));
    }

    #[test]
    fn a_name_leads_inside_only_where_that_is_granted() {
        let granted = origins(&["http://a.example", "http://127.0.0.1:8080", "http://localhost", "10.0.0.0/8"]);
        let leads =
            |from: &str, to: &str| granted.may_lead_to(&OriginPattern::parse(from).unwrap(), to.parse().unwrap());
        assert!(leads("http://a.example", "1.1.1.1"));
        assert!(leads("http://a.example", "10.1.1.1"), "a network that is granted");
        assert!(!leads("http://a.example", "127.0.0.1") && !leads("http://a.example", "::ffff:127.0.0.1"));
        assert!(!leads("http://a.example", "169.254.169.254"));
        assert!(leads("http://127.0.0.1:8080", "127.0.0.1") && !leads("http://127.0.0.1:8080", "127.0.0.2"));
        assert!(leads("http://localhost", "::1") && !leads("http://localhost", "192.168.0.1"));
    }
}
