//! The end of a plugin's task: it is told why, and does itself what has to wait for a disk.

use super::Component;
use super::find::Place;
use super::intake::{Answer, Mail, Unwanted};
use super::last_good::LastGood;
use super::prepare::off_thread;
use super::run::run;
use super::status::Shared;
use super::supervisor::Denied;
use crate::Engine;
use crate::audit::By;
use dropsonde_sandbox::Sandbox;
use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Why a plugin's task is to end.
#[derive(Debug)]
pub(super) enum End {
    /// The host stops.
    Stop,
    /// It begins anew, by the configuration that is in force then.
    Anew(Answer),
    /// Its file is gone.
    Gone,
    /// Its file goes, once what it is writing is written.
    Remove(Requester),
    /// That did not work, and why.
    NotRemoved(Answer, Denied),
}

/// Who wants a plugin removed.
#[derive(Debug)]
pub(super) struct Requester {
    pub(super) by: By,
    pub(super) answer: Answer,
}

/// What a plugin's task leaves behind.
#[derive(Debug)]
pub(super) struct Ended {
    /// It ended by itself.
    pub(super) unwanted: Option<Unwanted>,
    /// What it was told, and did.
    pub(super) told: Option<End>,
    /// What is in its place now.
    pub(super) component: Option<Component>,
}

/// Runs a plugin until it is told to end, or until it turns out that there is none.
pub(super) async fn run_to_end(
    engine: Arc<Engine>,
    sandbox: Arc<Sandbox>,
    status: Shared,
    place: Place,
    mail: Mail,
    mut told: oneshot::Receiver<End>,
) -> Ended {
    let data = engine.options.load().data_dir.clone();
    let (unwanted, end) = run(engine, sandbox, status, place.clone(), mail, &mut told).await;
    let good = data.map(|data| LastGood::of(&place.name, &data));
    let name = place.name.clone();
    let done = off_thread(move || {
        let told = end.map(|end| end.done(&place, good.as_ref()));
        let component = place.component().filter(|_| !matches!(told, Some(End::Stop)));
        (told, component)
    });
    let (told, component) = done.await.unwrap_or_else(|_| {
        tracing::error!(plugin = name, "its end was not carried out");
        (None, None)
    });
    Ended { unwanted, told, component }
}

impl End {
    /// Does what has to wait for a disk.
    fn done(self, place: &Place, good: Option<&LastGood>) -> Self {
        let Self::Remove(Requester { by, answer }) = self else {
            if matches!(self, Self::Gone) {
                forget(place, good);
            }
            return self;
        };
        let path = place.file().unwrap_or_default();
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Self::NotRemoved(answer, Denied::NotRemoved { path, source })
            }
            _ => {
                forget(place, good);
                Self::Remove(Requester { by, answer })
            }
        }
    }
}

/// There is nothing to come back to.
fn forget(place: &Place, good: Option<&LastGood>) {
    if let Some(Err(error)) = good.map(LastGood::forget) {
        tracing::warn!(plugin = place.name, %error, "cannot remove the copy of it to come back to");
    }
}
