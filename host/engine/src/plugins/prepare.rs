//! Makes a plugin that can be polled out of a component: compiles it, asks it for its needs and starts its first
//! instance. All of this happens beside the running version.

use super::{Component, ComponentOrigin, Fields, RefusedVersion, grants_toml, missing, plain};
use crate::Engine;
use crate::address_space::Reservation;
use crate::options::NotTrusted;
use crate::plugins::status::SharedStatus;
use dropsonde_sandbox::{
    CallError, Compile, Description, Grants, Need, Plugin, PluginMetrics, Role, Sandbox, SavedState, Setup, Worker,
    introduce,
};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The most needs that a plugin may name: an operator cannot review a longer list.
pub(super) const MOST_NEEDS: usize = 256;

/// The time after which a compilation is logged.
const SHORT: Duration = Duration::from_millis(500);

/// The interval at which a compilation that goes on is logged again.
const LONG: Duration = Duration::from_secs(5);

/// A component's bytes, and their sha256 in hex. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ComponentBytes {
    pub(super) bytes: bytes::Bytes,
    pub(super) digest: String,
}

/// Returns the sha256 of a component in hex, as `sha256sum` prints it and the configuration pins it.
pub fn digest(component: &[u8]) -> String {
    Sha256::digest(component).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A compiled component.
#[derive(Debug, Clone)]
pub(super) struct LoadedPlugin {
    pub(super) component: Component,
    pub(super) plugin: Plugin,
    /// The component's sha256, in hex.
    pub(super) digest: String,
}

/// A plugin with its first instance.
#[derive(Debug)]
pub(super) struct StartedPlugin {
    pub(super) worker: Worker,
    /// `None` if the plugin is not a sampler.
    pub(super) fields: Option<Fields>,
    pub(super) description: Description,
    pub(super) grants: Grants,
    pub(super) missing: Vec<Need>,
    /// The plugin's address space. The plugin keeps it until it is replaced or removed.
    pub(super) room: Option<Reservation>,
}

impl LoadedPlugin {
    /// Returns whether the component came from a file, not with the binary.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.component.origin, ComponentOrigin::File(_))
    }
}

impl ComponentBytes {
    pub(super) fn of(bytes: bytes::Bytes) -> Self {
        Self { digest: digest(&bytes), bytes }
    }
}

/// Compiles a component off the server's threads, or takes it from the cache. `waits` is true while the component waits
/// for its turn to be compiled.
pub(super) async fn load(
    engine: &Engine,
    sandbox: &Arc<Sandbox>,
    status: &SharedStatus,
    component: Component,
    ComponentBytes { bytes, digest }: ComponentBytes,
    waits: &watch::Sender<bool>,
) -> Result<LoadedPlugin, RefusedVersion> {
    if let Some(wanted) = status.config.sha256.as_ref().filter(|wanted| !wanted.eq_ignore_ascii_case(&digest)) {
        let (plugin, wanted) = (component.name, wanted.clone());
        return Err(RefusedVersion::Pinned { plugin, found: digest, wanted });
    }
    let trusted = engine.options.load().trusted_keys.clone();
    if let (ComponentOrigin::File(file), false) = (&component.origin, trusted.is_empty()) {
        let (file, signed) = (file.clone(), bytes.clone());
        // A slow disk must not block this thread.
        let verified = tokio::task::spawn_blocking(move || trusted.verify_file(&file, &signed)).await;
        verified.unwrap_or(Err(NotTrusted::Malformed))?;
    }
    let (started, size) = (Instant::now(), bytes.len());
    let compile = Compile { owner: status.name.clone(), limit: status.limits.compile_time, waits };
    let mut compiled = std::pin::pin!(sandbox.load_in_turn(bytes, compile));
    let mut patience = SHORT;
    let plugin = loop {
        match tokio::time::timeout(patience, &mut compiled).await {
            Ok(plugin) => break plugin,
            Err(_) => {
                let so_far = started.elapsed();
                tracing::info!(
                    plugin = &*status.name,
                    bytes = size,
                    so_far = format_args!("{so_far:.1?}"),
                    "{}",
                    if *waits.borrow() { "waiting for its turn to be compiled" } else { "compiling" }
                );
                patience = LONG;
            }
        }
    };
    let took = started.elapsed();
    // The time counts whether the component is refused or not.
    engine.metrics.build_seconds.with_label_values(&[&*status.name]).observe(took.as_secs_f64());
    let plugin = plugin.map_err(RefusedVersion::Refused)?;
    if took > SHORT {
        tracing::info!(plugin = &*status.name, bytes = size, took = format_args!("{took:.1?}"), "compiled");
    } else {
        tracing::debug!(plugin = &*status.name, ?took, "compiled");
    }
    Ok(LoadedPlugin { component, plugin, digest })
}

/// Asks a plugin for its needs, compares them with its grants and starts its first instance. If `room` has too little
/// address space for that, takes another room.
pub(super) async fn start(
    engine: &Engine,
    sandbox: &Arc<Sandbox>,
    status: &SharedStatus,
    LoadedPlugin { component, plugin, .. }: &LoadedPlugin,
    state: &SavedState,
    room: &mut Option<Reservation>,
) -> Result<StartedPlugin, RefusedVersion> {
    let needed = plugin.address_space(&status.limits);
    if room.as_ref().is_none_or(|room| !room.holds(needed)) {
        *room = Some(engine.rooms.take(needed, &engine.options.load(), engine.memory)?);
    }
    let is_bundled = matches!(component.origin, ComponentOrigin::Bundled(_));
    let started = Instant::now();
    let mut setup = Setup {
        name: component.name.clone(),
        config: status.config.json(),
        grants: Grants::default(),
        limits: status.limits,
        state: state.clone(),
        metrics: PluginMetrics::new(
            status.name.clone(),
            engine.metrics.registry.names().clone(),
            engine.options.load().metrics.max_series_per_plugin,
        ),
        ..Setup::default()
    };
    let introduction = introduce(sandbox, plugin.clone(), setup.clone()).await.map_err(RefusedVersion::Start)?;
    let needs = introduction.needs.map_err(RefusedVersion::Invalid)?;
    // Nobody reviews the needs of a bundled plugin: they follow from its configuration.
    if needs.len() > MOST_NEEDS && !is_bundled {
        return Err(RefusedVersion::TooManyNeeds(needs.len()));
    }
    let root = engine.options.load().root.clone();
    let granted = |needs: Vec<Need>| Grants::beneath(root.as_ref(), needs);
    let grants = match (&status.config.grants, &component.origin) {
        (Some(grants), _) => granted(grants.needs().collect()),
        // It came with the binary, so it is granted what it needs with its configuration.
        (None, ComponentOrigin::Bundled(_)) => granted(needs.clone()),
        (None, ComponentOrigin::File(_) | ComponentOrigin::Native) => Ok(Grants::default()),
    };
    setup.grants = grants.map_err(RefusedVersion::Grants)?;
    let grants = setup.grants.clone();
    if !is_bundled && engine.options.load().bundled(&component.name).is_some() {
        tracing::warn!(plugin = &*status.name, "a file replaces the bundled plugin of this name");
    }
    let missing = missing(&needs, &grants);
    if !missing.is_empty() {
        tracing::warn!(
            plugin = &*status.name,
            "needs what it is not granted; if you trust it, add to the configuration:\n{}",
            grants_toml(&component.name, &needs)
        );
    }
    let worker = Worker::start(sandbox, plugin.clone(), setup).await;
    let worker = worker.map_err(|error| match error.invalid() {
        Some(why) => RefusedVersion::Invalid(why.to_owned()),
        None => RefusedVersion::Start(error),
    })?;
    let fields = plugin.has(Role::Sampler).then(|| Fields::check(&component.name, worker.fields())).transpose();
    let fields = fields.map_err(RefusedVersion::Fields)?;
    engine.metrics.cold_start_seconds.with_label_values(&[&*status.name]).observe(started.elapsed().as_secs_f64());
    let Description { name, version, about } = introduction.description;
    let description = Description { name: plain(&name), version: plain(&version), about: plain(&about) };
    Ok(StartedPlugin { worker, fields, description, grants, missing, room: None })
}

/// Runs work that takes long or waits for a disk, off the server's threads.
pub(super) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, RefusedVersion> {
    tokio::task::spawn_blocking(work).await.map_err(|_| RefusedVersion::Start(CallError::Stopped))
}
