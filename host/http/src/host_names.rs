//! The check of the host name in a request.

use super::error::ApiError;
use super::tls::Tls;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, Version, header};
use rustix::system::uname;
use std::net::IpAddr;

/// The names of this host. A page of a stranger could give its own name this address, and would then read what only
/// this machine may read. It cannot choose the host name in its requests.
pub(super) struct HostNames {
    given: Vec<String>,
    is_any: bool,
    tls: Option<Tls>,
}

impl HostNames {
    pub(super) fn new(given: &[String], tls: Option<Tls>) -> Self {
        let machine = uname();
        let machine = machine.nodename().to_str().ok();
        let given: Vec<_> = given.iter().map(String::as_str).chain(machine).map(str::to_ascii_lowercase).collect();
        Self { is_any: given.iter().any(|name| name == "*"), given, tls }
    }

    /// Returns whether a name is this host's. Every IP address is: nobody can have one lead elsewhere.
    fn include(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        self.is_any
            || host == "localhost"
            || address.parse::<IpAddr>().is_ok()
            || self.given.contains(&host)
            || self.tls.as_ref().is_some_and(|tls| tls.is_for(&host))
    }

    /// Refuses a request for another host. The host name is in the request's target, or else in its `Host` header.
    pub(super) fn check(&self, uri: &Uri, version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
        let mut said = headers.get_all(header::HOST).iter();
        let host = said.next();
        if said.next().is_some() || (host.is_none() && uri.authority().is_none() && version == Version::HTTP_11) {
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "the request needs exactly one Host header"));
        }
        let host = host.map(|host| host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()));
        for authority in host.into_iter().chain(uri.authority().cloned().map(Some)) {
            let authority = authority.filter(|authority| !authority.as_str().contains('@'));
            let authority = authority
                .ok_or_else(|| ApiError::new(StatusCode::BAD_REQUEST, "the Host header is not a valid host name"))?;
            if !self.include(authority.host()) {
                let why = format!("unknown host name {}; add it to http.hosts", authority.host());
                return Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, why));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn check(names: &[&str], target: &str, hosts: &[&str]) -> u16 {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        let checked = HostNames::new(&names, None).check(&target.parse().unwrap(), Version::HTTP_11, &headers);
        checked.map_or_else(|error| error.status().as_u16(), |()| 200)
    }

    #[test]
    fn ip_addresses_localhost_and_configured_names_are_accepted_and_other_names_get_421() {
        for host in
            ["localhost", "LOCALHOST:9090", "localhost.", "127.0.0.1:1", "[::1]:9090", "192.168.1.5", "Me.example"]
        {
            assert_eq!(check(&["me.example"], "/", &[host]), 200, "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "me.example.evil:80", "1"] {
            assert_eq!(check(&["me.example"], "/", &[host]), 421, "{host}");
        }
        assert_eq!(check(&["*"], "/", &["any.example"]), 200);
    }

    #[test]
    fn a_missing_invalid_or_repeated_host_header_is_a_bad_request() {
        for hosts in [&[][..], &["localhost", "localhost"], &["a b"], &["user@localhost"], &["[::1"], &[""]] {
            assert_eq!(check(&[], "/", hosts), 400, "{hosts:?}");
        }
    }

    #[test]
    fn the_host_name_in_an_absolute_request_target_is_checked_too() {
        assert_eq!(check(&[], "http://localhost/", &["localhost"]), 200);
        assert_eq!(check(&[], "http://evil.example/", &["localhost"]), 421);
        assert_eq!(check(&[], "http://localhost/", &["evil.example"]), 421);
    }
}
