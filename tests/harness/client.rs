use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::time::Duration;

/// Long enough for a loaded machine; only ever reached when something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// An open stream: the head was read, the body comes event by event.
pub(crate) struct Stream {
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

/// A connection from an address of this machine: one host sees each as a peer of its own. It takes little at a time, so that
/// what is not read is not on its way either.
pub(crate) fn connect_from(from: Ipv4Addr, address: &str) -> TcpStream {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(from, 0)).unwrap();
    sockopt::set_socket_recv_buffer_size(&socket, 4096).unwrap();
    connect(&socket, &address.parse::<SocketAddrV4>().unwrap()).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// `headers` are whole lines.
pub(crate) fn request(address: &str, method: &str, path: &str, headers: &str) -> Response {
    send(address, method, path, headers, &[])
}

/// The same with a body.
pub(crate) fn send(address: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> Response {
    let (mut head, body) = bytes(address, method, path, headers, body);
    head.body = String::from_utf8(body).unwrap();
    head
}

/// An answer whose body is no text.
pub(crate) fn bytes(address: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> (Response, Vec<u8>) {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let (head, mut body) = open(address, method, path, &format!("Connection: close\r\n{length}{headers}"), body);
    let mut bytes = Vec::new();
    body.read_to_end(&mut bytes).unwrap();
    (head, bytes)
}

/// `headers` are whole lines.
pub(crate) fn stream(address: &str, path: &str, headers: &str) -> Stream {
    let (head, body) = open(address, "GET", path, &format!("Connection: keep-alive\r\n{headers}"), &[]);
    Stream { head, body, pending: Vec::new() }
}

fn open(address: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> (Response, BufReader<TcpStream>) {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(socket, "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n").unwrap();
    // A server that refuses early may not read all of it.
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

impl Stream {
    /// The next event, up to and with its blank line.
    pub(crate) fn event(&mut self) -> String {
        self.next().expect("the stream goes on")
    }

    /// None when the server ended the stream properly: with the last chunk, not with a cut connection.
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

    /// The next chunk of the body; none when it is over.
    pub(crate) fn chunk(&mut self) -> Option<String> {
        let mut size = String::new();
        self.body.read_line(&mut size).unwrap();
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap_or_else(|_| panic!("no chunk: {size:?}"));
        let mut chunk = vec![0; size + 2];
        self.body.read_exact(&mut chunk).unwrap();
        chunk.truncate(size);
        (size > 0).then(|| String::from_utf8(chunk).unwrap())
    }

    /// The body of an answer that is no stream, in one piece or in several.
    pub(crate) fn whole(mut self) -> String {
        let Some(length) = self.head.header("content-length") else {
            return std::iter::from_fn(|| self.chunk()).collect();
        };
        let mut body = vec![0; length.parse().unwrap()];
        self.body.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }

    /// The next event that is no ping: its type, its id, its data.
    pub(crate) fn told(&mut self) -> (String, String, serde_json::Value) {
        loop {
            let event = self.event();
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            if let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) {
                return (field("event: ").to_owned(), field("id: ").to_owned(), serde_json::from_str(data).unwrap());
            }
        }
    }

    /// The next `usage` event's data; pings are passed over.
    pub(crate) fn sample(&mut self) -> serde_json::Value {
        loop {
            let event = self.event();
            if let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}
