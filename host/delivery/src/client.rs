//! Requests to other servers, with credentials and TLS.

use crate::access::AccessConfig;
use crate::proxy::{Connector, Proxy};
use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::TokioExecutor;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The most requests to one server at a time.
pub(crate) const AT_ONCE: usize = 8;

/// The longest answer that is read, in bytes: only its beginning is for people.
const LONGEST_ANSWER: usize = 64 << 10;

/// Characters of an answer that an error quotes.
const QUOTED: usize = 200;

const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("dropsonde/", env!("CARGO_PKG_VERSION")));

/// Sends requests to one server.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    client: HyperClient<HttpsConnector<Connector>, Full<Bytes>>,
    access: AccessConfig,
    proxy: Option<Proxy>,
}

/// A request to a server.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
}

/// An answer to a request.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The reason why a server did not take a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct SendError {
    pub(crate) why: String,
    /// The wait that the server asks for.
    pub(crate) retry_after: Option<Duration>,
    /// Whether the same request can work later.
    pub(crate) can_work_later: bool,
}

impl Client {
    /// Makes a client. Reads the certificates to trust, and that of this host.
    pub(crate) fn new(access: &AccessConfig) -> Result<Self> {
        let roots = match &access.ca_file {
            Some(file) => {
                let mut roots = RootCertStore::empty();
                let unreadable = || format!("cannot read the certificates in {}", file.display());
                for certificate in CertificateDer::pem_file_iter(file).with_context(unreadable)? {
                    roots.add(certificate.with_context(unreadable)?).with_context(unreadable)?;
                }
                Arc::new(roots)
            }
            None => trusted(),
        };
        let provider = Arc::new(ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let tls = tls.with_root_certificates(roots);
        let tls = match (&access.cert_file, &access.key_file) {
            (Some(certificate), Some(key)) => {
                let unreadable = |file: &Path| format!("cannot read {}", file.display());
                let chain: Result<Vec<_>, _> =
                    CertificateDer::pem_file_iter(certificate).with_context(|| unreadable(certificate))?.collect();
                let chain = chain.with_context(|| unreadable(certificate))?;
                let own = PrivateKeyDer::from_pem_file(key).with_context(|| unreadable(key))?;
                tls.with_client_auth_cert(chain, own)
                    .with_context(|| format!("cannot use {} with {}", certificate.display(), key.display()))?
            }
            _ => tls.with_no_client_auth(),
        };
        let proxy = access.proxy_url.as_ref().and_then(|url| Proxy::of(url, access.proxy_password_file.clone()));
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let connector = connector.wrap_connector(Connector::new(proxy.clone()));
        let client = HyperClient::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(60))
            .pool_max_idle_per_host(AT_ONCE)
            .build(connector);
        Ok(Self { client, access: access.clone(), proxy })
    }

    /// Sends a request, and waits for the answer.
    pub(crate) async fn send(&self, message: Message) -> Result<(), SendError> {
        let answer = self.ask(message).await?;
        let status = answer.status;
        if status.is_success() {
            return Ok(());
        }
        let is_passing = status.is_server_error()
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY);
        Err(SendError { why: answer.to_string(), retry_after: answer.retry_after(), can_work_later: is_passing })
    }

    /// Sends a request, and returns the answer, whatever it says.
    pub(crate) async fn ask(&self, message: Message) -> Result<Answer, SendError> {
        self.ask_up_to(message, LONGEST_ANSWER).await
    }

    /// Sends a request, and returns the answer. Its body is empty if it has more bytes than `longest`.
    pub(crate) async fn ask_up_to(&self, message: Message, longest: usize) -> Result<Answer, SendError> {
        let request = self.request(message).await?;
        let timeout = self.access.timeout();
        match tokio::time::timeout(timeout, self.exchange(request, longest)).await {
            Ok(result) => result,
            Err(_) => Err(SendError::later(format!("it did not answer within {} s", timeout.as_secs_f64()))),
        }
    }

    async fn request(&self, message: Message) -> Result<Request<Full<Bytes>>, SendError> {
        let Message { method, url, headers, body } = message;
        let uri: Uri = url.parse().map_err(|_| SendError::never("its URL is invalid"))?;
        let asks_proxy = uri.scheme_str() == Some("http");
        let mut request = Request::builder().method(method).uri(uri).body(Full::new(body));
        if let Ok(request) = &mut request {
            let own = request.headers_mut();
            own.insert(header::USER_AGENT, USER_AGENT);
            headers.into_iter().for_each(|(name, value)| drop(own.insert(name, value)));
            if let Some(value) = self.authorization().await? {
                own.insert(header::AUTHORIZATION, value);
            }
            if let Some(proxy) = self.proxy.as_ref().filter(|_| asks_proxy)
                && let Some(value) = proxy.authorization().await?
            {
                own.insert(header::PROXY_AUTHORIZATION, value);
            }
        }
        request.map_err(|error| SendError::never(error.to_string()))
    }

    /// Returns the header that lets this host in. Its files are read for each request: they may change.
    async fn authorization(&self) -> Result<Option<HeaderValue>, SendError> {
        let AccessConfig { bearer_token_file, username, password_file, .. } = &self.access;
        let text = match (bearer_token_file, username, password_file) {
            (Some(file), ..) => format!("Bearer {}", secret(file).await?),
            (None, Some(name), Some(file)) => {
                format!("Basic {}", BASE64_STANDARD.encode(format!("{name}:{}", secret(file).await?)))
            }
            _ => return Ok(None),
        };
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| SendError::later("its token or password has control characters"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    async fn exchange(&self, request: Request<Full<Bytes>>, longest: usize) -> Result<Answer, SendError> {
        let answer = self.client.request(request).await.map_err(|error| SendError::later(chain(&error)))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        // An answer that cannot be read is one all the same.
        let body = Limited::new(answer.into_body(), longest).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        Ok(Answer { status, headers, body })
    }
}

impl Answer {
    /// Returns the wait that the server asks for.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        self.headers.get(header::RETRY_AFTER).and_then(seconds)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it answered {}", self.status)?;
        let said = quoted(&String::from_utf8_lossy(&self.body));
        if said.is_empty() { Ok(()) } else { write!(f, ": {said}") }
    }
}

impl SendError {
    pub(crate) fn later(why: impl Into<String>) -> Self {
        Self { why: why.into(), retry_after: None, can_work_later: true }
    }

    fn never(why: impl Into<String>) -> Self {
        Self { can_work_later: false, ..Self::later(why) }
    }
}

/// Returns the authorities that the machine trusts. A machine that trusts none can still send without TLS.
fn trusted() -> Arc<RootCertStore> {
    static TRUSTED: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    };
    TRUSTED.get_or_init(read).clone()
}

/// Returns the beginning of something that a server said, for people.
pub(crate) fn quoted(said: &str) -> String {
    let said: String = said.trim().chars().take(QUOTED).collect();
    dropsonde_model::text::harmless(&said).to_string()
}

/// Reads a secret from a file: its first line.
pub(crate) async fn secret(file: &Path) -> Result<String, SendError> {
    let own = file.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(own)).await;
    match read {
        Ok(Ok(text)) => Ok(text.lines().next().unwrap_or_default().trim().to_owned()),
        Ok(Err(error)) => Err(SendError::later(format!(
            "cannot read {}: {}",
            file.display(),
            dropsonde_model::text::os_error(&error)
        ))),
        Err(_) => Err(SendError::later(format!("cannot read {}", file.display()))),
    }
}

/// Reads `Retry-After`: seconds, or a date.
fn seconds(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let wait = at.as_second().saturating_sub(jiff::Timestamp::now().as_second());
    u64::try_from(wait).ok().map(Duration::from_secs)
}

/// Writes an error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut said: Vec<String> = Vec::new();
    for cause in causes.map(ToString::to_string) {
        // The cause behind it says more than that the client failed.
        if !cause.starts_with("client error") && said.last().is_none_or(|last| !last.contains(&cause)) {
            said.push(cause);
        }
    }
    said.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let of = |text: &'static str| seconds(&HeaderValue::from_static(text));
        assert_eq!(of("120"), Some(Duration::from_secs(120)));
        assert_eq!(of("soon"), None);
        assert!(of("Fri, 31 Dec 2100 23:59:59 GMT").is_some_and(|wait| wait > Duration::from_secs(86_400)));
        assert_eq!(of("Fri, 31 Dec 1999 23:59:59 GMT"), None);
    }
}
