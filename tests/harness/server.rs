use rcgen::generate_simple_self_signed;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// An HTTP server that answers each path in another way. It ends with the test run.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
}

impl TestServer {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                // An error means that the client closed the connection.
                std::thread::spawn(move || respond(stream).ok());
            }
        });
        Self { address }
    }

    /// Starts a server with TLS. Returns it with its certificate as PEM.
    pub(crate) fn start_secure() -> (Self, String) {
        let made = generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der().try_into().unwrap());
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
                std::thread::spawn(move || {
                    let _ = stream.read(&mut [0; 1024]);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
                    let _ = stream.flush();
                });
            }
        });
        (Self { address }, made.cert.pem())
    }

    pub(crate) fn origin(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// An HTTP server on a Unix socket that keeps the head of each request. It ends with the test run.
pub(crate) struct SocketServer {
    heads: Arc<Mutex<Vec<String>>>,
}

impl SocketServer {
    pub(crate) fn start(path: &Path) -> Self {
        let (listener, heads) = (UnixListener::bind(path).unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let kept = heads.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = kept.clone();
                std::thread::spawn(move || keep_heads(stream, &kept).ok());
            }
        });
        Self { heads }
    }

    /// Returns the heads of all requests so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// Keeps the heads of all requests of a connection, also of those that nobody should send.
fn keep_heads(mut stream: UnixStream, heads: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut request = BufReader::new(stream.try_clone()?);
    loop {
        let head = head(&mut request)?;
        if head.is_empty() {
            return Ok(());
        }
        heads.lock().unwrap().push(head.clone());
        let length = header(&head, "content-length").and_then(|length| length.parse().ok());
        if header(&head, "transfer-encoding").is_some() {
            chunked_length(&mut request)?;
        }
        std::io::copy(&mut Read::by_ref(&mut request).take(length.unwrap_or(0)), &mut std::io::sink())?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")?;
    }
}

/// Reads the head of a request; nothing at the end of the connection.
fn head(request: &mut impl BufRead) -> std::io::Result<String> {
    let mut head = String::new();
    while request.read_line(&mut head)? > 0 && !head.ends_with("\r\n\r\n") {}
    Ok(head)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let headers = head.lines().filter_map(|line| line.split_once(':'));
    headers.filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

/// Reads a chunked body, and returns its length.
fn chunked_length(request: &mut impl BufRead) -> std::io::Result<u64> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        request.read_line(&mut line)?;
        let size = u64::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
        length += size;
        std::io::copy(&mut Read::by_ref(request).take(size + 2), &mut std::io::sink())?;
        if size == 0 {
            return Ok(length);
        }
    }
}

fn respond(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = BufReader::new(stream.try_clone()?);
    let head = head(&mut request)?;
    let path = head.split(' ').nth(1).unwrap_or_default();
    let endless = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
    match path.split('?').next().unwrap_or_default() {
        "/hello" => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
        "/redirect" => {
            let to = path.split_once('?').map_or("/", |(_, to)| to);
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
        }
        "/echo" => {
            let length = chunked_length(&mut request)?;
            let body = match header(&head, "authorization") {
                Some("Bearer secret") => length.to_string(),
                other => format!("authorization: {other:?}"),
            };
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        }
        "/silent" => read_to_end(&mut stream),
        "/drip" => {
            stream.write_all(endless.as_bytes())?;
            loop {
                stream.write_all(b"x")?;
                std::thread::park_timeout(Duration::from_millis(20));
            }
        }
        "/endless" => {
            stream.write_all(endless.as_bytes())?;
            let chunk = vec![b'x'; 1 << 16];
            loop {
                stream.write_all(&chunk)?;
            }
        }
        "/headers" => {
            let headers: String = (0..40_000).map(|nth| format!("X-{nth}: x\r\n")).collect();
            write!(stream, "HTTP/1.1 200 OK\r\n{headers}Content-Length: 0\r\n\r\n")
        }
        "/nonsense" => stream.write_all(&[0xff; 4096]),
        _ => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"),
    }
}

fn read_to_end(stream: &mut TcpStream) -> std::io::Result<()> {
    std::io::copy(stream, &mut std::io::sink()).map(drop)
}
