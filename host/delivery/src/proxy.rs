//! Connections through an HTTP proxy: for `https` a tunnel through it, for `http` requests to the proxy itself.

use crate::access::without_user;
use crate::client::{SendError, secret};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tower_service::Service;

/// A proxy, and who asks it.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    url: Uri,
    user: Option<String>,
    password_file: Option<PathBuf>,
}

/// Connects to servers, through a proxy or not.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    direct: HttpConnector,
    proxy: Option<Proxy>,
}

/// A connection to a server or to a proxy.
#[derive(Debug)]
pub(crate) struct Stream {
    stream: TokioIo<TcpStream>,
    /// Whether requests name the whole URL, because a proxy reads them.
    is_to_proxy: bool,
}

type BoxError = Box<dyn Error + Send + Sync>;

impl Proxy {
    /// Returns the proxy of a URL, which may name a user. A password in it is none: it would be shown with the URL.
    pub(crate) fn of(url: &str, password_file: Option<PathBuf>) -> Option<Self> {
        let uri: Uri = url.parse().ok().filter(|uri: &Uri| uri.scheme_str() == Some("http"))?;
        let authority = uri.authority()?.as_str();
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        if user.is_some_and(|user| user.is_empty() || user.contains(':')) {
            return None;
        }
        let user = user.map(|user| percent_decode_str(user).decode_utf8_lossy().into_owned());
        let bare = Uri::builder().scheme("http").authority(without_user(authority)).path_and_query("/").build().ok()?;
        Some(Self { url: bare, user, password_file })
    }

    /// Returns the header that lets this host in. The password is read each time: it may change.
    pub(crate) async fn authorization(&self) -> Result<Option<HeaderValue>, SendError> {
        let Some(user) = &self.user else { return Ok(None) };
        let password = match &self.password_file {
            Some(file) => secret(file).await?,
            None => String::new(),
        };
        let text = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| SendError::later("the password of the proxy has control characters"))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl Connector {
    pub(crate) fn new(proxy: Option<Proxy>) -> Self {
        let mut direct = HttpConnector::new();
        direct.enforce_http(false);
        Self { direct, proxy }
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.direct.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let Self { mut direct, proxy } = self.clone();
        Box::pin(async move {
            let Some(proxy) = proxy else {
                return Ok(Stream { stream: direct.call(server).await?, is_to_proxy: false });
            };
            let through = |error: BoxError| -> BoxError { format!("through the proxy {}: {error}", proxy.url).into() };
            if server.scheme_str() == Some("https") {
                let mut tunnel = Tunnel::new(proxy.url.clone(), direct);
                if let Some(value) = proxy.authorization().await? {
                    tunnel = tunnel.with_auth(value);
                }
                let stream = tunnel.call(server).await.map_err(|error| through(error.into()))?;
                return Ok(Stream { stream, is_to_proxy: false });
            }
            let stream = direct.call(proxy.url.clone()).await.map_err(|error| through(error.into()))?;
            Ok(Stream { stream, is_to_proxy: true })
        })
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.stream.connected().proxy(self.is_to_proxy)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }
}
