//! The way to a server: credentials, certificates and the longest wait.

use crate::proxy::Proxy;
use dropsonde_model::{InvalidValue, Span};
use hyper::Uri;
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
