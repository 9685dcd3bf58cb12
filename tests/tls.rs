use crate::harness::{Host, verbs};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

struct Secure {
    host: Host,
    certificate: CertificateDer<'static>,
    _files: TempDir,
}

fn host() -> Secure {
    let files = TempDir::new().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(files.path().join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(files.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let config = format!(
        "poll.interval = '100ms'\ntls = {{ cert = '{0}/cert.pem', key = '{0}/key.pem' }}\n[[instances]]\nid = 'count'\n",
        files.path().display()
    );
    let host = Host::start(&config, &[("verbs", verbs())]);
    Secure { host, certificate: made.cert.der().clone(), _files: files }
}

async fn connect(Secure { host, certificate, .. }: &Secure, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let socket = TcpStream::connect(&host.address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap()
}

/// The first samples of a stream.
async fn samples(mut answer: Response<Incoming>, count: usize) -> String {
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    while text.matches("event: usage").count() < count {
        let frame = answer.body_mut().frame().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn http_2_carries_many_requests_and_streams_on_one_connection() {
    let secure = host();
    let tls = connect(&secure, &[b"h2", b"http/1.1"]).await;
    assert_eq!(tls.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let mut ask = |path: &str| {
        let request = Request::get(format!("https://localhost{path}")).body(Empty::<Bytes>::new()).unwrap();
        client.send_request(request)
    };
    let stream = ask("/v1/instances/count/usage/stream").await.unwrap();
    let other = ask("/v1/stream?instance=count").await.unwrap();
    let text = samples(stream, 3).await;
    assert!(text.starts_with("retry: 3000\n\nevent: usage\nid: "), "{text}");
    assert!(samples(other, 3).await.contains("data: {\"instance\":\"count\",\"sample\":{"));
    let listed = ask("/v1/instances").await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(std::str::from_utf8(&listed).unwrap().contains("\"id\":\"count\""));
}

#[tokio::test]
async fn who_does_not_speak_it_gets_http_1_1() {
    let secure = host();
    for protocols in [&[&b"http/1.1"[..]][..], &[]] {
        let tls = connect(&secure, protocols).await;
        let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/v1/instances/count/usage/stream").header("host", "localhost");
        let answer = client.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert!(samples(answer, 2).await.starts_with("retry: 3000\n\n"));
    }
}

#[test]
fn a_certificate_that_cannot_be_used_is_named_at_the_start() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("dropsonde.toml");
    std::fs::write(folder.path().join("empty.pem"), "").unwrap();
    for (tls, why) in [
        ("cert = 'no.pem', key = 'no.pem'", "no.pem"),
        ("cert = 'empty.pem', key = 'empty.pem'", "empty.pem"),
        ("cert = 'empty.pem'", "a cert and a key"),
    ] {
        std::fs::write(&file, format!("tls = {{ {tls} }}\n")).unwrap();
        let mut command = crate::harness::dropsonde();
        command.current_dir(folder.path()).args(["serve", "--memory-only", "--listen", "127.0.0.1:0", "--config"]);
        let (code, _, error) = crate::harness::run(command.arg(&file));
        assert!(code == 1 && error.contains(why), "{tls}: {error}");
    }
}
