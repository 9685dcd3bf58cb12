use dropsonde_engine::memory::default_answer_bytes;
use dropsonde_model::{InvalidValue, Size, Span};
use serde::Deserialize;
use std::time::Duration;

/// `[http]`: host names and origins that are accepted, and the limits of clients.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Names of this host in requests, beside `localhost`, IP addresses, the machine's name and the names in the
    /// certificate; `*` is any name. Other names are refused: a page of a stranger could give its own name this
    /// address.
    pub hosts: Vec<String>,
    /// Origins (`https://dash.example.com`) whose pages may read answers. None by default.
    pub cors_origins: Vec<String>,
    /// The largest number of open connections, without streams, which have a limit of their own. At 32 KiB each, they
    /// also have to fit an eighth of the memory that this process may have.
    pub max_connections: usize,
    /// The largest number of connections of one address (IPv6: one /64). None: 1000 for another machine, three quarters
    /// of all for this one.
    pub max_connections_per_peer: Option<usize>,
    /// The time to send a request head, for the TLS handshake before it, and to begin the next request on a connection.
    /// A connection keeps the timeouts that were configured when it began.
    pub header_timeout: Span,
    /// The time to send a body; each 16 KiB of it add a second.
    pub read_timeout: Span,
    /// The longest time for which a client may take nothing of its answer.
    pub write_timeout: Span,
    /// The largest size of a request head.
    pub max_header: Size,
    /// The largest size of a body, except for uploads of plugins.
    pub max_body: Size,
    /// The largest number of concurrent range queries, half of them for one client. Others wait for up to 5 s.
    pub max_range_queries: usize,
    /// Memory for unfinished answers (range queries, lists, scrapes) and large request bodies, half of it for one
    /// client. None: an eighth of the memory that this process may have, at least 32 MiB and at most 256 MiB.
    pub max_answer_bytes: Option<Size>,
    /// Permissions of the Unix socket, like `0o660`.
    pub socket_mode: u32,
}

/// Bytes of memory that a connection takes while its request is read or answered.
pub const OF_CONNECTION: usize = 32 << 10;

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            cors_origins: Vec::new(),
            max_connections: 20_000,
            max_connections_per_peer: None,
            header_timeout: Span::from_secs(10),
            read_timeout: Span::from_secs(30),
            write_timeout: Span::from_secs(30),
            // The host's own headers are short; cookies of other programs on the same host name may not be.
            max_header: Size::new(32 << 10),
            max_body: Size::new(8 << 20),
            // Range queries wait for a disk, if for anything.
            max_range_queries: 64,
            max_answer_bytes: None,
            socket_mode: 0o600,
        }
    }
}

impl HttpConfig {
    /// Returns the largest number of connections, given the memory that this process may have.
    pub fn connections(&self, memory: usize) -> usize {
        const LEAST: usize = 1000;
        self.max_connections.min((memory / 8 / OF_CONNECTION).max(LEAST))
    }

    /// Returns the bytes of memory that clients may come to need, given the memory that this process may have.
    pub fn bytes(&self, memory: usize) -> u64 {
        (self.answer_bytes(memory) + self.connections(memory) * OF_CONNECTION) as u64
    }

    /// Returns the bytes of memory that answers may take, given the memory that this process may have.
    pub fn answer_bytes(&self, memory: usize) -> usize {
        self.max_answer_bytes.map_or_else(|| default_answer_bytes(memory), Size::get)
    }

    pub fn check(&self) -> Result<(), InvalidValue> {
        if let Some(host) = self.hosts.iter().find(|host| *host != "*" && !is_name(host)) {
            return InvalidValue::of(
                "http.hosts",
                &format!("{host:?} is not a host name; write it without a scheme or port"),
            );
        }
        if let Some(origin) = self.cors_origins.iter().find(|origin| !is_origin(origin)) {
            let why = format!("{origin:?} is not an origin; write it like https://dash.example.com, without a path");
            return InvalidValue::of("http.cors_origins", &why);
        }
        for (key, count) in [
            ("http.max_connections", self.max_connections),
            ("http.max_range_queries", self.max_range_queries),
            ("http.max_connections_per_peer", self.max_connections_per_peer.unwrap_or(1)),
        ] {
            if !(1..=1_000_000).contains(&count) {
                return InvalidValue::of(key, "must be at least 1 and at most 1000000");
            }
        }
        for (key, span) in [
            ("http.header_timeout", self.header_timeout),
            ("http.read_timeout", self.read_timeout),
            ("http.write_timeout", self.write_timeout),
        ] {
            if !(Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(&span.get()) {
                return InvalidValue::of(key, "must be at least 100ms and at most 1d");
            }
        }
        if !(8 << 10..=1 << 20).contains(&self.max_header.get()) {
            return InvalidValue::of("http.max_header", "must be at least 8KiB and at most 1MiB");
        }
        if !(1 << 10..=1 << 30).contains(&self.max_body.get()) {
            return InvalidValue::of("http.max_body", "must be at least 1KiB and at most 1GiB");
        }
        if self.max_answer_bytes.is_some_and(|bytes| bytes.get() < 4 << 20) {
            return InvalidValue::of("http.max_answer_bytes", "must be at least 4MiB");
        }
        if self.socket_mode > 0o777 {
            return InvalidValue::of("http.socket_mode", "must be file permissions, like 0o660");
        }
        Ok(())
    }
}

fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    matches!(scheme, "http" | "https")
        && authority.parse::<hyper::http::uri::Authority>().is_ok_and(|authority| !authority.as_str().contains('@'))
}
