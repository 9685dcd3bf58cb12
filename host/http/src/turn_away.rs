//! Connections there is no room for: they hear so, and are closed.

use super::error::ApiError;
use super::listener::Socket;
use crate::App;
use axum::http::StatusCode;
use dropsonde_engine::places::Full;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Time to hear it.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a request that is on its way already: with some of it unread, the kernel takes back what was written.
const UNREAD: u64 = 64 << 10;

/// Who hears it at a time; others are closed without a word.
const MOST_AT_ONCE: usize = 256;

/// With TLS there is nothing that could be said before both sides agree on it.
pub(super) fn turn_away(app: &Arc<App>, socket: Socket, is_secure: bool, full: Full) {
    let (reason, error) = match full {
        Full::All(most) => {
            let why = format!("connection limit of {most} reached; try again later, or raise http.max_connections");
            ("all", ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why))
        }
        Full::OfPeer(most) => {
            let why = format!(
                "limit of {most} connections of one peer reached; close some, or raise http.max_connections_per_peer"
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
                Socket::Tcp(socket) => tell(socket, &answer).await,
                Socket::Unix(socket) => tell(socket, &answer).await,
            }
        };
        let _ = tokio::time::timeout(PATIENCE, told).await;
    });
}

/// The last that is said on a connection.
pub(super) async fn tell(mut socket: impl AsyncRead + AsyncWrite + Unpin, answer: &[u8]) -> std::io::Result<()> {
    socket.write_all(answer).await?;
    socket.shutdown().await?;
    tokio::io::copy(&mut socket.take(UNREAD), &mut tokio::io::sink()).await?;
    Ok(())
}
