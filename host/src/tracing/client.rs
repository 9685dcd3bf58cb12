use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Bytes of an answer: a collector says little.
const LARGEST_ANSWER: usize = 64 << 10;

/// Sends requests on a runtime, for threads that are not on it.
#[derive(Debug)]
struct Sender<C> {
    client: Client<C, Full<Bytes>>,
    runtime: Handle,
    timeout: Duration,
}

/// Over TLS with the certificates the machine trusts, or without.
pub(super) fn client(is_secure: bool, timeout: Duration) -> std::io::Result<Arc<dyn HttpClient>> {
    let runtime = Handle::current();
    if !is_secure {
        let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        return Ok(Arc::new(Sender { client, runtime, timeout }));
    }
    let connector = HttpsConnectorBuilder::new().with_native_roots()?.https_only().enable_http1().build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    Ok(Arc::new(Sender { client, runtime, timeout }))
}

#[async_trait]
impl<C: Connect + Clone + Send + Sync + std::fmt::Debug + 'static> HttpClient for Sender<C> {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, request) = (self.client.clone(), request.map(Full::new));
        let sent = async move {
            let (head, body) = client.request(request).await?.into_parts();
            let body = Limited::new(body, LARGEST_ANSWER).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, body))
        };
        let timeout = self.timeout;
        self.runtime.spawn(async move { tokio::time::timeout(timeout, sent).await? }).await?
    }
}
