//! The plugins of a running host: their origins, states and grants.
//!
//! # Layout
//!
//! * `find`, `watcher`, `debounce`: find components, and notice when a file has changed and is complete.
//! * `supervisor`: runs one task per plugin, and passes changes on to the tasks. `task_end`: the end of such a task.
//! * `run`, `poll`: start and poll the current version. `batches`, `backoff`, `quarantine`: handle calls that end badly.
//! * `native`: polls native samplers and sources in the same way.
//! * `updater`, `mailbox`, `prepare`, `last_good`: prepare a newer version beside the running one. It takes over between
//!   two ticks, through `handover_slot`. `refused_version`: why a version is refused.
//! * `failure_log`: decides which failures of a plugin are logged.
//! * `trial`: tries a plugin with another configuration beside the running version.
//! * `status`, `plugin_json`: the state of a plugin, and the JSON that shows it.
//! * `fields`: turns fields into columns and metrics. `state_file`: stores what a plugin saves.

mod backoff;
mod batches;
mod debounce;
mod failure_log;
mod fields;
mod find;
mod handover_slot;
mod last_good;
mod mailbox;
mod native;
mod plugin_json;
mod poll;
mod prepare;
mod quarantine;
mod refused_version;
mod run;
mod state_file;
mod status;
mod supervisor;
mod task_end;
mod trial;
mod updater;
mod watcher;

pub(crate) use debounce::FileSignature;
pub use fields::{BadFields, FieldMetric, Fields};
pub use find::{BundledPlugin, Component, ComponentOrigin, FindError, in_folder};
pub use native::BadNative;
pub use plugin_json::PluginPage;
pub use refused_version::RefusedVersion;
pub use status::{OperatorOrder, PluginInfo, PluginState, PluginStatus, RefusedSection, SetAsideInstance};
pub use supervisor::{PluginRequest, RequestError, RequestKind};

pub(crate) use failure_log::{FailureKind, FailureLog};
pub use fields::plain;
pub use find::LARGEST;
pub(crate) use native::start as start_natives;
pub use plugin_json::describe_need;
pub use prepare::digest;
pub use status::BY_OPERATOR;
pub(crate) use supervisor::Supervisor;
pub use trial::{TrialFailed, TrialOutcome, try_components};

use crate::audit::Actor;
use crate::options::Options;
use crate::tracked::PluginName;
use dropsonde_sandbox::{Grants, Need, Role};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use tokio::sync::{mpsc, oneshot};

/// The number of plugins whose refused versions the log remembers.
const MOST_REFUSED: usize = 1024;

/// All plugins by name.
#[derive(Debug)]
pub struct Plugins {
    all: RwLock<BTreeMap<PluginName, Arc<PluginStatus>>>,
    /// Why the plugins folder cannot be read, if it cannot.
    folder_trouble: RwLock<Option<String>>,
    /// The logs of refused versions, by plugin. They outlive their plugins, which may come and go.
    refusals: Mutex<BTreeMap<PluginName, Arc<FailureLog>>>,
    requests: mpsc::Sender<PluginRequest>,
}

impl Plugins {
    /// Creates an empty set. Requests about its plugins go to the receiver of `requests`.
    pub fn new(requests: mpsc::Sender<PluginRequest>) -> Self {
        let (all, folder_trouble, refusals) = (RwLock::default(), RwLock::default(), Mutex::default());
        Self { all, folder_trouble, refusals, requests }
    }

    /// Sends a request to the supervisor. The answer comes through the request's own channel.
    pub async fn request(&self, request: PluginRequest) {
        // When the host is stopping, the request is dropped with its channel.
        let _ = self.requests.send(request).await;
    }

    /// Tries a plugin with its section of another configuration, beside the running version. May take as long as
    /// compiling.
    pub async fn try_out(&self, plugin: &str, config: &Arc<Options>) -> Result<(), RequestError> {
        self.ask(plugin, RequestKind::TryOut(config.clone())).await
    }

    /// Restarts a plugin's task with the configuration in force, and waits until the new task runs.
    pub async fn reconfigure(&self, plugin: &str) {
        // The plugin may be gone by now.
        let _ = self.ask(plugin, RequestKind::Reconfigure).await;
    }

    /// Restarts the tasks of all plugins, because their saved state has become readable. Blocks the thread.
    pub(crate) fn restart_all(&self) {
        for status in self.list() {
            let (answer, _) = oneshot::channel();
            let (plugin, what) = (status.name.to_string(), RequestKind::Reconfigure);
            // Without a receiver the host is stopping.
            let _ = self.requests.blocking_send(PluginRequest { plugin, what, by: Actor::Host, answer });
        }
    }

    async fn ask(&self, plugin: &str, what: RequestKind) -> Result<(), RequestError> {
        let (answer, answered) = oneshot::channel();
        self.request(PluginRequest { plugin: plugin.to_owned(), what, by: Actor::Host, answer }).await;
        // Without an answer the host is stopping.
        answered.await.unwrap_or(Ok(()))
    }

    /// Returns the log of a plugin's refused versions. Beyond [`MOST_REFUSED`] plugins, forgets the first one by name.
    pub(crate) fn refusals(&self, plugin: &PluginName) -> Arc<FailureLog> {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        if refusals.len() >= MOST_REFUSED && !refusals.contains_key(plugin) {
            refusals.pop_first();
        }
        refusals.entry(plugin.clone()).or_default().clone()
    }

    /// Returns why the plugins folder cannot be read, if so. Plugins stay as they are until it can be read again.
    pub(crate) fn folder_trouble(&self) -> Option<String> {
        self.folder_trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets or clears the reason why the plugins folder cannot be read. Returns whether it changed.
    pub(crate) fn set_folder_trouble(&self, trouble: Option<String>) -> bool {
        let mut known = self.folder_trouble.write().unwrap_or_else(PoisonError::into_inner);
        let is_other = *known != trouble;
        *known = trouble;
        is_other
    }

    pub fn add(&self, status: Arc<PluginStatus>) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(status.name.clone(), status);
    }

    pub fn remove(&self, name: &str) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    pub fn get(&self, name: &str) -> Option<Arc<PluginStatus>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Returns whether a plugin that was there at the start is still being loaded.
    pub fn is_starting(&self) -> bool {
        let pending = |state| matches!(state, PluginState::Loading | PluginState::Compiling);
        self.list().iter().any(|plugin| plugin.is_of_start && pending(plugin.state()))
    }

    /// Returns all plugins, sorted by name.
    pub fn list(&self) -> Vec<Arc<PluginStatus>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Returns the plugins that describe an application.
    pub fn sources(&self) -> Vec<Arc<PluginStatus>> {
        let mut sources = self.list();
        sources.retain(|plugin| plugin.has(Role::Source));
        sources
    }
}

/// Returns the needs that `grants` do not cover.
pub fn missing(needs: &[Need], grants: &Grants) -> Vec<Need> {
    needs.iter().filter(|need| !grants.cover(need)).cloned().collect()
}

/// Returns the lines of configuration that grant a plugin what it needs.
pub fn grants_toml(plugin: &str, needs: &[Need]) -> String {
    let mut toml = format!("[plugins.{}.grants]\n", toml_key(plugin));
    for (key, kind) in [("read", "read"), ("http", "http"), ("env", "env"), ("dirs", "dir")] {
        let what: Vec<_> = needs.iter().filter(|need| need.kind() == kind).collect();
        let what: Vec<_> = what.into_iter().map(|need| toml_string(&fields::plain(need.what()))).collect();
        if !what.is_empty() {
            toml.push_str(&format!("{key} = [{}]\n", what.join(", ")));
        }
    }
    toml
}

fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn toml_key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if bare { name.to_owned() } else { toml_string(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suggested_grants_are_valid_toml_with_the_missing_needs() {
        let needs = [Need::Read("/proc/stat".to_owned()), Need::Read("/a\"b\\".to_owned()), Need::Env("TZ".to_owned())];
        let toml = grants_toml("my plugin", &needs);
        let parsed: toml::Table = toml::from_str(&toml).unwrap();
        let read = &parsed["plugins"]["my plugin"]["grants"]["read"];
        assert_eq!(read.as_array().unwrap()[1].as_str(), Some("/a\"b\\"));
        assert_eq!(parsed["plugins"]["my plugin"]["grants"]["env"][0].as_str(), Some("TZ"));
    }
}
