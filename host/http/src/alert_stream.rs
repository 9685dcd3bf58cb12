//! The stream of alerts: all that are active first, then each that changes its state.

use super::alerts::{AlertJson, sort};
use super::error::ApiError;
use super::piece_body::{PieceBody, Pieces};
use super::stream;
use super::{AppState, CallerExtension};
use crate::App;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use dropsonde_engine::hub::{PING, RETRY, StreamPermit};
use dropsonde_engine::rules::ListedAlert;
use dropsonde_rules::AlertState;
use std::sync::Arc;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio::time::sleep;

/// A reader of alerts.
struct Following {
    app: Arc<App>,
    changes: broadcast::Receiver<ListedAlert>,
    ends: watch::Receiver<()>,
    _permit: StreamPermit,
}

/// Follows alerts.
pub(crate) async fn follow(State(app): AppState, Extension(caller): CallerExtension) -> Result<Response, ApiError> {
    let permit = stream::claim(&app, &caller)?;
    // Changes from here on are sent after the list.
    let changes = app.engine.rules.changes();
    let following = Following { changes, ends: app.engine.hub.ends(), app, _permit: permit };
    let (following, list) = following.list().await?;
    let first = [RETRY, &list].concat();
    Ok(stream::head(Body::new(PieceBody::new(first.into(), following))))
}

impl Following {
    /// Returns the event with all alerts that are active.
    async fn list(self) -> Result<(Self, Vec<u8>), ApiError> {
        super::blocking::off_thread(move || {
            let mut active = self.app.engine.rules.alerts();
            active.retain(|listed| listed.alert.state != AlertState::Inactive);
            sort(&mut active);
            let mut event = b"event: alerts\ndata: [".to_vec();
            for (nth, listed) in active.iter().enumerate() {
                if nth > 0 {
                    event.push(b',');
                }
                event.extend(AlertJson::bytes(&self.app.engine, listed));
            }
            event.extend_from_slice(b"]\n\n");
            (self, event)
        })
        .await
    }
}

impl Pieces for Following {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        let heartbeat = self.app.engine.options.load().stream.heartbeat.get();
        let change = tokio::select! {
            change = self.changes.recv() => change,
            _ = self.ends.changed() => return None,
            () = sleep(heartbeat) => return Some((Bytes::from_static(PING), self)),
        };
        match change {
            Ok(change) => {
                let mut event = b"event: alert\ndata: ".to_vec();
                event.extend(AlertJson::bytes(&self.app.engine, &change));
                event.extend_from_slice(b"\n\n");
                Some((event.into(), self))
            }
            // The reader was too slow: it gets the whole list again.
            Err(RecvError::Lagged(_)) => {
                let (following, list) = self.list().await.ok()?;
                Some((list.into(), following))
            }
            Err(RecvError::Closed) => None,
        }
    }
}
