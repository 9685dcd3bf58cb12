use crate::harness::{Host, dropsonde, run, verbs};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

struct TlsHost {
    host: Host,
    certificate: CertificateDer<'static>,
    files: TempDir,
}

fn tls_host() -> TlsHost {
    tls_host_with("")
}

/// Starts a host with TLS. `more`: keys of `[tls]`; `{}` in it is the folder of its files.
fn tls_host_with(more: &str) -> TlsHost {
    let files = TempDir::new().unwrap();
    let certificate = write_certificate(&files, "localhost");
    let here = files.path().display().to_string();
    let config = format!(
        "poll.interval = '100ms'\n[[instances]]\nid = 'count'\n[tls]\ncert = '{here}/cert.pem'\nkey = '{here}/key.pem'\n{}",
        more.replace("{}", &here)
    );
    TlsHost { host: Host::start(&config, &[("verbs", verbs())]), certificate, files }
}

/// Writes a certificate for a name, and its key, to the files that the host reads.
fn write_certificate(files: &TempDir, name: &str) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    for (file, pem) in [("key.pem", made.signing_key.serialize_pem()), ("cert.pem", made.cert.pem())] {
        std::fs::write(files.path().join("half"), pem).unwrap();
        std::fs::rename(files.path().join("half"), files.path().join(file)).unwrap();
    }
    made.cert.der().clone()
}

/// Makes an authority for client certificates; that of the client `ops` is in `NAME.pem` and `NAME.key`.
fn make_client_authority(files: &TempDir, name: &str) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new([]).unwrap();
    ca.distinguished_name.push(rcgen::DnType::CommonName, name);
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let write = |file: String, pem: String| std::fs::write(files.path().join(file), pem).unwrap();
    write(format!("{name}-ca.pem"), ca.self_signed(&key).unwrap().pem());
    let issuer = rcgen::Issuer::new(ca, key);
    let own = rcgen::KeyPair::generate().unwrap();
    let mut client = rcgen::CertificateParams::new([]).unwrap();
    client.distinguished_name.push(rcgen::DnType::CommonName, "ops");
    client.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    write(format!("{name}.pem"), client.signed_by(&own, &issuer).unwrap().pem());
    write(format!("{name}.key"), own.serialize_pem());
}

/// Sends a request by `openssl s_client`, and returns all its output.
fn request_by_openssl(TlsHost { host, .. }: &TlsHost, request: &str, args: &[&str]) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &host.address, "-servername", "localhost", "-ign_eof"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is on this machine: `apt install openssl`");
    let asked =
        write!(child.stdin.take().unwrap(), "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    drop(asked);
    let Output { stdout, stderr, .. } = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr)
}

async fn connect(secure: &TlsHost, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
    connect_from(Ipv4Addr::LOCALHOST, secure, protocols).await
}

/// Connects from an address of this machine: the host sees each as a peer of its own.
async fn connect_from(from: Ipv4Addr, secure: &TlsHost, protocols: &[&[u8]]) -> TlsStream<TcpStream> {
    let TlsHost { host, certificate, .. } = secure;
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let socket = socket.connect(host.address.parse().unwrap()).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), socket).await.unwrap()
}

/// Reads the first samples of a stream.
async fn read_samples(mut answer: Response<Incoming>, count: usize) -> String {
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut text = String::new();
    while text.matches("event: usage").count() < count {
        let frame = answer.body_mut().frame().await.unwrap().unwrap();
        text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn http_2_carries_requests_and_streams_on_one_connection() {
    let secure = tls_host();
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
    let text = read_samples(stream, 3).await;
    assert!(text.starts_with("retry: 3000\n\n") && text.contains("\n\nevent: usage\nid: "), "{text}");
    assert!(read_samples(other, 3).await.contains("data: {\"instance\":\"count\",\"sample\":{"));
    let listed = ask("/v1/instances").await.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert!(std::str::from_utf8(&listed).unwrap().contains("\"id\":\"count\""));
}

#[tokio::test]
async fn clients_that_do_not_offer_http_2_get_http_1_1() {
    let secure = tls_host();
    for protocols in [&[&b"http/1.1"[..]][..], &[]] {
        let tls = connect(&secure, protocols).await;
        let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/v1/instances/count/usage/stream").header("host", "localhost");
        let answer = client.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert!(read_samples(answer, 2).await.starts_with("retry: 3000\n\n"));
    }
}

#[test]
fn a_start_with_an_unusable_certificate_fails_and_names_it() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("dropsonde.toml");
    std::fs::write(folder.path().join("empty.pem"), "").unwrap();
    for (tls, why) in [
        ("cert = 'no.pem', key = 'no.pem'", "no.pem"),
        ("cert = 'empty.pem', key = 'empty.pem'", "empty.pem"),
        ("cert = 'empty.pem'", "a cert and a key"),
        ("min_version = '1.1'", "1.1"),
    ] {
        std::fs::write(&file, format!("tls = {{ {tls} }}\n")).unwrap();
        let mut command = crate::harness::dropsonde();
        command.current_dir(folder.path()).args(["serve", "--memory-only", "--listen", "127.0.0.1:0", "--config"]);
        let (code, _, error) = crate::harness::run(command.arg(&file));
        assert!(code == 1 && error.contains(why), "{tls}: {error}");
    }
}

#[test]
fn tls_versions_below_the_configured_minimum_are_refused() {
    for (more, is_spoken) in [("", true), ("min_version = '1.3'\n", false)] {
        let secure = tls_host_with(more);
        assert!(request_by_openssl(&secure, "GET /health", &["-tls1_3"]).contains("HTTP/1.1 200"));
        let older = request_by_openssl(&secure, "GET /health", &["-tls1_2"]);
        assert_eq!(older.contains("HTTP/1.1 200"), is_spoken, "{older}");
        assert!(is_spoken || older.contains("protocol version"), "{older}");
        assert!(!request_by_openssl(&secure, "GET /health", &["-tls1_1"]).contains("HTTP/1.1"));
    }
}

#[test]
fn clients_without_a_trusted_certificate_are_refused_and_trusted_ones_are_audited_by_name() {
    let files = TempDir::new().unwrap();
    make_client_authority(&files, "ours");
    make_client_authority(&files, "theirs");
    let file = |name: &str| files.path().join(name).display().to_string();
    let secure = tls_host_with(&format!("client_ca = '{}'\n", file("ours-ca.pem")));
    for version in ["-tls1_2", "-tls1_3"] {
        let none = request_by_openssl(&secure, "GET /health", &[version]);
        assert!(!none.contains("HTTP/1.1") && none.contains("alert"), "{none}");
        let other = request_by_openssl(
            &secure,
            "GET /health",
            &[version, "-cert", &file("theirs.pem"), "-key", &file("theirs.key")],
        );
        assert!(!other.contains("HTTP/1.1") && other.contains("alert"), "{other}");
        let own = request_by_openssl(
            &secure,
            "GET /v1/instances",
            &[version, "-cert", &file("ours.pem"), "-key", &file("ours.key")],
        );
        assert!(own.contains("HTTP/1.1 200"), "{own}");
    }
    let certificate = ["-cert", &file("ours.pem"), "-key", &file("ours.key")];
    let put = request_by_openssl(&secure, "PUT /v1/instances/a", &certificate);
    assert!(put.contains("HTTP/1.1 401"), "a certificate is no token: {put}");
    let audit = secure.host.until_audited(|line| line["status"] == 401);
    assert_eq!(audit[0]["certificate"], "CN=ops", "{audit:#?}");
    // The command line shows one, too.
    let url = format!("https://localhost:{}", secure.host.address.rsplit(':').next().unwrap());
    let own = secure.files.path().join("cert.pem").display().to_string();
    let ask = |args: &[&str]| run(dropsonde().args(["instances", "--url", &url, "--ca", &own]).args(args));
    let (code, out, error) = ask(&["--cert", &file("ours.pem"), "--key", &file("ours.key")]);
    assert!(code == 0 && out.contains("SAMPLERS"), "{error}");
    let (code, _, error) = ask(&[]);
    assert!(code == 1 && error.contains("https://localhost"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_get_a_replaced_certificate_and_an_invalid_one_is_ignored() {
    let mut secure = tls_host();
    let old = connect(&secure, &[]).await;
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    secure.certificate = write_certificate(&secure.files, "localhost");
    secure.host.signal("HUP");
    secure.host.until_logged("reloaded the configuration");
    let new = connect(&secure, &[]).await;
    assert!(shown(&new) == secure.certificate && shown(&old) != secure.certificate);
    std::fs::write(secure.files.path().join("cert.pem"), "nonsense").unwrap();
    // Nobody tells the host.
    secure.host.until_logged("cannot reload the configuration");
    assert!(shown(&connect(&secure, &[]).await) == secure.certificate);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_certificate_is_served_while_a_plugin_is_slow_to_start_with_its_new_section() {
    let mut secure = tls_host();
    let here = secure.files.path().display().to_string();
    secure.host.until_logged("running");
    secure.host.configure(&format!(
        "poll.interval = '100ms'\n[[instances]]\nid = 'count'\n[tls]\ncert = '{here}/cert.pem'\nkey = '{here}/key.pem'\n\
         [plugins.verbs]\nconfig = {{ init = 'spin' }}\nlimits = {{ init_deadline = '10m' }}\n"
    ));
    secure.host.until_logged("the configuration or a file it names has changed");
    secure.certificate = write_certificate(&secure.files, "localhost");
    secure.host.until_logged("reloaded the certificates");
    let new = connect(&secure, &[]).await;
    assert!(new.get_ref().1.peer_certificates().unwrap()[0] == secure.certificate);
    assert!(!secure.host.log().contains("reloaded the configuration"), "it is still being tried");
}

#[test]
fn host_names_of_the_certificate_are_accepted_and_others_get_421() {
    let files = TempDir::new().unwrap();
    write_certificate(&files, "*.metrics.example.com");
    let here = files.path().display().to_string();
    let host = Host::start(&format!("tls = {{ cert = '{here}/cert.pem', key = '{here}/key.pem' }}\n"), &[]);
    let secure = TlsHost { host, certificate: CertificateDer::from(Vec::new()), files };
    let ask = |name: &str| request_by_openssl(&secure, &format!("GET https://{name}/health"), &[]);
    assert!(ask("fra1.metrics.example.com").contains("HTTP/1.1 200"));
    assert!(ask("evil.example").contains("HTTP/1.1 421"));
}

#[test]
fn a_public_address_with_tls_requires_a_read_token_that_the_host_creates() {
    let files = TempDir::new().unwrap();
    write_certificate(&files, "localhost");
    let here = files.path().display().to_string();
    let config = format!("tls = {{ cert = '{here}/cert.pem', key = '{here}/key.pem' }}\n");
    let host = Host::start_at("0.0.0.0:0", dropsonde(), &config, &[]);
    let url = format!("https://localhost:{}", host.address.rsplit(':').next().unwrap());
    let ca = files.path().join("cert.pem").display().to_string();
    let ask = |args: &[&str]| run(dropsonde().args(["instances", "--url", &url, "--ca", &ca]).args(args));
    let (code, _, error) = ask(&["--data", "/no/such/folder"]);
    assert!(code == 1 && error.contains("needs the read token") && error.contains("--data"), "{error}");
    let (code, out, error) = ask(&["--data", &host.data().display().to_string()]);
    assert!(code == 0 && out.contains("SAMPLERS"), "{error}");
    let (code, _, error) = run(dropsonde().args(["instances", "--url", &url.replace("https", "http")]));
    assert!(code == 1 && error.contains("https://"), "{error}");
    let (code, _, error) = run(dropsonde().args(["instances", "--url", &url]));
    assert!(code == 1 && error.contains("--ca"), "{error}");
}

/// Writes a self-signed certificate as people make one: it is marked as an authority.
fn write_certificate_by_openssl(files: &TempDir, name: &str) {
    let file = |name: &str| files.path().join(name).display().to_string();
    let (key, cert, subject, names) =
        (file("key.pem"), file("cert.pem"), format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
    let arguments =
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", &subject, "-addext", &names];
    let made = Command::new("openssl").args(arguments).args(["-keyout", &key, "-out", &cert]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn the_command_line_trusts_the_certificate_of_the_configuration_or_of_the_ca_option() {
    let files = TempDir::new().unwrap();
    write_certificate_by_openssl(&files, "metrics.example.com");
    let here = files.path().display().to_string();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!("listen = '127.0.0.1:{port}'\ntls = {{ cert = '{here}/cert.pem', key = '{here}/key.pem' }}\n");
    let host = Host::start_at(&format!("127.0.0.1:{port}"), dropsonde(), &config, &[]);
    let toml = host.folder().join("dropsonde.toml").display().to_string();
    let (code, out, error) = run(dropsonde().args(["instances", "--config", &toml]));
    assert!(code == 0 && out.contains("SAMPLERS"), "whatever its name: {error}");
    let url = format!("https://localhost:{port}");
    let ca = format!("{here}/cert.pem");
    let (code, _, error) = run(dropsonde().args(["instances", "--url", &url, "--ca", &ca]));
    assert!(code == 1 && error.contains("--url the name"), "its name counts: {error}");
    write_certificate_by_openssl(&files, "localhost");
    host.until_logged("reloaded the configuration");
    let (code, out, error) = run(dropsonde().args(["instances", "--url", &url, "--ca", &ca]));
    assert!(code == 0 && out.contains("SAMPLERS"), "{error}");
}

async fn http_2_client(tls: TlsStream<TcpStream>) -> (http2::SendRequest<Empty<Bytes>>, tokio::task::JoinHandle<()>) {
    http_2_client_with_window(64, tls).await
}

/// Makes a client. `window`: bytes of each response that the host may send before the client reads any.
async fn http_2_client_with_window(
    window: u32,
    tls: TlsStream<TcpStream>,
) -> (http2::SendRequest<Empty<Bytes>>, tokio::task::JoinHandle<()>) {
    let (client, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(TokioIo::new(tls))
        .await
        .unwrap();
    (client, tokio::spawn(async move { drop(connection.await) }))
}

#[tokio::test]
async fn idle_http_2_connections_and_those_that_read_no_response_are_closed() {
    let secure = tls_host_with("[http]\nheader_timeout = '300ms'\nwrite_timeout = '300ms'\n");
    let (idle, ended) = http_2_client(connect(&secure, &[b"h2"]).await).await;
    ended.await.unwrap();
    drop(idle);
    let (mut client, mut ended) = http_2_client(connect(&secure, &[b"h2"]).await).await;
    let ask = Request::get("https://localhost/openapi.json").body(Empty::<Bytes>::new()).unwrap();
    let mut answer = client.send_request(ask).await.unwrap();
    assert_eq!(answer.status(), 200);
    // The rest does not fit, as nobody takes the first of it.
    tokio::select! {
        _ = &mut ended => {}
        () = tokio::time::sleep(std::time::Duration::from_secs(60)) => panic!("it is held for ever"),
    }
    while let Some(frame) = answer.body_mut().frame().await {
        if frame.is_err() {
            return;
        }
    }
    panic!("all of it came");
}

#[tokio::test]
async fn connections_from_before_client_certificates_were_required_are_no_longer_served() {
    let secure = tls_host();
    make_client_authority(&secure.files, "ours");
    let here = secure.files.path().display().to_string();
    let token = format!("auth.read_token_file = '{here}/read.token'\n");
    let tls = format!("[tls]\ncert = '{here}/cert.pem'\nkey = '{here}/key.pem'\n");
    secure.host.reconfigure(&format!("{token}{tls}"));
    let tls_before = connect(&secure, &[]).await;
    let (mut client, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls_before)).await.unwrap();
    let ended = tokio::spawn(connection);
    let ask = || Request::get("/v1/instances").header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(client.send_request(ask()).await.unwrap().status(), 401);
    secure.host.reconfigure(&format!("{tls}client_ca = '{here}/ours-ca.pem'\n"));
    // The connection is over, or its next request is refused: never more than that.
    if let Ok(answer) = client.send_request(ask()).await {
        assert_eq!(answer.status(), 401);
    }
    drop(client);
    let _ = ended.await;
}

#[tokio::test]
async fn unread_scrapes_of_one_peer_leave_room_for_other_peers_and_are_closed() {
    // Longer than a scrape waits for its place.
    let secure = tls_host_with("[http]\nwrite_timeout = '10s'\n");
    let peer = |last| Ipv4Addr::new(127, 0, 0, last);
    // Of the first nothing is taken; of the last so much that all was handed on.
    tokio::join!(scrape_greedily(&secure, peer(2), 0), scrape_greedily(&secure, peer(3), 1));
    scrape_greedily(&secure, peer(4), 70_000).await;
}

/// Scrapes forty times at once with a window of HTTP/2 that lets only so much through. Another peer gets its scrape.
async fn scrape_greedily(secure: &TlsHost, peer: Ipv4Addr, window: u32) {
    let scrape = || Request::get("https://localhost/metrics").body(Empty::<Bytes>::new()).unwrap();
    let (mut scrapes, mut connections) = (JoinSet::new(), Vec::new());
    for _ in 0..2 {
        let (client, ended) = http_2_client_with_window(window, connect_from(peer, secure, &[b"h2"]).await).await;
        for _ in 0..20 {
            let mut client = client.clone();
            scrapes.spawn(async move { client.send_request(scrape()).await.unwrap() });
        }
        connections.push((client, ended));
    }
    let answers = scrapes.join_all().await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status().as_u16()).collect();
    if window < 70_000 {
        let refused = statuses.iter().filter(|status| **status == 429).count();
        assert_eq!((refused, statuses.iter().filter(|status| **status == 200).count()), (24, 16), "{statuses:?}");
    }
    let (mut modest, _) = http_2_client_with_window(1 << 20, connect(secure, &[b"h2"]).await).await;
    let whole = modest.send_request(scrape()).await.unwrap();
    assert_eq!(whole.status(), 200);
    assert!(!whole.into_body().collect().await.unwrap().to_bytes().is_empty());
    if window < 70_000 {
        for (_, ended) in connections {
            ended.await.unwrap();
        }
        let (mut again, _) = http_2_client_with_window(1 << 20, connect_from(peer, secure, &[b"h2"]).await).await;
        assert_eq!(again.send_request(scrape()).await.unwrap().status(), 200);
    }
}
