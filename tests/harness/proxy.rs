//! An HTTP proxy that notes what it is asked. Requests to `http` URLs it answers itself; for others it opens a tunnel.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A proxy that ends with the test run.
pub(crate) struct TestProxy {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl TestProxy {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let kept = asked.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = kept.clone();
                // An error means that one side closed its connection.
                std::thread::spawn(move || pass(stream, &kept).ok());
            }
        });
        Self { address, asked }
    }

    /// Returns the heads of all requests so far, each in one text with small letters.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn pass(mut client: TcpStream, asked: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let head = head.to_lowercase();
    asked.lock().unwrap().push(head.clone());
    let Some(server) = head.strip_prefix("connect ").and_then(|rest| rest.split(' ').next()) else {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        reader.read_exact(&mut vec![0; length])?;
        return client.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
    };
    let mut server = TcpStream::connect(server)?;
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        std::io::copy(&mut from_server, &mut to_client).ok();
        to_client.shutdown(Shutdown::Write)
    });
    std::io::copy(&mut reader, &mut server)?;
    server.shutdown(Shutdown::Write)
}
