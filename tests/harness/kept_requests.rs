//! A server that passes each request to a function and answers what that says. It keeps connections open.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Header lines, with names in lower case.
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
}

/// An answer: a status, further header lines, and a body. Status 0: none at all; 1: garbage.
pub(crate) type Reply = (u16, String, Vec<u8>);

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Starts a server that ends with the test run.
pub(crate) fn answer_requests(answer: impl Fn(Request) -> Reply + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, answer) = (listener.local_addr().unwrap(), Arc::new(answer));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let answer = answer.clone();
            // An error means that the client closed the connection.
            std::thread::spawn(move || serve(&stream, &*answer).ok());
        }
    });
    address
}

fn serve(mut stream: &TcpStream, answer: &dyn Fn(Request) -> Reply) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let lower = |line: &String| match line.split_once(':') {
            Some((name, value)) => format!("{}: {}", name.to_lowercase(), value.trim()),
            None => line.clone(),
        };
        let headers: Vec<String> = lines.iter().skip(1).map(lower).collect();
        let length = headers.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut first = lines.first().map(String::as_str).unwrap_or_default().split(' ').map(str::to_owned);
        let (method, path) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
        let (status, more, body) = answer(Request { method, path, headers, body });
        match status {
            // The client waits until it has no patience left.
            0 => std::thread::park_timeout(std::time::Duration::from_secs(60)),
            1 => stream.write_all(&[0xff; 512])?,
            204 => write!(stream, "HTTP/1.1 204 No Content\r\n{more}\r\n")?,
            _ => {
                write!(stream, "HTTP/1.1 {status} Made\r\n{more}Content-Length: {}\r\n\r\n", body.len())?;
                stream.write_all(&body)?;
            }
        }
    }
}
