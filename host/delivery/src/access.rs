//! The way to a server: credentials, certificates and the longest wait.

use crate::proxy::Proxy;
use dropsonde_model::{InvalidValue, Span};
use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Credentials and certificates for a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessConfig {
    /// A file with a bearer token.
    pub bearer_token_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    /// A file with the certificates of the authorities to trust. None: those that the machine trusts.
    pub ca_file: Option<PathBuf>,
    /// A certificate of this host that the server asks for, and its key.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// The HTTP proxy between, possibly with a user, and a file with the password of that user.
    pub proxy_url: Option<String>,
    pub proxy_password_file: Option<PathBuf>,
    /// The longest time that a request may take. None: 10 s.
    pub timeout: Option<Span>,
}

/// Headers that requests have of themselves.
const OWN_HEADERS: [&str; 8] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "user-agent",
    "x-prometheus-remote-write-version",
];

/// Makes an [`AccessConfig`] of a table that has the same keys among others. (Serde does not refuse unknown keys where it
/// flattens one table into another.)
macro_rules! access_of {
    ($table:expr) => {
        $crate::access::AccessConfig {
            bearer_token_file: $table.bearer_token_file.clone(),
            username: $table.username.clone(),
            password_file: $table.password_file.clone(),
            ca_file: $table.ca_file.clone(),
            cert_file: $table.cert_file.clone(),
            key_file: $table.key_file.clone(),
            proxy_url: $table.proxy_url.clone(),
            proxy_password_file: $table.proxy_password_file.clone(),
            timeout: $table.timeout.into(),
        }
    };
}

pub(crate) use access_of;

impl AccessConfig {
    pub(crate) fn check(&self, key: &str) -> Result<(), InvalidValue> {
        if self.bearer_token_file.is_some() && self.username.is_some() {
            return InvalidValue::of(&format!("{key}.username"), "cannot be set with bearer_token_file");
        }
        if self.username.is_some() != self.password_file.is_some() {
            return InvalidValue::of(&format!("{key}.username"), "needs password_file, and the other way round");
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return InvalidValue::of(&format!("{key}.cert_file"), "needs key_file, and the other way round");
        }
        let is_proxy = |url: &String| Proxy::of(url, None).is_some();
        if !self.proxy_url.as_ref().is_none_or(is_proxy) {
            let why = "must be a URL such as http://proxy:3128 or http://user@proxy:3128";
            return InvalidValue::of(&format!("{key}.proxy_url"), why);
        }
        let has_user = self.proxy_url.as_ref().is_some_and(|url| url.contains('@'));
        if self.proxy_password_file.is_some() && !has_user {
            let why = "needs proxy_url with a user, such as http://user@proxy:3128";
            return InvalidValue::of(&format!("{key}.proxy_password_file"), why);
        }
        let is_allowed =
            |timeout: &Span| (Duration::from_millis(100)..=Duration::from_secs(300)).contains(&timeout.get());
        if !self.timeout.as_ref().is_none_or(is_allowed) {
            return InvalidValue::of(&format!("{key}.timeout"), "must be at least 100ms and at most 5m");
        }
        Ok(())
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.map_or(Duration::from_secs(10), Span::get)
    }

    /// Returns the files that a client reads once, when it is made.
    pub(crate) fn certificate_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.ca_file.iter().chain(&self.cert_file).chain(&self.key_file)
    }
}

/// Returns an authority without the name and the password that may stand in it.
pub(crate) fn without_user(authority: &str) -> &str {
    authority.rsplit_once('@').map_or(authority, |(_, host)| host)
}

/// Checks further headers of requests; `key`: their place in the configuration.
pub(crate) fn check_headers(key: &str, headers: &BTreeMap<String, String>) -> Result<(), InvalidValue> {
    for (name, value) in headers {
        let is_header = HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok();
        let is_own = |own: &str| name.eq_ignore_ascii_case(own);
        if !is_header || OWN_HEADERS.into_iter().any(is_own) {
            // The value may be a secret.
            return InvalidValue::of(key, &format!("cannot set {name:?}, or not to this value"));
        }
    }
    Ok(())
}

/// Returns the host of a URL, by which people know a server.
pub(crate) fn host_of(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(without_user(uri.authority()?.as_str()).to_owned())
}

pub(crate) fn check_url(key: &str, url: &str) -> Result<(), InvalidValue> {
    let uri: Result<Uri, _> = url.parse();
    let is_url = uri.is_ok_and(|uri| {
        let scheme = uri.scheme_str();
        matches!(scheme, Some("http" | "https")) && uri.authority().is_some_and(|host| !host.as_str().contains('@'))
    });
    if is_url {
        return Ok(());
    }
    InvalidValue::of(key, "must be a URL such as http://127.0.0.1:9093, without a user and a password in it")
}
