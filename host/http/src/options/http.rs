use dropsonde_engine::memory::of_pool;
use dropsonde_model::{InvalidValue, Size, Span};
use serde::Deserialize;
use std::time::Duration;

/// `[http]`: who is answered, and how much of the host one client may take.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Names the host is asked for by, beside `localhost`, addresses, the machine's name, and those of its certificate; `*`
    /// is any. Others are refused: a page of a stranger could give its own name this address.
    pub hosts: Vec<String>,
    /// Pages of these origins (`https://dash.example.com`) may read answers. None by default.
    pub cors_origins: Vec<String>,
    /// Beside streams, which have a bound of their own; and as an eighth of the memory this process may have is enough for, at
    /// 32 KiB each.
    pub max_connections: usize,
    /// Of one address (IPv6: one /64). None: 1000 of another machine's, of this one's three quarters of all.
    pub max_connections_per_peer: Option<usize>,
    /// Time to send a request's head, to agree on TLS before it, and to begin another request on a connection. This and the
    /// other times of connections are as they are said when one begins.
    pub header_timeout: Span,
    /// Time to send a body, and a second more for each 16 KiB of it.
    pub read_timeout: Span,
    /// Time a client may take nothing of its answer.
    pub write_timeout: Span,
    /// Size of a request's head.
    pub max_header: Size,
    /// Size of a body, other than a plugin's.
    pub max_body: Size,
    /// Range queries that are worked on at a time, half of them of one peer; others wait for their turn, for 5 s.
    pub max_range_queries: usize,
    /// Size of memory that answers on their way may take (range queries, lists, scrapes), and large bodies; half of them of one
    /// peer. None: an
    /// eighth of the memory this process may have, at least 32 MiB and at most 256 MiB.
    pub max_answer_bytes: Option<Size>,
    /// Permissions of a Unix socket, like `0o660`.
    pub socket_mode: u32,
}

/// Size that a connection takes whose request is being read, or answered.
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
            // Ours are short; cookies of other programs on the same name may not be.
            max_header: Size::new(32 << 10),
            max_body: Size::new(8 << 20),
            // Most wait for a disk, if for anything.
            max_range_queries: 64,
            max_answer_bytes: None,
            socket_mode: 0o600,
        }
    }
}

impl HttpConfig {
    /// Connections that there may be in what memory this process may have.
    pub fn connections(&self, memory: usize) -> usize {
        const LEAST: usize = 1000;
        self.max_connections.min((memory / 8 / OF_CONNECTION).max(LEAST))
    }

    /// Bytes of memory that clients may come to need, of those this process may have.
    pub fn bytes(&self, memory: usize) -> u64 {
        (self.answer_bytes(memory) + self.connections(memory) * OF_CONNECTION) as u64
    }

    /// Size that answers may take of those this process may have.
    pub fn answer_bytes(&self, memory: usize) -> usize {
        self.max_answer_bytes.map_or_else(|| of_pool(memory), Size::get)
    }

    pub fn check(&self) -> Result<(), InvalidValue> {
        if let Some(host) = self.hosts.iter().find(|host| *host != "*" && !is_name(host)) {
            return InvalidValue::of("http.hosts", &format!("{host:?} is no name; write it without a scheme or port"));
        }
        if let Some(origin) = self.cors_origins.iter().find(|origin| !is_origin(origin)) {
            let why = format!("{origin:?} is no origin; write it like https://dash.example.com, without a path");
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
            return InvalidValue::of("http.socket_mode", "must be permissions, like 0o660");
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
