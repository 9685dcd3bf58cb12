//! Requests over sockets, one after the other: enough to try a plugin.

use super::{HttpError, Progress, Request, Response, Take, parts};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Sends the requests one after the other, each with the whole timeout. That is enough to try a plugin.
pub(super) fn exchange_all(requests: &[Request], timeout: Duration, take: &mut Take<'_>) {
    for (nth, request) in requests.iter().enumerate() {
        let _ = take(nth, Progress::Sent);
        let sent = send(request, request.timeout.unwrap_or(timeout).min(timeout));
        let end = sent.map(|mut response| {
            let body = std::mem::take(&mut response.body);
            if take(nth, Progress::Head(&response)).is_continue() {
                let _ = take(nth, Progress::Body(&body));
            }
        });
        let _ = take(nth, Progress::End(end.map_err(|error| failed(&request.url, &error))));
    }
}

fn failed(url: &str, error: &std::io::Error) -> HttpError {
    let url = url.to_owned();
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => HttpError::Timeout(url),
        ErrorKind::InvalidInput => HttpError::NotAUrl(url),
        _ => HttpError::Other(url, error.to_string()),
    }
}

fn send(request: &Request, timeout: Duration) -> std::io::Result<Response> {
    let (_, authority, path) =
        parts(&request.url).filter(|(scheme, ..)| *scheme == "http").ok_or(ErrorKind::InvalidInput)?;
    let with_port = if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
    let address = with_port.to_socket_addrs()?.next().ok_or(ErrorKind::NotFound)?;
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    // With HTTP/1.0 the body ends with the connection.
    let mut bytes = format!("{} {path} HTTP/1.0\r\nhost: {authority}\r\n", request.method).into_bytes();
    for (name, value) in &request.headers {
        bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    if !request.body.is_empty() {
        bytes.extend_from_slice(format!("content-length: {}\r\n", request.body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&request.body);
    stream.write_all(&bytes)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or(ErrorKind::InvalidData)?;
    let body = bytes.split_off(head + 4);
    let head = String::from_utf8_lossy(&bytes);
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().as_bytes().to_vec()))
    };
    Ok(Response { status: status.ok_or(ErrorKind::InvalidData)?, headers: lines.filter_map(header).collect(), body })
}
