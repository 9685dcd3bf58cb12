//! What benchmarks of the whole binary have in common.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running host; it ends with this.
pub(crate) struct Host {
    child: Child,
    pub(crate) address: String,
}

impl Host {
    /// With its data in a folder, and more arguments.
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
        let mut socket = TcpStream::connect(&self.address).expect("the host");
        write!(socket, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).expect("the host");
        BufReader::new(socket)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
