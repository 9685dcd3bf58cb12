use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

/// A server whose answer to a path is made anew each time. It ends with the test run.
pub(crate) struct MadeServer {
    pub(crate) address: SocketAddr,
}

impl MadeServer {
    /// `answer` gets the path and all headers as they were sent. Returns the status and the body.
    pub(crate) fn start(answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, answer) = (listener.local_addr().unwrap(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let answer = answer.clone();
                std::thread::spawn(move || respond(&stream, &*answer));
            }
        });
        Self { address }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// Answers the request of a connection.
pub(crate) fn respond<S>(stream: &S, answer: &dyn Fn(&str, &str) -> (u16, String))
where
    for<'a> &'a S: Read + Write,
{
    let mut stream = stream;
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let (status, body) = answer(&path, &head.join("\n").to_lowercase());
    let head = format!("HTTP/1.1 {status} Made\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    // The client may have gone.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}
