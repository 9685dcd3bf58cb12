//! Sends one request: resolves and checks the name, connects and sends, all within limits.

use super::exchange::RecordedExchange;
use super::origin::{NotAllowed, Origin, Origins};
use super::rule::Rule;
use crate::capability::denials::Denials;
use crate::capability::inputs::Inputs;
use crate::{Grants, Limits};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::client::conn::http1;
use std::future::Future;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

/// Most connections and name lookups of one plugin at a time.
const CONNECTIONS: usize = 64;

/// Most bytes of a request's body that wait to be sent.
const CHUNK: usize = 16 << 10;

/// Most bytes of a response's head, and most headers.
const LARGEST_HEAD: usize = 64 << 10;
const MOST_HEADERS: usize = 256;

/// Most addresses of one name that are tried.
const TRIED: usize = 4;

/// A plugin's access to the network.
pub(crate) struct Http {
    grants: Arc<Grants>,
    limits: Limits,
    inputs: Inputs,
    /// The time by which requests of the current call must be over.
    end: Instant,
    connections: Connections,
    denials: Denials,
}

/// Limits the connections of a plugin, over all its instances.
#[derive(Debug, Clone)]
pub(crate) struct Connections(Arc<Semaphore>);

/// The permit for one connection. The connection counts as long as any part of the request holds the permit.
type Permit = Arc<OwnedSemaphorePermit>;

impl Default for Connections {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CONNECTIONS)))
    }
}

type Driver = Box<dyn Future<Output = Result<(), Error>> + Send>;

trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

impl Http {
    pub(crate) fn new(
        grants: Arc<Grants>,
        limits: Limits,
        inputs: Inputs,
        connections: Connections,
        denials: Denials,
    ) -> Self {
        Self { grants, limits, inputs, end: Instant::now() + limits.deadline, connections, denials }
    }

    /// Begins a call. Its requests end before its deadline does, so that a server that does not answer costs the plugin
    /// a request and not the call.
    pub(crate) fn begin_call(&mut self, deadline: Duration) {
        self.end = Instant::now() + deadline.mul_f64(0.9);
    }
}

impl WasiHttpHooks for Http {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _: Driver,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Driver), Error>> + Send> {
        let (grants, inputs, connections) = (self.grants.clone(), self.inputs.clone(), self.connections.0.clone());
        let (end, most, denials) = (self.end, self.limits.http_body, self.denials.clone());
        Box::new(async move {
            let permit = connections.try_acquire_owned().map_err(|_| Error::ConnectionLimitReached)?;
            let permit = Arc::new(permit);
            let bounds = Bounds { end, most, permit };
            send(&grants.http, &denials, &inputs, request, options.unwrap_or_default(), bounds).await
        })
    }

    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        1
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }

    // The default implementations of these functions write to the log, which a guest could fill that way.

    fn p2_error_from_hyper(&mut self, error: &hyper::Error) -> ErrorCode {
        match error {
            error if error.is_timeout() => ErrorCode::HttpResponseTimeout,
            error if error.is_incomplete_message() => ErrorCode::HttpResponseIncomplete,
            _ => ErrorCode::HttpProtocolError,
        }
    }

    fn p2_error_from_connect(&mut self, _: &io::Error) -> ErrorCode {
        ErrorCode::ConnectionRefused
    }

    fn p2_error_from_tls(&mut self, _: &io::Error) -> ErrorCode {
        ErrorCode::TlsProtocolError
    }
}

/// The bounds of a request.
struct Bounds {
    /// The time by which it must be over, including the body of the response.
    end: Instant,
    /// Most bytes of the response's body.
    most: usize,
    permit: Permit,
}

/// Sends a request.
async fn send(
    origins: &Origins,
    denials: &Denials,
    inputs: &Inputs,
    request: Request<WasiBody>,
    options: RequestOptions,
    Bounds { end, most, permit }: Bounds,
) -> Result<(Response<WasiBody>, Driver), Error> {
    // The guest may ask for a shorter time.
    let within = |wanted: Option<Duration>| wanted.map_or(end, |wanted| end.min(Instant::now() + wanted));
    let origin = Origin::of(request.uri()).ok_or(Error::HttpRequestUriInvalid)?;
    let place = place(request.uri());
    let request = without_origin(request)?;
    let rule = origins.allow(&origin, &request).map_err(|why| {
        denials.deny(&place, not_granted(&place, &request, why));
        Error::HttpRequestDenied
    })?;
    let exchange = match inputs {
        Inputs::Live => None,
        Inputs::RecordedBy(_) | Inputs::Recorded(_) => {
            Some(RecordedExchange::of(&request, &format!("{place}{}", request.uri())))
        }
    };
    if let (Inputs::Recorded(recording), Some(exchange)) = (inputs, &exchange) {
        // A recording never leads to the network.
        let recorded = recording.exchange(&exchange.method, &exchange.url).ok_or(Error::DestinationNotFound)?;
        let driver: Driver = Box::new(async { Ok(()) });
        return Ok((recorded.response()?, driver));
    }
    let connect = async {
        match &rule.socket {
            Some(socket) => {
                let (path, _handle) = origins.socket(socket).map_err(Error::Connect)?;
                let stream = UnixStream::connect(path).await.map_err(Error::Connect)?;
                Ok(Box::new(stream) as Box<dyn ByteStream>)
            }
            None => connect(origins, rule, &origin, &permit).await,
        }
    };
    let connected = timeout_at(within(options.connect_timeout), connect).await;
    let stream = connected.map_err(|_| Error::ConnectionTimeout)?.map_err(|failure| match failure {
        ConnectFailure::LeadsInside(address) => {
            denials.deny(&place, leads_inside(&place, address));
            Error::DestinationIpProhibited
        }
        ConnectFailure::Failed(error) => error,
    })?;
    denials.go_on();
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(LARGEST_HEAD)
        .max_headers(MOST_HEADERS)
        .handshake::<_, WasiBody>(TokioIo::new(stream))
        .await?;
    let mut connection = Box::pin(connection);
    let sent = sender.send_request(request);
    let answered = async {
        let mut sent = std::pin::pin!(sent);
        // However the connection ends, there is a response or a reason why not.
        tokio::select! {
            biased;
            answer = &mut sent => (answer, true),
            _ = &mut connection => (sent.await, false),
        }
    };
    let answered = timeout_at(within(options.first_byte_timeout), answered).await;
    let (answer, is_open) = answered.map_err(|_| Error::HttpResponseTimeout)?;
    let body = |incoming| Bounded {
        incoming,
        left: most,
        most,
        end: Box::pin(tokio::time::sleep_until(end)),
        between: options.between_bytes_timeout,
        quiet: None,
    };
    let answer = answer?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::HttpProtocolError);
    }
    let answer = answer.map(|incoming| body(incoming).boxed_unsync());
    let answer = match (inputs, exchange) {
        (Inputs::RecordedBy(recorder), Some(exchange)) => exchange.record(answer, recorder.clone()),
        _ => answer,
    };
    let driver: Driver = Box::new(async move {
        if is_open {
            // The body reports any error of the connection.
            let _ = timeout_at(end, connection).await;
        }
        drop(permit);
        Ok(())
    });
    Ok((answer, driver))
}

/// Removes scheme and host from the request's URI: only proxies are sent those.
fn without_origin(mut request: Request<WasiBody>) -> Result<Request<WasiBody>, Error> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    *request.uri_mut() = Uri::builder().path_and_query(path).build().map_err(|_| Error::HttpRequestUriInvalid)?;
    Ok(request)
}

/// Returns scheme and host of a URI, as the plugin wrote them.
fn place(uri: &Uri) -> String {
    let part = |part: Option<&str>| part.unwrap_or_default().to_owned();
    format!("{}://{}", part(uri.scheme_str()), part(uri.authority().map(|authority| authority.as_str())))
}

/// Returns the text of a denial, with the grant that would allow the request.
fn not_granted(place: &str, request: &Request<WasiBody>, why: NotAllowed) -> String {
    let (method, path) = (request.method(), request.uri().path());
    match why {
        NotAllowed::Origin => format!("{place} is not granted; add http = [{place:?}]"),
        NotAllowed::Request => {
            format!("{method} {place}{path} is not granted: the grants of {place} have other methods and paths")
        }
    }
}

/// Returns the text of a denial because the name of a granted origin resolves to an address that is not allowed.
fn leads_inside(place: &str, address: IpAddr) -> String {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    format!(
        "{place} is granted, but its name resolves to {address}, which is not on the internet; add its network, such \
         as http = [\"{address}/{bits}\"]"
    )
}

/// Why there is no connection to an origin.
enum ConnectFailure {
    /// The origin's name resolves to this address, which no grant covers.
    LeadsInside(IpAddr),
    Failed(Error),
}

impl From<Error> for ConnectFailure {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Connects to an origin over TCP.
async fn connect(
    origins: &Origins,
    rule: &Rule,
    origin: &Origin,
    permit: &Permit,
) -> Result<Box<dyn ByteStream>, ConnectFailure> {
    let (name, permit) = ((origin.host.clone(), origin.port), permit.clone());
    // The lookup continues when nobody waits for it any more, and counts as a connection until it ends.
    let looked_up = move || {
        let _permit = permit;
        Ok::<_, io::Error>(name.to_socket_addrs()?.collect::<Vec<_>>())
    };
    let found = tokio::task::spawn_blocking(looked_up).await.map_err(io::Error::other).flatten();
    let found = found.map_err(|_| Error::DnsError { rcode: None, info_code: None })?;
    let first = *found.first().ok_or(Error::DestinationNotFound)?;
    let allowed = found.into_iter().filter(|found| origins.may_lead_to(&rule.origin, found.ip()));
    let mut failure = ConnectFailure::LeadsInside(first.ip());
    for address in allowed.take(TRIED) {
        match TcpStream::connect(address).await {
            Ok(stream) if origin.is_tls => return Ok(Box::new(secure(origin, stream).await?)),
            Ok(stream) => return Ok(Box::new(stream)),
            Err(error) => failure = Error::Connect(error).into(),
        }
    }
    Err(failure)
}

async fn secure(origin: &Origin, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
    let connector = TlsConnector::from(trust().ok_or(Error::ConfigurationError)?);
    let name = ServerName::try_from(origin.host.clone()).map_err(|_| Error::HttpRequestUriInvalid)?;
    connector.connect(name, stream).await.map_err(Error::Tls)
}

/// Returns the certificates that this machine trusts, read once. None if it trusts none.
fn trust() -> Option<Arc<ClientConfig>> {
    static TRUST: OnceLock<Option<Arc<ClientConfig>>> = OnceLock::new();
    let read = || {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "cannot read some of this machine's trusted certificates");
        }
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::error!("this machine trusts no certificates, so https does not work; install ca-certificates");
            return None;
        }
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Some(Arc::new(config))
    };
    TRUST.get_or_init(read).clone()
}

/// The body of a response, limited in size and time.
struct Bounded {
    incoming: hyper::body::Incoming,
    left: usize,
    most: usize,
    end: Pin<Box<Sleep>>,
    /// Longest time between two frames, and the timer of the current pause.
    between: Option<Duration>,
    quiet: Option<Pin<Box<Sleep>>>,
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if this.end.as_mut().poll(context).is_ready() {
            return Poll::Ready(Some(Err(Error::HttpResponseTimeout)));
        }
        let frame = match Pin::new(&mut this.incoming).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let Some(between) = this.between else { return Poll::Pending };
                let quiet = this.quiet.get_or_insert_with(|| Box::pin(tokio::time::sleep(between)));
                return match quiet.as_mut().poll(context) {
                    Poll::Ready(()) => Poll::Ready(Some(Err(Error::ConnectionReadTimeout))),
                    Poll::Pending => Poll::Pending,
                };
            }
        };
        this.quiet = None;
        let Some(frame) = frame else { return Poll::Ready(None) };
        let frame = frame?;
        let length = frame.data_ref().map_or(0, Bytes::len);
        match this.left.checked_sub(length) {
            Some(left) => this.left = left,
            None => return Poll::Ready(Some(Err(Error::HttpResponseBodySize(Some(this.most as u64))))),
        }
        // Trailers are dropped: guests do not get them.
        Poll::Ready(Some(Ok(if frame.is_trailers() { Frame::trailers(HeaderMap::new()) } else { frame })))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
