use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Longest wait for spans; reached only when something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// An OpenTelemetry collector that keeps the spans it gets by OTLP over HTTP. It ends with the test run.
pub(crate) struct Collector {
    pub(crate) endpoint: String,
    received: Arc<ReceivedSpans>,
}

#[derive(Default)]
struct ReceivedSpans {
    requests: Mutex<Vec<ExportTraceServiceRequest>>,
    more: Condvar,
    refuses: Mutex<bool>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let received = Arc::new(ReceivedSpans::default());
        let shared = received.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = shared.clone();
                std::thread::spawn(move || shared.receive(stream));
            }
        });
        Self { endpoint, received }
    }

    /// Sets whether the collector answers with an error from now on.
    pub(crate) fn refuse(&self, refuses: bool) {
        *self.received.refuses.lock().unwrap() = refuses;
    }

    /// Waits until the spans are as wanted. Returns all spans so far.
    pub(crate) fn until(&self, wanted: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let mut requests = self.received.requests.lock().unwrap();
        loop {
            let resources = requests.iter().flat_map(|request| &request.resource_spans);
            let spans = resources.flat_map(|resource| &resource.scope_spans).flat_map(|scope| &scope.spans);
            let spans: Vec<Span> = spans.cloned().collect();
            if wanted(&spans) {
                return spans;
            }
            let (more, waited) = self.received.more.wait_timeout(requests, PATIENCE).unwrap();
            let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
            assert!(!waited.timed_out(), "the spans are not as wanted: {names:?}");
            requests = more;
        }
    }

    /// Returns the resource attributes of the first spans.
    pub(crate) fn resource(&self) -> Vec<KeyValue> {
        let requests = self.received.requests.lock().unwrap();
        requests[0].resource_spans[0].resource.clone().unwrap().attributes
    }
}

impl ReceivedSpans {
    fn receive(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        loop {
            let mut head = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if line == "\r\n" {
                    break;
                }
                head.push(line.trim_end().to_lowercase());
            }
            assert_eq!(head[0], "post /v1/traces http/1.1");
            assert!(head.iter().any(|line| line == "content-type: application/x-protobuf"), "{head:?}");
            let length = head.iter().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let mut body = vec![0; length.parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            if *self.refuses.lock().unwrap() {
                let _ = stream.write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n");
                continue;
            }
            self.requests.lock().unwrap().push(ExportTraceServiceRequest::decode(&body[..]).unwrap());
            self.more.notify_all();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    }
}

/// Returns the value of an attribute; a number as `#5`.
pub(crate) fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(format!("#{number}")),
        other => Some(format!("{other:?}")),
    }
}
