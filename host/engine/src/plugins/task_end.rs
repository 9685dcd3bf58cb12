//! The end of a plugin's task. The supervisor tells the task why it ends; the task itself does the work that waits for
//! a disk.

use super::Component;
use super::find::PluginLocation;
use super::last_good::LastGood;
use super::prepare::off_thread;
use super::run::run;
use super::status::SharedStatus;
use super::supervisor::RequestError;
use super::updater::{RefusedUpload, ReplySender, TaskInput};
use crate::Engine;
use crate::audit::Actor;
use dropsonde_sandbox::Sandbox;
use std::fs;
use std::io::ErrorKind;
use std::sync::Arc;
use tokio::sync::oneshot;

/// The reason why a plugin's task is to end.
#[derive(Debug)]
pub(super) enum TaskEnd {
    /// The host stops.
    Stop,
    /// The task is to restart with the configuration in force.
    Anew(ReplySender),
    /// The plugin's file is gone.
    Gone,
    /// The plugin's file is to be removed, once the plugin's writes are done.
    Remove(Requester),
    /// The file could not be removed; the reason.
    NotRemoved(ReplySender, RequestError),
}

/// The requester of a removal.
#[derive(Debug)]
pub(super) struct Requester {
    pub(super) by: Actor,
    pub(super) answer: ReplySender,
}

/// The result of a plugin's task.
#[derive(Debug)]
pub(super) struct EndedTask {
    /// The refused upload, if the task ended by itself because of it.
    pub(super) unwanted: Option<RefusedUpload>,
    /// The reason that the task was told, whose disk work is done.
    pub(super) told: Option<TaskEnd>,
    /// The component that the plugin has now.
    pub(super) component: Option<Component>,
}

/// Runs a plugin until it is told to end, or until the upload of a new plugin is refused.
pub(super) async fn run_to_end(
    engine: Arc<Engine>,
    sandbox: Arc<Sandbox>,
    status: SharedStatus,
    place: PluginLocation,
    mail: TaskInput,
    mut told: oneshot::Receiver<TaskEnd>,
) -> EndedTask {
    let data = engine.options.load().data_dir.clone();
    let (unwanted, end) = run(engine, sandbox, status, place.clone(), mail, &mut told).await;
    let good = data.map(|data| LastGood::of(&place.name, &data));
    let name = place.name.clone();
    let done = off_thread(move || {
        let told = end.map(|end| end.done(&place, good.as_ref()));
        let component = place.component().filter(|_| !matches!(told, Some(TaskEnd::Stop)));
        (told, component)
    });
    let (told, component) = done.await.unwrap_or_else(|_| {
        tracing::error!(plugin = name, "cannot complete the end of the plugin's task");
        (None, None)
    });
    EndedTask { unwanted, told, component }
}

impl TaskEnd {
    /// Does the work that waits for a disk.
    fn done(self, place: &PluginLocation, good: Option<&LastGood>) -> Self {
        let Self::Remove(Requester { by, answer }) = self else {
            if matches!(self, Self::Gone) {
                forget(place, good);
            }
            return self;
        };
        let path = place.file().unwrap_or_default();
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Self::NotRemoved(answer, RequestError::NotRemoved { path, source })
            }
            _ => {
                forget(place, good);
                Self::Remove(Requester { by, answer })
            }
        }
    }
}

/// Removes the copies of a plugin, so that none is restored.
fn forget(place: &PluginLocation, good: Option<&LastGood>) {
    if let Some(Err(error)) = good.map(LastGood::forget) {
        tracing::warn!(plugin = place.name, %error, "cannot remove the copy of the plugin's last good version");
    }
}
