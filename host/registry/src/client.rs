//! Requests to one registry. Credentials go to the registry alone, and to the server of its tokens if that is the same
//! host or the domain above it; never to where it redirects.

use crate::credentials::Credentials;
use crate::reference::Reference;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Deserialize;
use std::sync::Mutex;
use std::time::Duration;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Longest time of a request, its body included.
const TIMEOUT: Duration = Duration::from_secs(300);

/// Redirects of one request that are followed.
const MOST_REDIRECTS: usize = 5;

/// Bytes of an answer that is for people, or has a token.
const SMALL: usize = 64 << 10;

/// Characters of an answer that an error quotes.
const QUOTED: usize = 200;

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("dropsonde/", env!("CARGO_PKG_VERSION")));

pub(crate) struct Client {
    http: HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Scheme and authority of the registry.
    base: String,
    registry: String,
    basic: Option<String>,
    /// The header that the registry asked for, once it has.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A request to the registry.
pub(crate) struct Ask<'a> {
    pub(crate) method: Method,
    /// The path at the registry, or a whole URL that it gave.
    pub(crate) path: &'a str,
    pub(crate) accept: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) body: Bytes,
    /// The most bytes of the answer.
    pub(crate) longest: usize,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Client {
    pub(crate) fn new(reference: &Reference, credentials: &Credentials) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = std::sync::Arc::new(ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = tls.with_root_certificates(roots).with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let scheme = if reference.is_local() { "http" } else { "https" };
        Ok(Self {
            http: HyperClient::builder(TokioExecutor::new()).build(connector),
            base: format!("{scheme}://{}", reference.registry),
            registry: reference.registry.clone(),
            basic: credentials.basic(&reference.registry),
            authorization: Mutex::default(),
        })
    }

    /// Asks the registry, gets a token if it wants one, and follows redirects of a GET.
    pub(crate) async fn ask(&self, ask: &Ask<'_>) -> Result<Answer> {
        let url = if ask.path.starts_with('/') { format!("{}{}", self.base, ask.path) } else { ask.path.to_owned() };
        let mut url: Uri = url.parse().with_context(|| format!("{} gives an address that is none", self.registry))?;
        let mut has_token = false;
        let mut redirects = 0;
        loop {
            self.check(&url)?;
            let is_own = self.is_registry(&url);
            let authorization = if is_own { self.known_authorization() } else { None };
            let answer = self.send(ask, &url, authorization).await?;
            if answer.status == StatusCode::UNAUTHORIZED && is_own && !has_token {
                has_token = true;
                let wanted = self.authorize(&answer).await?;
                self.remember(wanted);
                continue;
            }
            if ask.method != Method::GET || !answer.status.is_redirection() {
                return Ok(answer);
            }
            redirects += 1;
            ensure!(redirects <= MOST_REDIRECTS, "{} redirects more than {MOST_REDIRECTS} times", self.registry);
            let to = answer.headers.get(header::LOCATION).and_then(|to| to.to_str().ok());
            let to = to.with_context(|| format!("{} redirects to nowhere", self.registry))?;
            url = self.resolve(&url, to)?;
        }
    }

    /// Returns the address that a registry gave, relative to the one that was asked.
    pub(crate) fn location(&self, answer: &Answer) -> Result<String> {
        let to = answer.headers.get(header::LOCATION).and_then(|to| to.to_str().ok());
        let to = to.with_context(|| format!("{} does not say where to upload", self.registry))?;
        let base: Uri = self.base.parse()?;
        let url = self.resolve(&base, to)?;
        ensure!(self.is_registry(&url), "{} wants the upload sent to another server", self.registry);
        Ok(url.to_string())
    }

    fn resolve(&self, from: &Uri, to: &str) -> Result<Uri> {
        let bad = || anyhow!("{} leads to an address that is none", self.registry);
        if to.contains("://") {
            return to.parse().map_err(|_| bad());
        }
        ensure!(to.starts_with('/'), bad());
        let authority = from.authority().ok_or_else(bad)?;
        format!("{}://{authority}{to}", from.scheme_str().unwrap_or("https")).parse().map_err(|_| bad())
    }

    /// Fails if an address is not safe to ask: without TLS, only a registry on this machine is.
    fn check(&self, url: &Uri) -> Result<()> {
        let is_safe = url.scheme_str() == Some("https")
            || (url.scheme_str() == Some("http") && self.base.starts_with("http:") && is_loopback(url));
        ensure!(is_safe, "{} leads to {}, which is not asked without TLS", self.registry, place(url));
        Ok(())
    }

    fn is_registry(&self, url: &Uri) -> bool {
        let is_same_scheme = url.scheme_str().is_some_and(|scheme| self.base.starts_with(&format!("{scheme}://")));
        is_same_scheme && url.authority().is_some_and(|authority| authority.as_str() == self.registry)
    }

    fn known_authorization(&self) -> Option<HeaderValue> {
        self.authorization.lock().map(|known| known.clone()).unwrap_or_default()
    }

    fn remember(&self, value: HeaderValue) {
        if let Ok(mut known) = self.authorization.lock() {
            *known = Some(value);
        }
    }

    async fn send(&self, ask: &Ask<'_>, url: &Uri, authorization: Option<HeaderValue>) -> Result<Answer> {
        let mut request = Request::builder().method(ask.method.clone()).uri(url.clone());
        request = request.header(header::USER_AGENT, USER_AGENT);
        if !ask.accept.is_empty() {
            request = request.header(header::ACCEPT, ask.accept);
        }
        if !ask.content_type.is_empty() {
            request = request.header(header::CONTENT_TYPE, ask.content_type);
        }
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(Full::new(ask.body.clone()))?;
        let longest = ask.longest.max(SMALL);
        let exchange = async {
            let answer = self.http.request(request).await.with_context(|| format!("cannot reach {}", place(url)))?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, longest).collect().await;
            let body = body.map_err(|_| anyhow!("{} sent more than {longest} bytes, or was cut off", place(url)))?;
            Ok(Answer { status: parts.status, headers: parts.headers, body: body.to_bytes() })
        };
        match tokio::time::timeout(TIMEOUT, exchange).await {
            Ok(answer) => answer,
            Err(_) => bail!("{} did not answer within {} s", place(url), TIMEOUT.as_secs()),
        }
    }

    /// Gets what the registry asks for: a token, or the user's password.
    async fn authorize(&self, refused: &Answer) -> Result<HeaderValue> {
        let wanted = refused.headers.get(header::WWW_AUTHENTICATE).and_then(|wanted| wanted.to_str().ok());
        let wanted = wanted.with_context(|| format!("{} wants a login and does not say which", self.registry))?;
        let (scheme, parameters) = wanted.split_once(' ').unwrap_or((wanted, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            let basic = self.basic.as_ref().with_context(|| self.not_known())?;
            return sensitive(basic);
        }
        ensure!(scheme.eq_ignore_ascii_case("bearer"), "{} wants a login of an unknown kind", self.registry);
        let parameter = |name: &str| parameter(parameters, name);
        let realm =
            parameter("realm").with_context(|| format!("{} does not say where its tokens are", self.registry))?;
        let mut query: Vec<String> = Vec::new();
        for name in ["service", "scope"] {
            query.extend(parameter(name).map(|value| format!("{name}={}", encoded(&value))));
        }
        let glue = if realm.contains('?') { '&' } else { '?' };
        let url: Uri = format!("{realm}{glue}{}", query.join("&"))
            .parse()
            .with_context(|| format!("{}: {realm:?} is no URL", self.registry))?;
        self.check(&url)?;
        // A registry must not be able to send the user's password elsewhere.
        let basic = self.basic.as_ref().filter(|_| is_same_party(&self.registry, &url));
        let ask = Ask {
            method: Method::GET,
            path: "",
            accept: "application/json",
            content_type: "",
            body: Bytes::new(),
            longest: SMALL,
        };
        let answer = self.send(&ask, &url, basic.map(|basic| sensitive(basic)).transpose()?).await?;
        if !answer.status.is_success() {
            let why = match (&self.basic, basic) {
                (Some(_), None) => format!("the password for {} is sent to no other server", self.registry),
                _ => self.not_known(),
            };
            bail!("{} gives no token: {}; {why}", place(&url), answer.said());
        }
        let TokenAnswer { token, access_token } =
            serde_json::from_slice(&answer.body).with_context(|| format!("the token of {}", place(&url)))?;
        let token = token.or(access_token).with_context(|| format!("{} gives no token", place(&url)))?;
        sensitive(&format!("Bearer {token}"))
    }

    fn not_known(&self) -> String {
        match self.basic {
            Some(_) => format!("the user known for {} may not do this", self.registry),
            None => format!(
                "no user is known for {}: run `docker login` or `skopeo login` first, without a helper for passwords, or name the file with \
                 REGISTRY_AUTH_FILE",
                self.registry
            ),
        }
    }
}

impl Answer {
    /// Returns the status and the beginning of what the server said, for people.
    pub(crate) fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let text: String = text.trim().chars().filter(|c| !c.is_control()).take(QUOTED).collect();
        if text.is_empty() { self.status.to_string() } else { format!("{}: {text}", self.status) }
    }
}

fn sensitive(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text).map_err(|_| anyhow!("a token or password has control characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns the host of an address, without what may be secret.
fn place(url: &Uri) -> String {
    url.host().unwrap_or_default().to_owned()
}

fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Returns whether the server of tokens is the registry itself, or the domain above it, such as gitlab.com for
/// registry.gitlab.com.
fn is_same_party(registry: &str, tokens: &Uri) -> bool {
    let authority = tokens.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let is_above = registry.strip_suffix(authority).is_some_and(|rest| rest.ends_with('.'));
    authority == registry || (is_above && authority.contains('.'))
}

/// Returns a parameter of a challenge: `realm="https://…",service="x"`.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    while let Some((key, value)) = rest.split_once('=') {
        let (found, after) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => value.split_once(',').unwrap_or((value, "")),
        };
        if key.trim_matches([' ', ',']).eq_ignore_ascii_case(name) {
            return Some(found.to_owned());
        }
        rest = after;
    }
    None
}

/// Encodes a value of a query.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_goes_to_the_registry_and_the_domain_above_it_alone() {
        let same = |registry: &str, url: &str| is_same_party(registry, &url.parse().unwrap());
        assert!(same("ghcr.io", "https://ghcr.io/token") && same("registry.gitlab.com", "https://gitlab.com/jwt/auth"));
        assert!(
            !same("ghcr.io", "https://evil.example/token")
                && !same("a.io", "https://xa.io/")
                && !same("b.io", "https://io/")
        );
        assert!(!same("registry.example", "https://registry.example:8443/token"), "another port is another server");
        assert!(!same("evilgitlab.com", "https://gitlab.com/"));
    }

    #[test]
    fn parameters_of_a_challenge_are_read() {
        let challenge = r#"realm="https://auth.example/token?a=b",service="x, y",scope=repository:a:pull"#;
        assert_eq!(parameter(challenge, "realm").as_deref(), Some("https://auth.example/token?a=b"));
        assert_eq!(parameter(challenge, "Service").as_deref(), Some("x, y"));
        assert_eq!(parameter(challenge, "scope").as_deref(), Some("repository:a:pull"));
        assert_eq!(parameter(challenge, "error"), None);
        assert_eq!(parameter("realm=\"open", "realm"), None);
        assert_eq!(encoded("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}
