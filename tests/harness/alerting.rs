//! Values that a test sets, for rules, and a server that keeps its requests, for alerts.

use super::MadeServer;
use super::host::{Host, wait_until};
use super::kept_requests::{Request, answer_requests};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

/// Series that a test sets, and that the host scrapes.
pub(crate) struct Measured {
    server: MadeServer,
    text: Arc<Mutex<String>>,
}

/// Starts a host with the rules of a file in its folder. Keys of the whole come before sections, which `more` can have.
pub(crate) fn host_with_rules(measured: &Measured, rules: &str, more: &str) -> Host {
    let host = Host::start(&format!("rules = ['rules/*.yml']\n{}{more}", measured.config()), &[]);
    put_rules(&host, "a.yml", rules);
    host
}

/// Writes a rule file at once, and waits until it is in force or refused.
pub(crate) fn put_rules(host: &Host, name: &str, rules: &str) {
    let folder = host.folder().join("rules");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("new"), rules).unwrap();
    fs::rename(folder.join("new"), folder.join(name)).unwrap();
    host.send_as_admin("POST", "/v1/reload", b"");
}

impl Measured {
    /// `text` is an exposition.
    pub(crate) fn start(text: &str) -> Self {
        let text = Arc::new(Mutex::new(text.to_owned()));
        let shown = text.clone();
        Self { server: MadeServer::start(move |_, _| (200, shown.lock().unwrap().clone())), text }
    }

    pub(crate) fn set(&self, text: &str) {
        *self.text.lock().unwrap() = text.to_owned();
    }

    /// Returns the part of the configuration with which a host scrapes it five times a second.
    pub(crate) fn config(&self) -> String {
        format!(
            "poll.interval = '200ms'\nexternal_name = 'me'\n[plugins.procfs]\ninterval = '1h'\n\
             [[plugins.scrape.config.targets]]\nid = 'app'\nurl = '{}'\nkeep = 'all'\n",
            self.server.url("/m")
        )
    }
}

/// A request to a [`Receiver`].
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Lines, with the names in lower case.
    pub(crate) headers: Vec<String>,
    pub(crate) body: String,
}

/// The answer of a [`Receiver`]: a status, and further header lines.
type Answer = (u16, String);

/// A server that keeps what it gets. It ends with the test run.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    answer: Arc<Mutex<Answer>>,
}

impl Received {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

impl Receiver {
    pub(crate) fn start() -> Self {
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let answer = Arc::new(Mutex::new((200, String::new())));
        let (kept, said) = (received.clone(), answer.clone());
        let address = answer_requests(move |request| {
            let Request { method, path, headers, body } = request;
            kept.lock().unwrap().push(Received { method, path, headers, body: String::from_utf8(body).unwrap() });
            let (status, more) = said.lock().unwrap().clone();
            (status, more, Vec::new())
        });
        Self { address, received, answer }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Answers all further requests with a status and further header lines. Status 0: not at all.
    pub(crate) fn answer(&self, status: u16, headers: &str) {
        *self.answer.lock().unwrap() = (status, headers.to_owned());
    }

    /// Returns all requests so far, also those that were refused.
    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    /// Waits until requests are as wanted, and returns all of them.
    pub(crate) fn until(&self, what: &str, wanted: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        wait_until(what, || wanted(&self.received()));
        self.received()
    }

    /// Waits for a number of requests.
    pub(crate) fn until_count(&self, count: usize) -> Vec<Received> {
        let mut last = 0;
        wait_until(&format!("there are not {count} requests"), || {
            last = self.received().len();
            last >= count
        });
        self.received()
    }
}
