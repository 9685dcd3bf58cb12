//! The set of plugins: a task each; what changes in the plugins folder, or through the API, reaches them from here.

use super::find::{self, components, files};
use super::intake::{How, Newer, Unwanted};
use super::last_good::LastGood;
use super::latest::Latest;
use super::run::run;
use super::settling::{Change, Files, Settling};
use super::status::Shared;
use super::watcher::Watcher;
use super::{Component, FindError, NotTaken, Origin, Status};
use crate::audit::{Action, Entry};
use crate::core::Core;
use crate::tracked::PluginName;
use dropsonde_sandbox::Sandbox;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};

/// What someone wants done about a plugin.
#[derive(Debug)]
pub struct Request {
    pub plugin: String,
    pub what: Wanted,
    /// For the audit log.
    pub by: String,
    pub answer: oneshot::Sender<Result<(), Denied>>,
}

#[derive(Debug)]
pub enum Wanted {
    /// These bytes become its file, if they are a plugin that starts.
    Upload(bytes::Bytes),
    /// It begins anew, from its file.
    Reload,
    /// Its file goes.
    Remove,
}

/// Why it is not done.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    #[error("no plugin has this name")]
    Unknown,
    #[error("it comes with the binary, and cannot be removed; `dropsonde plugin quarantine` stops it")]
    Bundled,
    #[error("there is no plugins folder to put it into: give one with --plugins, or a data directory")]
    NoFolder,
    #[error("cannot remove {}: {source}", path.display())]
    NotRemoved { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    NotTaken(NotTaken),
}

pub(crate) struct Supervisor {
    core: Arc<Core>,
    sandbox: Arc<Sandbox>,
    folder: Option<PathBuf>,
    /// Before the start.
    found: Vec<Component>,
    running: BTreeMap<PluginName, Running>,
    tasks: JoinSet<Ended>,
    settling: Settling,
    /// The folder cannot be used, and that was said.
    complained: bool,
}

enum Event {
    Stirred,
    Requested(Request),
    Ended(Result<Ended, JoinError>),
}

/// A plugin's task that is over, and who is still to be told that it is no plugin.
type Ended = (PluginName, Option<Unwanted>);

/// A plugin's task.
struct Running {
    newer: Arc<Latest<Newer>>,
    stop: watch::Sender<bool>,
}

impl Supervisor {
    /// Looks what there is.
    pub(crate) fn find(core: Arc<Core>, sandbox: Arc<Sandbox>, folder: Option<PathBuf>) -> Result<Self, FindError> {
        let found = folder.as_deref().map(files).transpose()?.unwrap_or_default();
        for path in folder.iter().flat_map(|folder| find::misnamed(folder)) {
            tracing::warn!(
                file = %path.display(),
                "not loaded: a plugin's file name is letters, digits, `-` and `_`, at most 64"
            );
        }
        let settling = Settling::with(&found);
        let (running, tasks) = (BTreeMap::new(), JoinSet::new());
        let found = components(&found);
        Ok(Self { core, sandbox, folder, found, running, tasks, settling, complained: false })
    }

    /// What it found.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.found.iter().map(|component| component.name.as_str()).collect()
    }

    /// Begins a task for each.
    pub(crate) fn start(&mut self) {
        for component in std::mem::take(&mut self.found) {
            self.begin(component, How::Found, None, None);
        }
        for name in self.core.config.plugins.keys().filter(|name| !self.running.contains_key(name.as_str())) {
            tracing::warn!("the configuration has a section for a plugin named {name:?}, and there is none yet");
        }
    }

    /// Follows the folder and does what is wanted, until `stopping` says so; then waits for the tasks.
    pub(crate) async fn supervise(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let mut watcher = self.folder.as_deref().map(Watcher::of);
        loop {
            let due = self.settling.next_look();
            let stirred = async {
                match &mut watcher {
                    Some(watcher) => watcher.stirred(due).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                () = stirred => Event::Stirred,
                Some(request) = requests.recv() => Event::Requested(request),
                Some(ended) = self.tasks.join_next() => Event::Ended(ended),
                _ = stopping.wait_for(|&stopping| stopping) => break,
            };
            match event {
                Event::Stirred => self.look().await,
                Event::Requested(request) => self.serve(request).await,
                Event::Ended(ended) => self.ended(ended),
            }
        }
        for running in self.running.values() {
            running.stop.send_replace(true);
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Follows what changed in the folder.
    async fn look(&mut self) {
        let Some(folder) = self.folder.clone() else { return };
        let found = tokio::task::spawn_blocking(move || {
            // A folder that is gone says nothing about what was in it.
            fs::metadata(&folder)
                .map_err(|source| FindError::Unreadable { folder: folder.clone(), source })
                .and_then(|_| files(&folder))
        });
        let found: Files = match found.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                if !std::mem::replace(&mut self.complained, true) {
                    tracing::error!("{error}; plugins stay as they are");
                }
                return;
            }
            Err(_) => return,
        };
        self.complained = false;
        for (name, change) in self.settling.look(&found, Instant::now()) {
            let by = Some("folder".to_owned());
            match change {
                Change::Written(path) => {
                    let component = Component { name: name.clone(), origin: Origin::File(path) };
                    self.change(component, How::Found, by, None);
                }
                Change::Removed => self.removed(&name, "folder").await,
            }
        }
    }

    async fn serve(&mut self, Request { plugin, what, by, answer }: Request) {
        let denied = match what {
            Wanted::Upload(bytes) => match &self.folder {
                Some(folder) => {
                    let origin = Origin::File(folder.join(format!("{plugin}.wasm")));
                    let component = Component { name: plugin, origin };
                    return self.change(component, How::Uploaded(bytes), Some(by), Some(answer));
                }
                None => Err(Denied::NoFolder),
            },
            Wanted::Reload => match self.component(&plugin) {
                Some(component) => return self.change(component, How::Again, Some(by), Some(answer)),
                None => Err(Denied::Unknown),
            },
            Wanted::Remove => self.remove(&plugin, &by).await,
        };
        // Who asked may have gone.
        let _ = answer.send(denied);
    }

    /// What a plugin is made of now: its file, else what comes with the binary.
    fn component(&self, name: &str) -> Option<Component> {
        let status = self.core.plugins.get(name)?;
        let file = self.file(name).filter(|path| path.exists());
        match file {
            Some(path) => Some(Component { name: name.to_owned(), origin: Origin::File(path) }),
            None => Some(Component { name: name.to_owned(), origin: status.known().origin }),
        }
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(format!("{name}.wasm")))
    }

    async fn remove(&mut self, name: &str, by: &str) -> Result<(), Denied> {
        self.core.plugins.get(name).ok_or(Denied::Unknown)?;
        let removed = self.file(name).map(|path| (fs::remove_file(&path), path));
        match removed {
            Some((Ok(()), _)) => {}
            Some((Err(source), path)) if source.kind() != ErrorKind::NotFound => {
                return Err(Denied::NotRemoved { path, source });
            }
            // It runs from a copy, or from the binary.
            _ if find::bundled(name).is_some() => return Err(Denied::Bundled),
            _ => {}
        }
        self.settling.forget(name);
        self.removed(name, by).await;
        Ok(())
    }

    /// Its file is gone: what comes with the binary takes its place, or nothing does.
    async fn removed(&mut self, name: &str, by: &str) {
        if let Some(data) = self.core.config.kept_dir()
            && let Err(error) = LastGood::of(name, &data).forget()
        {
            tracing::warn!(plugin = name, %error, "cannot remove the copy of it to come back to");
        }
        let (plugin, by) = (name.to_owned(), by.to_owned());
        let entry = Entry { action: Action::Remove, plugin, by: by.clone(), digest: None, refused: None };
        self.core.audit.write(entry);
        match find::bundled(name) {
            Some(bundled) => self.change(bundled, How::Found, Some(by), None),
            None => self.end(name).await,
        }
    }

    /// Hands a newer version to a plugin's task, which is begun if there is none.
    fn change(
        &mut self,
        component: Component,
        how: How,
        by: Option<String>,
        answer: Option<oneshot::Sender<Result<(), Denied>>>,
    ) {
        let Some(running) = self.running.get(component.name.as_str()) else {
            return self.begin(component, how, by, answer);
        };
        let newer = Newer { component, how, by, answer };
        if let Some(Newer { answer: Some(answer), .. }) = running.newer.put(newer) {
            let _ = answer.send(Err(Denied::NotTaken(NotTaken::Superseded)));
        }
    }

    fn begin(
        &mut self,
        component: Component,
        how: How,
        by: Option<String>,
        answer: Option<oneshot::Sender<Result<(), Denied>>>,
    ) {
        let core = &self.core;
        let name: PluginName = component.name.as_str().into();
        let own = core.config.plugin(&name);
        let (interval, limits) = (core.config.interval(&own), core.config.limits(&own));
        let status: Shared = Arc::new(Status::new(name.clone(), component.origin.clone(), interval, limits, own));
        core.plugins.add(status.clone());
        let newer = Arc::new(Latest::default());
        newer.put(Newer { component, how, by, answer });
        let (stop, stopping) = watch::channel(false);
        let task = run(core.clone(), self.sandbox.clone(), status, newer.clone(), stopping);
        self.running.insert(name.clone(), Running { newer, stop });
        self.tasks.spawn(async move { (name, task.await) });
    }

    /// Ends a plugin's task, and waits for it.
    async fn end(&mut self, name: &str) {
        let Some(running) = self.running.get(name) else { return };
        running.stop.send_replace(true);
        while self.running.contains_key(name) {
            match self.tasks.join_next().await {
                Some(ended) => self.ended(ended),
                None => return,
            }
        }
    }

    /// A plugin is no more. Its history stays; what it alone had discovered has ended.
    fn ended(&mut self, ended: Result<Ended, JoinError>) {
        let Ok((name, unwanted)) = ended else {
            tracing::error!("a plugin's task ended abruptly");
            return;
        };
        self.running.remove(&name);
        self.core.plugins.remove(&name);
        self.core.metrics.forget_plugin(&name);
        for id in self.core.tracked.discovered(&name, Vec::new(), self.core.clock.now_ms()).forgotten {
            self.core.forget(&id);
        }
        match unwanted {
            Some(unwanted) => unwanted.answer(),
            None => tracing::info!(plugin = &*name, "removed"),
        }
    }
}

/// Removes what hosts before left to come back to, of plugins that are no more.
pub(crate) fn tidy(core: &Core, folder: Option<&Path>) {
    let Some(data) = core.config.kept_dir() else { return };
    let has_file = |name: &str| folder.is_some_and(|folder| folder.join(format!("{name}.wasm")).exists());
    if let Err(error) = LastGood::forget_others(&data, has_file) {
        tracing::warn!(%error, "cannot remove copies of plugins that are no more");
    }
}
