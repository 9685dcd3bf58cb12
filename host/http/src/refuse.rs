//! Connections over a limit: the host answers with an error and closes them.

use super::error::ApiError;
use super::listener::AcceptedSocket;
use crate::App;
use axum::http::StatusCode;
use dropsonde_engine::quota::QuotaError;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The time that a client has to read the error.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a request that are read and discarded. If some stayed unread, the kernel would discard the error with them.
const UNREAD: u64 = 64 << 10;

/// Connections that get the error at the same time. Further ones are closed without it.
const MOST_AT_ONCE: usize = 256;

/// Refuses a connection. One with TLS is closed without an error: it could only be sent after the handshake.
pub(super) fn turn_away(app: &Arc<App>, socket: AcceptedSocket, is_secure: bool, full: QuotaError) {
    let (reason, error) = match full {
        QuotaError::All(most) => {
            let why = format!("connection limit of {most} reached; try again later, or raise http.max_connections");
            ("all", ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why))
        }
        QuotaError::OfPeer(most) => {
            let why = format!(
                "limit of {most} connections of one client reached; close some, or raise http.max_connections_per_peer"
            );
            ("peer", ApiError::new(StatusCode::TOO_MANY_REQUESTS, why))
        }
    };
    app.engine.metrics.http_connections_refused.with_label_values(&[reason]).inc();
    if is_secure {
        return;
    }
    let Ok(place) = app.turned_away.take(MOST_AT_ONCE, None) else { return };
    tokio::spawn(async move {
        let _place = place;
        let answer = error.retry_after(1).raw();
        let told = async {
            match socket {
                AcceptedSocket::Tcp(socket) => tell(socket, &answer).await,
                AcceptedSocket::Unix(socket) => tell(socket, &answer).await,
            }
        };
        let _ = tokio::time::timeout(PATIENCE, told).await;
    });
}

/// Writes a last answer to a connection, and discards what the client still sends.
pub(super) async fn tell(mut socket: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> std::io::Result<()> {
    socket.write_all(answer).await?;
    socket.shutdown().await?;
    tokio::io::copy(&mut socket.take(UNREAD), &mut tokio::io::sink()).await?;
    Ok(())
}
