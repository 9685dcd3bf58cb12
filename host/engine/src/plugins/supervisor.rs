//! Supervises the plugins: runs a task for each, and passes changes of the plugins folder and requests of the API on to
//! the tasks.

use super::debounce::{ComponentFiles, Debounce, FileChange};
use super::find::{self, PluginLocation, components, files};
use super::mailbox::{Mailbox, PostOutcome};
use super::prepare::off_thread;
use super::status::SharedStatus;
use super::task_end::{EndedTask, Requester, TaskEnd, run_to_end};
use super::trial::try_section;
use super::updater::{LoadRequest, LoadRequestKind, TaskInput};
use super::watcher::FolderWatcher;
use super::{BundledPlugin, Component, ComponentOrigin, FindError, PluginState, PluginStatus, RefusedVersion};
use crate::Engine;
use crate::audit::{Actor, AuditEntry, AuditedAction, PluginAction, PluginChange};
use crate::disk_errors::is_denied;
use crate::options::{Options, UnknownName};
use crate::tracked::PluginName;
use dropsonde_model::names::PLUGIN_RULE;
use dropsonde_sandbox::Sandbox;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::{Id, JoinError, JoinSet};

/// A request about a plugin.
#[derive(Debug)]
pub struct PluginRequest {
    pub plugin: String,
    pub what: RequestKind,
    /// The requester, for the audit log.
    pub by: Actor,
    pub answer: oneshot::Sender<Result<(), RequestError>>,
}

#[derive(Debug)]
pub enum RequestKind {
    /// Replace the plugin's file by these bytes, if they are a plugin that starts.
    Upload(bytes::Bytes),
    /// Load the plugin again from its file.
    Reload,
    /// Remove the plugin and its file.
    Remove,
    /// Remove a plugin that is known to have a file.
    RemoveFile,
    /// Try the plugin with its section of this configuration, beside the running version.
    TryOut(Arc<Options>),
    /// Restart the plugin's task with the configuration in force.
    Reconfigure,
}

/// Why a request is denied.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("no plugin has this name")]
    Unknown,
    #[error("the plugin comes with the binary and cannot be removed; stop it with `dropsonde plugin quarantine`")]
    Bundled,
    #[error("the plugin is part of the program that embeds this host, and changes only with that program")]
    Native,
    #[error("other changes of this plugin are under way; try again when they are done")]
    Busy,
    #[error("cannot remove {}: {source}", path.display())]
    NotRemoved { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    NotTaken(RefusedVersion),
}

pub(crate) struct Supervisor {
    engine: Arc<Engine>,
    sandbox: Arc<Sandbox>,
    folder: Option<PathBuf>,
    /// The plugins that were found, until they start.
    found: Vec<Component>,
    running: BTreeMap<PluginName, PluginTask>,
    tasks: JoinSet<EndedTask>,
    names: HashMap<Id, PluginName>,
    settling: Debounce,
    /// The misnamed files that the log has mentioned.
    misnamed: BTreeSet<PathBuf>,
}

/// The most requests that wait until a plugin's task has ended. Some of them are large.
const MOST_WAITING: usize = 3;

/// A plugin's task.
struct PluginTask {
    changed: Arc<Notify>,
    asks: Arc<Mailbox>,
    /// The sender that tells the task to end; `None` once it has been told.
    end: Option<oneshot::Sender<TaskEnd>>,
    /// Requests that came since the task was told to end.
    later: Vec<PluginRequest>,
    /// Whether the plugin's file was written since then.
    is_written: bool,
}

enum SupervisorEvent {
    Stirred,
    Requested(PluginRequest),
    Ended(Result<(Id, EndedTask), JoinError>),
}

/// The reason why a plugin's task begins.
enum TaskStart {
    /// The plugin was there when the host started.
    Start,
    Found,
    /// The plugin runs again as before, which is not a change of its own.
    Back,
    Asked(LoadRequest),
}

impl Supervisor {
    /// Finds the plugins of the binary and of the folder.
    pub(crate) fn find(engine: Arc<Engine>, sandbox: Arc<Sandbox>, folder: Option<PathBuf>) -> Result<Self, FindError> {
        let (files, error) = match folder.as_deref().map(files).transpose() {
            Ok(files) => (files.unwrap_or_default(), None),
            // The host may be allowed to read it later.
            Err(FindError::Unreadable { folder, why }) if is_denied(&why) => {
                (ComponentFiles::new(), Some(FindError::Unreadable { folder, why }))
            }
            Err(error) => return Err(error),
        };
        let (settling, found) = (Debounce::with(&files), components(&files, engine.options.load().bundled_in_use()));
        let mut supervisor = Self { folder, found, settling, ..Self::of_none(engine, sandbox) };
        let misnamed = supervisor.folder.as_deref().map(find::misnamed).unwrap_or_default();
        supervisor.warn_of(misnamed);
        error.iter().for_each(|error| supervisor.complain(error));
        Ok(supervisor)
    }

    /// Creates a supervisor that has no plugins and gets none from a folder.
    pub(crate) fn of_none(engine: Arc<Engine>, sandbox: Arc<Sandbox>) -> Self {
        Self {
            engine,
            sandbox,
            folder: None,
            found: Vec::new(),
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            names: HashMap::new(),
            settling: Debounce::with(&ComponentFiles::new()),
            misnamed: BTreeSet::new(),
        }
    }

    /// Returns the names of the plugins that were found.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.found.iter().map(|component| component.name.as_str()).collect()
    }

    /// Begins a task for each plugin that was found.
    pub(crate) fn start(&mut self) {
        for component in std::mem::take(&mut self.found) {
            self.begin(component, TaskStart::Start);
        }
        // The plugin may still come.
        let known = self.engine.plugins.list().iter().map(|status| status.name.to_string()).collect();
        for UnknownName { part, why } in self.engine.options.load().unknown_names(&known, None) {
            tracing::warn!(part, why, "the configuration names a plugin that is not there yet");
        }
    }

    /// Follows the folder and serves requests until `stopping` turns true; then ends the tasks and waits for them.
    pub(crate) async fn supervise(
        mut self,
        mut requests: mpsc::Receiver<PluginRequest>,
        mut stopping: watch::Receiver<bool>,
    ) {
        let mut watcher = self.folder.as_deref().map(FolderWatcher::of);
        loop {
            let due = self.settling.next_look();
            let stirred = async {
                match &mut watcher {
                    Some(watcher) => watcher.stirred(due).await,
                    None => std::future::pending().await,
                }
            };
            let event = tokio::select! {
                () = stirred => SupervisorEvent::Stirred,
                Some(request) = requests.recv() => SupervisorEvent::Requested(request),
                Some(ended) = self.tasks.join_next_with_id() => SupervisorEvent::Ended(ended),
                _ = stopping.wait_for(|&stopping| stopping) => break,
            };
            match event {
                SupervisorEvent::Stirred => self.look().await,
                SupervisorEvent::Requested(request) => self.serve(request),
                SupervisorEvent::Ended(ended) => self.ended(ended),
            }
        }
        let names: Vec<_> = self.running.keys().cloned().collect();
        names.iter().for_each(|name| drop(self.end(name, TaskEnd::Stop)));
        while self.tasks.join_next().await.is_some() {}
    }

    /// Looks for changes in the folder and passes them on.
    async fn look(&mut self) {
        let Some(folder) = self.folder.clone() else { return };
        let found = off_thread(move || {
            // If the folder is gone, its plugins are not thereby removed.
            fs::metadata(&folder).map_err(|why| FindError::Unreadable { folder: folder.clone(), why })?;
            Ok::<_, FindError>((files(&folder)?, find::misnamed(&folder)))
        });
        let (found, misnamed) = match found.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                self.complain(&error);
                return self.settling.pause();
            }
            Err(_) => return,
        };
        if self.engine.plugins.set_folder_trouble(None) {
            tracing::info!("the plugins folder can be read again");
        }
        self.warn_of(misnamed);
        for (name, change) in self.settling.look(&found, Instant::now()) {
            match change {
                FileChange::Written(path) => match self.running.get_mut(name.as_str()) {
                    Some(running) => {
                        running.is_written = running.end.is_none();
                        running.changed.notify_one();
                    }
                    None => self.begin(Component { name, origin: ComponentOrigin::File(path) }, TaskStart::Found),
                },
                FileChange::Removed => _ = self.end(&name, TaskEnd::Gone),
            }
        }
    }

    /// Reports that the folder cannot be used: once in the log, and in `/health` as long as this lasts.
    fn complain(&self, error: &FindError) {
        let why = format!("{error}; plugins stay as they are until the folder can be used");
        if self.engine.plugins.set_folder_trouble(Some(why.clone())) {
            tracing::error!("{why}");
        }
    }

    fn warn_of(&mut self, misnamed: Vec<PathBuf>) {
        for path in misnamed {
            if !self.misnamed.contains(&path) {
                tracing::warn!(
                    file = %path.display(),
                    "not loaded: a plugin's file name is {}",
                    PLUGIN_RULE
                );
                self.misnamed.insert(path);
            }
        }
    }

    fn serve(&mut self, PluginRequest { plugin, what, by, answer }: PluginRequest) {
        if self.is_native(&plugin) {
            let _ = answer.send(Err(RequestError::Native));
            return;
        }
        if let Some(ending) = self.running.get_mut(plugin.as_str()).filter(|running| running.end.is_none()) {
            if ending.later.len() < MOST_WAITING {
                ending.later.push(PluginRequest { plugin, what, by, answer });
            } else {
                let _ = answer.send(Err(RequestError::Busy));
            }
            return;
        }
        let what = match what {
            RequestKind::Upload(bytes) => LoadRequestKind::Upload(bytes),
            RequestKind::Reload => LoadRequestKind::Again,
            RequestKind::Remove if self.bundled(&plugin).is_some() => {
                return self.remove_if_there(plugin, Requester { by, answer });
            }
            RequestKind::Remove | RequestKind::RemoveFile => return self.remove(&plugin, Requester { by, answer }),
            RequestKind::TryOut(config) => return self.try_out(&plugin, config, answer),
            RequestKind::Reconfigure => {
                if let Err(TaskEnd::Anew(answer)) = self.end(&plugin, TaskEnd::Anew(answer)) {
                    // A plugin without a task has nothing to restart, unless its section has just come.
                    let is_new = self.engine.plugins.get(&plugin).is_none();
                    if let Some(bundled) = self.bundled(&plugin).filter(|_| is_new) {
                        self.begin(bundled.into(), TaskStart::Found);
                    }
                    let _ = answer.send(Ok(()));
                }
                return;
            }
        };
        let ask = LoadRequest { what, by, answer };
        match (self.running.get(plugin.as_str()), &ask.what) {
            (Some(running), _) => match running.asks.post(ask) {
                PostOutcome::Waits => {}
                PostOutcome::Replaced(older) => {
                    self.refuse(&plugin, older, RequestError::NotTaken(RefusedVersion::Outdated))
                }
                PostOutcome::Full(ask) => self.refuse(&plugin, ask, RequestError::Busy),
            },
            (None, LoadRequestKind::Upload(_)) => {
                let file = self.place(&plugin).file().unwrap_or_default();
                self.begin(Component { name: plugin, origin: ComponentOrigin::File(file) }, TaskStart::Asked(ask));
            }
            (None, LoadRequestKind::Again) => drop(ask.answer.send(Err(RequestError::Unknown))),
        }
    }

    /// Denies a request that is not tried, and writes that to the audit log.
    fn refuse(&self, plugin: &str, LoadRequest { what, by, answer }: LoadRequest, why: RequestError) {
        let action = if matches!(what, LoadRequestKind::Again) { PluginAction::Reload } else { PluginAction::Upload };
        let (plugin, refused) = (plugin.to_owned(), Some(why.to_string()));
        let what = AuditedAction::Plugin(PluginChange { action, plugin, digest: None, refused });
        self.engine.audit.write(self.engine.clock.now_ms(), &AuditEntry { by, what });
        let _ = answer.send(Err(why));
    }

    fn is_native(&self, name: &str) -> bool {
        self.engine.plugins.get(name).is_some_and(|status| status.look(|known| known.origin == ComponentOrigin::Native))
    }

    fn place(&self, name: &str) -> PluginLocation {
        PluginLocation { name: name.to_owned(), folder: self.folder.clone(), bundled: self.bundled(name) }
    }

    fn bundled(&self, name: &str) -> Option<BundledPlugin> {
        self.engine.options.load().bundled(name)
    }

    /// Tries a plugin's section in a task of its own, so that nothing else waits for it. A bundled plugin may run only
    /// with that section.
    fn try_out(&self, name: &str, config: Arc<Options>, answer: oneshot::Sender<Result<(), RequestError>>) {
        let place = PluginLocation { bundled: config.bundled(name), ..self.place(name) };
        let new = || {
            let origin = ComponentOrigin::Bundled(place.bundled?);
            Some(Arc::new(PluginStatus::new(name.into(), origin, false, &self.engine.options.load())))
        };
        let status = self.engine.plugins.get(name).or_else(new);
        let Some(status) = status else { return drop(answer.send(Ok(()))) };
        let (engine, sandbox) = (self.engine.clone(), self.sandbox.clone());
        drop(tokio::spawn(async move {
            let component = off_thread(move || place.component()).await.ok().flatten();
            let Some(component) = component else { return drop(answer.send(Ok(()))) };
            let tried = try_section(&engine, &sandbox, &status, component, &config).await;
            let _ = answer.send(tried.map_err(RequestError::NotTaken));
        }));
    }

    fn remove(&mut self, name: &str, requester: Requester) {
        if self.engine.plugins.get(name).is_some() && !self.running.contains_key(name) {
            // The plugin's task crashed: a new task removes the plugin.
            let file = self.place(name).file().unwrap_or_default();
            self.begin(Component { name: name.to_owned(), origin: ComponentOrigin::File(file) }, TaskStart::Back);
        }
        if let Err(TaskEnd::Remove(Requester { answer, .. })) = self.end(name, TaskEnd::Remove(requester)) {
            // The plugin's file may be gone already, while the plugin still owns instances.
            let released = self.engine.release_instances(name);
            let _ = answer.send(if released { Ok(()) } else { Err(RequestError::Unknown) });
        }
    }

    /// Removes the file that replaces a bundled plugin. Denies the request if there is no such file.
    fn remove_if_there(&self, plugin: String, Requester { by, answer }: Requester) {
        let (engine, file) = (self.engine.clone(), self.place(&plugin).file());
        drop(tokio::spawn(async move {
            let is_there = off_thread(move || file.is_some_and(|file| fs::symlink_metadata(file).is_ok()));
            if is_there.await.unwrap_or_default() {
                engine.plugins.request(PluginRequest { plugin, what: RequestKind::RemoveFile, by, answer }).await;
            } else {
                let _ = answer.send(Err(RequestError::Bundled));
            }
        }));
    }

    /// Writes to the audit log that a plugin was removed, and starts the bundled plugin of its name, if there is one.
    fn removed(&mut self, name: &str, by: Actor) {
        let change =
            PluginChange { action: PluginAction::Remove, plugin: name.to_owned(), digest: None, refused: None };
        self.engine.audit.write(self.engine.clock.now_ms(), &AuditEntry { by, what: AuditedAction::Plugin(change) });
        if let Some(bundled) = self.bundled(name) {
            self.begin(bundled.into(), TaskStart::Back);
        }
    }

    fn begin(&mut self, component: Component, beginning: TaskStart) {
        let engine = &self.engine;
        let name: PluginName = component.name.as_str().into();
        if self.is_native(&name) {
            tracing::warn!(
                plugin = &*name,
                "plugin file not loaded: the program that embeds the host has a native sampler or source of this name"
            );
            return;
        }
        let is_start = matches!(beginning, TaskStart::Start);
        let is_change = matches!(beginning, TaskStart::Found | TaskStart::Asked(_));
        let status = PluginStatus::new(name.clone(), component.origin, is_start, &engine.options.load());
        let status: SharedStatus = Arc::new(match engine.plugins.get(&name) {
            Some(before) => status.after(&before),
            None => status,
        });
        engine.plugins.add(status.clone());
        engine.metrics.know_plugin(&name);
        let asks = Arc::new(Mailbox::default());
        let (changed, (end, told)) = (Arc::new(Notify::new()), oneshot::channel());
        match beginning {
            TaskStart::Start | TaskStart::Found | TaskStart::Back => changed.notify_one(),
            // The mailbox is new, so there is room.
            TaskStart::Asked(ask) => drop(asks.post(ask)),
        }
        let place = self.place(&name);
        let mail = TaskInput { asks: asks.clone(), changed: changed.clone(), is_change };
        let task = run_to_end(engine.clone(), self.sandbox.clone(), status, place, mail, told);
        let running = PluginTask { changed, asks, end: Some(end), later: Vec::new(), is_written: false };
        self.running.insert(name.clone(), running);
        self.names.insert(self.tasks.spawn(task).id(), name);
    }

    /// Tells a plugin's task to end, and does not wait for that: [`ended`](Self::ended) is called when the task has
    /// ended. Returns `end` if there is no task, or if the task is ending already.
    fn end(&mut self, name: &str, end: TaskEnd) -> Result<(), TaskEnd> {
        match self.running.get_mut(name).and_then(|running| running.end.take()) {
            Some(told) => told.send(end),
            None => Err(end),
        }
    }

    /// Handles the end of a plugin's task. The plugin's history stays. Instances that only this plugin discovered end,
    /// unless its task restarts.
    fn ended(&mut self, ended: Result<(Id, EndedTask), JoinError>) {
        let (id, ended) = match ended {
            Ok((id, ended)) => (id, Ok(ended)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(name) = self.names.remove(&id) else { return };
        let Some(PluginTask { later, is_written, .. }) = self.running.remove(&name) else { return };
        match ended {
            Ok(ended) => self.settle(&name, ended),
            Err(error) => {
                // A bug in the host: the plugin's page stays, and a change of the plugin's file starts a new task.
                tracing::error!(
                    plugin = &*name,
                    %error,
                    "the plugin's task crashed; replace the plugin's file to start it again"
                );
                if let Some(status) = self.engine.plugins.get(&name) {
                    status.failed_because(self.engine.clock.now_ms(), "its task crashed".to_owned());
                    status.enter(PluginState::Failed);
                }
            }
        }
        // The next look finds the file again, if it is still there.
        if is_written && !self.running.contains_key(&name) {
            self.settling.forget(&name);
        }
        later.into_iter().for_each(|request| self.serve(request));
    }

    /// Does what follows from the reason why a plugin's task ended.
    fn settle(&mut self, name: &str, EndedTask { unwanted, told, component }: EndedTask) {
        let has_unwanted = unwanted.is_some();
        match told {
            Some(TaskEnd::Stop) => self.forget(name),
            Some(TaskEnd::Anew(answer)) => {
                let is_out_of_use = |component: &Component| {
                    matches!(component.origin, ComponentOrigin::Bundled(_)) && self.bundled(name).is_none()
                };
                match component {
                    Some(component) if is_out_of_use(&component) => {
                        self.forget(name);
                        tracing::info!(plugin = name, "ended: the configuration has no section for it");
                    }
                    // The plugin's instances stay as they are until its next discovery.
                    Some(component) => self.begin(component, TaskStart::Back),
                    None => self.forget(name),
                }
                let _ = answer.send(Ok(()));
            }
            Some(TaskEnd::Gone) => {
                self.forget(name);
                tracing::info!(plugin = name, "removed");
                self.removed(name, Actor::Folder);
            }
            Some(TaskEnd::Remove(Requester { by, answer })) => {
                self.forget(name);
                self.settling.forget(name);
                tracing::info!(plugin = name, "removed");
                if self.bundled(name).is_none() {
                    self.engine.release_instances(name);
                }
                self.removed(name, by);
                let _ = answer.send(Ok(()));
            }
            Some(TaskEnd::NotRemoved(answer, why)) => {
                // The plugin is still there, and its instances stay.
                match component {
                    Some(component) => self.begin(component, TaskStart::Back),
                    None => self.forget(name),
                }
                let _ = answer.send(Err(why));
            }
            None => {
                self.forget(name);
                // A file of this name may have come while the upload was being checked.
                if let Some(component) = component.filter(|_| has_unwanted) {
                    self.begin(component, TaskStart::Found);
                }
            }
        }
        unwanted.into_iter().for_each(|unwanted| unwanted.answer());
    }

    fn forget(&self, name: &str) {
        self.engine.plugins.remove(name);
        self.engine.metrics.forget_plugin(name);
        self.engine.snapshots.remove(name, self.engine.clock.now_ms());
        self.engine.discovered(&name.into(), Vec::new(), self.engine.clock.now_ms());
    }
}
