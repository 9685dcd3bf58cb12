//! Server-sent events.

use super::App;
use super::error::{ApiError, Segment};
use super::usage::instance_id;
use crate::core::Core;
use crate::hub::Watch;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use dropsonde_store::InstanceId;
use http_body::Frame;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Interval, MissedTickBehavior};

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// How long a browser waits before it connects again.
const RETRY: Bytes = Bytes::from_static(b"retry: 3000\n\n");

const PING: Bytes = Bytes::from_static(b": ping\n\n");

/// The latest sample at once, then each as it comes. An instance that is not tracked yet is waited for.
pub(crate) async fn usage(State(core): App, Segment(id): Segment) -> Result<Response, ApiError> {
    events(&core, &instance_id(&id)?)
}

pub(crate) fn events(core: &Core, id: &InstanceId) -> Result<Response, ApiError> {
    let watch = core.hub.watch(id);
    let watch = watch.map_err(|full| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, full.to_string()))?;
    let body = Body::new(Events::new(watch, core.config.stream.heartbeat.get()));
    let headers = [
        (header::CONTENT_TYPE, EVENT_STREAM),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // nginx would hold events back to fill its buffer.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    Ok((headers, body).into_response())
}

pub(crate) fn is_stream(response: &Response) -> bool {
    response.headers().get(header::CONTENT_TYPE) == Some(&EVENT_STREAM)
}

/// A response body that lasts as long as its watch.
struct Events {
    watch: Watch,
    heartbeat: Interval,
    /// What goes out next, before anything new.
    next: Option<Bytes>,
}

impl Events {
    fn new(watch: Watch, heartbeat: Duration) -> Self {
        let mut heartbeat = tokio::time::interval_at(tokio::time::Instant::now() + heartbeat, heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { watch, heartbeat, next: Some(RETRY) }
    }
}

impl http_body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(bytes) = this.next.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if let Poll::Ready(event) = this.watch.poll_next(context) {
            let Some(event) = event else { return Poll::Ready(None) };
            this.heartbeat.reset();
            let bytes = if event.lost > 0 {
                this.next = Some(event.bytes);
                Bytes::from(format!("event: lagged\ndata: {{\"lost\":{}}}\n\n", event.lost))
            } else {
                event.bytes
            };
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        ready!(this.heartbeat.poll_tick(context));
        Poll::Ready(Some(Ok(Frame::data(PING))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Hub;
    use dropsonde_store::{InstanceId, Sample};
    use http_body_util::BodyExt;
    use prometheus::IntCounter;

    fn lost() -> IntCounter {
        IntCounter::new("lost", "Lost.").unwrap()
    }

    fn sample() -> Sample {
        Sample { at_ms: 0, values: vec![("x".into(), 1.0)] }
    }

    async fn next(events: &mut Events) -> String {
        let frame = events.frame().await.unwrap().unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_begins_with_retry_and_pings_while_nothing_happens() {
        let hub = Hub::new(1, 8, 8, lost());
        let host = InstanceId::new("host").unwrap();
        let mut events = Events::new(hub.watch(&host).unwrap(), Duration::from_secs(15));
        assert_eq!(next(&mut events).await, "retry: 3000\n\n");
        let before = tokio::time::Instant::now();
        assert_eq!(next(&mut events).await, ": ping\n\n");
        assert_eq!(before.elapsed(), Duration::from_secs(15));
        hub.publish(&host, &sample());
        assert_eq!(
            next(&mut events).await,
            "event: usage\nid: 1-1\ndata: {\"at\":\"1970-01-01T00:00:00Z\",\"x\":1}\n\n"
        );
        hub.close(&host);
        assert!(events.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_fell_behind_is_told_where_and_how_much_it_lost() {
        let hub = Hub::new(1, 1, 8, lost());
        let host = InstanceId::new("host").unwrap();
        let mut events = Events::new(hub.watch(&host).unwrap(), Duration::from_secs(15));
        next(&mut events).await;
        for _ in 0..3 {
            hub.publish(&host, &sample());
        }
        assert!(next(&mut events).await.contains("id: 1-1\n"));
        hub.publish(&host, &sample());
        assert_eq!(next(&mut events).await, "event: lagged\ndata: {\"lost\":2}\n\n");
        assert!(next(&mut events).await.contains("id: 1-4\n"));
    }
}
