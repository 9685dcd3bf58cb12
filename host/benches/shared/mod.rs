//! Helpers for benchmarks of the whole binary.

#![allow(dead_code, reason = "not every benchmark uses all of it")]

use dropsonde_builder::{Crate, Network, Toolchain};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A running host, which is killed when this is dropped.
pub(crate) struct Host {
    child: Child,
    pub(crate) address: String,
}

impl Host {
    /// Starts a host with a data directory and further arguments.
    pub(crate) fn start(data: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dropsonde"))
            .args(["serve", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the host");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut line).expect("its address");
        let address = line.trim().trim_start_matches("listening on http://").to_owned();
        Self { child, address }
    }

    pub(crate) fn get(&self, path: &str) -> BufReader<TcpStream> {
        self.get_with(path, "")
    }

    /// Sends a request with further headers; each is a whole line with its line end.
    pub(crate) fn get_with(&self, path: &str, headers: &str) -> BufReader<TcpStream> {
        let mut socket = TcpStream::connect(&self.address).expect("the host");
        let address = &self.address;
        write!(socket, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\r\n")
            .expect("the host");
        BufReader::new(socket)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the CPU time that the host has used, in steps of 10 ms.
    pub(crate) fn cpu(&self) -> Duration {
        cpu(self.child.id())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Builds the component of one of the tests' guests.
pub(crate) fn component(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/guests").join(name);
    let guest = Crate::at(&folder).expect("a guest");
    let toolchain = Toolchain::find(guest.target_dir()).expect("a compiler for wasm");
    guest.build(&toolchain, Network::Allowed).expect("a component")
}

/// Returns the CPU time that a process has used, in steps of 10 ms.
pub(crate) fn cpu(id: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("its statistics");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse().unwrap_or(0)).sum();
    Duration::from_millis(ticks * 10)
}

/// Returns the resident memory of a process, in kB.
pub(crate) fn rss_kb(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.split_whitespace().next().and_then(|kb| kb.parse().ok()).expect("a number")
}
