//! Tries a plugin with another section of the configuration, beside the running version: compiles it, asks it for its
//! needs and starts an instance. A trial changes nothing, and does not see what the plugin saved.

use super::prepare::{ComponentBytes, load, off_thread, start};
use super::status::SharedStatus;
use super::{Component, PluginState, PluginStatus, Plugins, RefusedVersion};
use crate::clock::Clock;
use crate::metrics::HostMetrics;
use crate::{Engine, Options};
use dropsonde_sandbox::{Need, Sandbox, SavedState};
use dropsonde_store::{Store, StoreLimits};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// The result of a successful trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrialOutcome {
    /// The needs of the plugin that the section does not grant.
    pub missing: Vec<Need>,
}

/// Why a component does not work with a configuration.
#[derive(Debug)]
pub struct TrialFailed {
    pub why: RefusedVersion,
    /// The component's sha256, in hex; `None` if the component could not be read.
    digest: Option<String>,
}

/// Tries components with a configuration, as a start of the host would, and keeps nothing. Returns each one's name and
/// result.
pub async fn try_components(
    options: Options,
    sandbox: Arc<Sandbox>,
    found: Vec<Component>,
) -> anyhow::Result<Vec<(String, Result<TrialOutcome, TrialFailed>)>> {
    // Without a data directory nothing is written.
    let options = Options { data_dir: None, ..options };
    let (wanted, _) = mpsc::channel(1);
    let store = Store::in_memory(&StoreLimits::default());
    let engine = Engine::new(options.clone(), Clock::system(), HostMetrics::new()?, store, Plugins::new(wanted))?;
    let mut tried = Vec::new();
    for component in found {
        let name = component.name.clone();
        tried.push((name, try_component(&engine, &sandbox, component, &options).await));
    }
    Ok(tried)
}

/// Tries a component with a configuration.
async fn try_component(
    engine: &Engine,
    sandbox: &Arc<Sandbox>,
    component: Component,
    options: &Options,
) -> Result<TrialOutcome, TrialFailed> {
    let status: SharedStatus =
        Arc::new(PluginStatus::new(component.name.as_str().into(), component.origin.clone(), false, options));
    let read = component.clone();
    let unread = |why| TrialFailed { why, digest: None };
    let bytes = off_thread(move || read.bytes().map(ComponentBytes::of)).await.map_err(unread)?;
    let bytes = bytes.map_err(|error| unread(RefusedVersion::Unreadable(error)))?;
    let digest = bytes.digest.clone();
    let failed = |why| TrialFailed { why, digest: Some(digest.clone()) };
    let loaded = load(engine, sandbox, &status, component, bytes, &watch::Sender::new(false)).await.map_err(failed)?;
    let started = start(engine, sandbox, &status, &loaded, &SavedState::default(), &mut None).await.map_err(failed)?;
    Ok(TrialOutcome { missing: started.missing })
}

/// Tries a plugin with another configuration. Ignores a fault that the plugin also has with the present one.
pub(super) async fn try_section(
    engine: &Engine,
    sandbox: &Arc<Sandbox>,
    now: &PluginStatus,
    component: Component,
    options: &Options,
) -> Result<(), RefusedVersion> {
    let Err(TrialFailed { why, digest }) = try_component(engine, sandbox, component, options).await else {
        return Ok(());
    };
    let (state, is_refused_file) =
        now.look(|known| (known.state, known.refused.as_ref().is_some_and(|refused| refused.digest == digest)));
    let is_of_component = matches!(why, RefusedVersion::Unreadable(_) | RefusedVersion::Refused(_));
    if is_refused_file || is_of_component {
        return Ok(());
    }
    if state != PluginState::Running {
        let has_other_section = now.config != options.plugin(&now.name);
        // A plugin that did not start before may fail to start for reasons that have nothing to do with the section.
        let is_starting = matches!(state, PluginState::Loading | PluginState::Compiling);
        let is_of_section = has_other_section && (is_starting || !matches!(why, RefusedVersion::Start(_)));
        return if is_of_section { Err(why) } else { Ok(()) };
    }
    Err(why)
}
