use super::*;
use std::io::{Read, Write};
use std::net::TcpListener;

#[test]
fn an_url_has_three_parts() {
    assert_eq!(parts("http://a:1/b?c#d"), Some(("http", "a:1", "/b?c")));
    assert_eq!(parts("https://a?c"), Some(("https", "a", "?c")));
    assert_eq!(parts("http://a"), Some(("http", "a", "")));
    assert_eq!((parts("a/b"), parts("http:///b")), (None, None));
}

#[test]
fn json_is_read_into_a_type_and_the_error_says_where_it_is_something_else() {
    let response = |body: &str| Response { body: body.into(), ..Response::default() };
    assert_eq!(response("[1, 2]").json::<Vec<u8>>(), Ok(vec![1, 2]));
    let failure = response("[1, \"two\"]").json::<Vec<u8>>().unwrap_err();
    assert!(failure.reason().contains("column 9"), "{failure:?}");
    let request = Request::new("POST", "http://a/b").json(&[1, 2]).unwrap();
    assert_eq!((&*request.body, &*request.headers[0].0), (&b"[1,2]"[..], "content-type"));
}

#[test]
fn a_native_request_gets_an_answer() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x", server.local_addr().unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let (mut request, mut byte) = (Vec::new(), [0]);
        while !request.ends_with(b"\r\n\r\nall") {
            stream.read_exact(&mut byte).unwrap();
            request.extend(byte);
        }
        stream.write_all(b"HTTP/1.0 404 Not Found\r\nX-Why: gone\r\n\r\nnothing").unwrap();
        String::from_utf8(request).unwrap()
    });
    let request = Request::new("POST", &url).header("accept", "text/plain").body("all");
    let answer = request.send(Duration::from_secs(5)).unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (404, "nothing"));
    assert_eq!((answer.header("x-why"), answer.header("x-because")), (Some("gone"), None));
    let request = served.join().unwrap();
    assert!(request.starts_with("POST /x HTTP/1.0\r\n"), "{request}");
    assert!(request.contains("\r\naccept: text/plain\r\ncontent-length: 3\r\n\r\nall"), "{request}");
    assert_eq!(get("ftp://x", Duration::from_secs(1)), Err(HttpError::NotAUrl("ftp://x".to_owned())));
}
