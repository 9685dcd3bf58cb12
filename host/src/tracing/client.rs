use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;

/// Longest answer that is read, in bytes: a collector's answers are short.
const LARGEST_ANSWER: usize = 64 << 10;

/// The reason why the last request failed, or none if it succeeded: the exporter's own error has no reason.
pub(super) type LastRequestError = Arc<Mutex<Option<String>>>;

/// Sends requests on a runtime, for threads outside of it.
#[derive(Debug)]
struct RuntimeHttpClient<C> {
    why: LastRequestError,
    client: Client<C, Full<Bytes>>,
    runtime: Handle,
    timeout: Duration,
}

/// Makes a client; if `is_secure`, for TLS with the certificates that the machine trusts.
pub(super) fn client(
    is_secure: bool,
    timeout: Duration,
    why: LastRequestError,
) -> std::io::Result<Arc<dyn HttpClient>> {
    let runtime = Handle::current();
    if !is_secure {
        let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        return Ok(Arc::new(RuntimeHttpClient { why, client, runtime, timeout }));
    }
    let connector = HttpsConnectorBuilder::new().with_native_roots()?.https_only().enable_http1().build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    Ok(Arc::new(RuntimeHttpClient { why, client, runtime, timeout }))
}

#[async_trait]
impl<C: Connect + Clone + Send + Sync + std::fmt::Debug + 'static> HttpClient for RuntimeHttpClient<C> {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, request) = (self.client.clone(), request.map(Full::new));
        let sent = async move {
            let (head, body) = client.request(request).await?.into_parts();
            let body = Limited::new(body, LARGEST_ANSWER).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        let timeout = self.timeout;
        let sent = self.runtime.spawn(async move { tokio::time::timeout(timeout, sent).await? }).await?;
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = match &sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("the collector answered {}", answer.status())),
            Err(error) => Some(chain(&**error)),
        };
        sent
    }
}

/// Formats an error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
