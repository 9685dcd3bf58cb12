use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

/// Longest wait for bytes, enough on a loaded machine; reached only when something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// A complete response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Headers, with names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// An open stream: its head was read, its body is read event by event.
pub(crate) struct EventStream {
    pub(crate) head: Response,
    body: BufReader<TcpStream>,
    pending: Vec<u8>,
}

impl Response {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Connects from one of this machine's addresses: the host sees each address as another client. The receive
/// buffer is small, so that the kernel holds little that the test has not read.
pub(crate) fn connect_from(from: Ipv4Addr, address: &str) -> TcpStream {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
    // A host that another test starts must not inherit it.
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddrV4::new(from, 0)).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
    connect(&socket, &address.parse::<SocketAddrV4>().unwrap()).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends a request without a body. `headers` are whole lines.
pub(crate) fn request(address: &str, method: &str, path: &str, headers: &str) -> Response {
    send(address, method, path, headers, &[])
}

/// Sends a request with a body.
pub(crate) fn send(address: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> Response {
    let (mut head, body) = send_and_read_bytes(address, method, path, headers, body);
    head.body = String::from_utf8(body).unwrap();
    head
}

/// Sends a request, and returns the response's body as bytes.
pub(crate) fn send_and_read_bytes(
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> (Response, Vec<u8>) {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let (head, mut body) = open(address, method, path, &format!("Connection: close\r\n{length}{headers}"), body);
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes).unwrap();
    (head, bytes)
}

/// Opens a stream. `headers` are whole lines.
pub(crate) fn stream(address: &str, path: &str, headers: &str) -> EventStream {
    let (head, body) = open(address, "GET", path, &format!("Connection: keep-alive\r\n{headers}"), &[]);
    EventStream { head, body, pending: Vec::new() }
}

fn open(address: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> (Response, BufReader<TcpStream>) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(socket, "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").unwrap();
    // A server that refuses early may not read the whole body.
    let _ = socket.write_all(body);
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("no status line: {line:?}")).parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    (Response { status, headers, body: String::new() }, reader)
}

impl EventStream {
    /// Returns the next event, with its blank line.
    pub(crate) fn next_raw_event(&mut self) -> String {
        self.next().expect("the stream has another event")
    }

    /// Returns the next event, or none if the server ended the stream with the last chunk and did not cut the
    /// connection.
    pub(crate) fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.pending.windows(2).position(|pair| pair == b"\n\n") {
                let event = self.pending.drain(..end + 2).collect();
                return Some(String::from_utf8(event).unwrap());
            }
            let Some(chunk) = self.chunk() else {
                assert!(self.pending.is_empty(), "the stream ended inside an event");
                return None;
            };
            self.pending.extend_from_slice(chunk.as_bytes());
        }
    }

    /// Returns the next chunk of the body, or none at its end.
    pub(crate) fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        self.body.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap_or_else(|_| panic!("no chunk: {size:?}"));
        let mut chunk = vec![0; size + 2];
        self.body.read_exact(&mut chunk).unwrap();
        chunk.truncate(size);
        (size > 0).then(|| String::from_utf8(chunk).unwrap())
    }

    /// Returns the body of a response that is no stream, sent whole or in chunks.
    pub(crate) fn read_body(mut self) -> String {
        let Some(length) = self.head.header("content-length") else {
            return std::iter::from_fn(|| self.chunk()).collect();
        };
        let mut body = vec![0; length.parse().unwrap()];
        self.body.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }

    /// Returns the type, the id and the data of the next event, without pings.
    pub(crate) fn next_event(&mut self) -> (String, String, serde_json::Value) {
        loop {
            let event = self.next_raw_event();
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            if let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) {
                return (field("event: ").to_owned(), field("id: ").to_owned(), serde_json::from_str(data).unwrap());
            }
        }
    }

    /// Returns the data of the next event, without pings.
    pub(crate) fn next_sample(&mut self) -> serde_json::Value {
        loop {
            let event = self.next_raw_event();
            if let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}
