//! Another configuration takes over while the host runs. All that can fail is tried first; when something does, nothing of
//! it is in force.

use crate::config::{Change, Config, ConfigError};
use crate::core::Core;
use crate::http::{Server, Tls};
use crate::json;
use crate::plugins::{self, Origin, PluginState, RefusedSection, Status, describe_need};
use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Reloads that may be asked for and not begun; who comes later is told to try again.
const MOST_WAITING: usize = 8;

/// Longest time a plugin that begins anew is waited for: one that was tried starts in less.
const SETTLED: Duration = Duration::from_secs(30);

/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(10);

/// What came of reading a configuration again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reload {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Why nothing of it is in force; none when it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Those that were changed.
    pub parts: Vec<Part>,
}

/// A part of a configuration that was changed: `[http]`, `[plugins.load]`, or a key that takes a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    pub part: String,
    pub outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What the plugin needs and is not granted, as in `read /proc/loadavg`: it runs without.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is in force.
    Applied,
    /// It takes a restart, and is as it was until then.
    Restart,
    /// It does not work.
    Failed,
    /// It would work, and is as it was because another part does not.
    NotApplied,
    /// It is in force, and its plugin is not up yet.
    Waiting,
}

/// Where reloads are asked for, and what is wrong since the last one.
#[derive(Debug)]
pub struct Reloads {
    asks: mpsc::Sender<Answer>,
    asked: Mutex<Option<mpsc::Receiver<Answer>>>,
    trouble: Mutex<Option<String>>,
}

/// Gets what came of a reload.
pub(crate) type Answer = oneshot::Sender<Reload>;

/// Why a reload cannot be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAsked {
    #[error("there is no configuration file to read again: the program this host is part of says what is in it")]
    Embedded,
    #[error("{MOST_WAITING} reloads wait already; try again when they are done")]
    TooMany,
}

// === impl Reloads ===

impl Default for Reloads {
    fn default() -> Self {
        let (asks, asked) = mpsc::channel(MOST_WAITING);
        Self { asks, asked: Mutex::new(Some(asked)), trouble: Mutex::default() }
    }
}

impl Reloads {
    /// Asks whoever has the configuration to read it again.
    pub(crate) fn ask(&self) -> Result<oneshot::Receiver<Reload>, NotAsked> {
        if self.asked.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Err(NotAsked::Embedded);
        }
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(answer).map_err(|_| NotAsked::TooMany)?;
        Ok(answered)
    }

    /// What is asked for from now on, for whoever has the configuration; none a second time.
    pub(crate) fn take_asked(&self) -> Option<mpsc::Receiver<Answer>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Why the configuration that was read last is not in force, or does not work, if so.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// === impl Reload ===

impl Reload {
    /// Whether all of it works, as far as it can without a restart.
    pub fn is_good(&self) -> bool {
        self.error.is_none() && self.failed().next().is_none()
    }

    fn failed(&self) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(|part| part.outcome == Outcome::Failed)
    }

    fn outcome(&self) -> &'static str {
        match (&self.error, self.is_good()) {
            (Some(_), _) => "refused",
            (None, false) => "failed",
            (None, true) => "applied",
        }
    }

    /// One line for a service manager.
    pub(crate) fn summary(&self) -> String {
        let failed: Vec<_> = self.failed().map(|part| part.part.as_str()).collect();
        match (&self.error, failed.is_empty()) {
            (Some(error), _) => {
                let first = error.lines().next().unwrap_or_default();
                format!("the configuration was read again and refused: {first}")
            }
            (None, true) => "the configuration was read again and is in force".to_owned(),
            (None, false) => {
                format!("the configuration was read again and is in force; not working: {}", failed.join(", "))
            }
        }
    }

    fn log(&self) {
        for Part { part, outcome, error, missing } in &self.parts {
            let error = error.as_deref().unwrap_or_default();
            match outcome {
                Outcome::Applied if missing.is_empty() => {
                    tracing::info!(part, "this part of the configuration is in force");
                }
                Outcome::Applied => {
                    let missing = missing.join(", ");
                    tracing::warn!(part, missing, "this part is in force, and does not grant what its plugin needs");
                }
                Outcome::Restart => {
                    tracing::warn!(key = part, "this key changed; restart the host to apply it");
                }
                Outcome::Failed => tracing::error!(part, error, "this part of the configuration does not work"),
                Outcome::NotApplied => tracing::warn!(part, "not applied, because another part failed"),
                Outcome::Waiting => tracing::warn!(part, error, "this part is in force, and its plugin is not up yet"),
            }
        }
        match &self.error {
            None => tracing::info!("the configuration was read again"),
            Some(error) => tracing::error!(error, "the configuration stays as it was"),
        }
    }
}

impl Part {
    fn new(part: impl Into<String>, outcome: Outcome) -> Self {
        Self { part: part.into(), outcome, error: None, missing: Vec::new() }
    }

    fn failed(part: impl Into<String>, why: impl Into<String>) -> Self {
        Self { error: Some(why.into()), ..Self::new(part, Outcome::Failed) }
    }

    fn waiting(part: impl Into<String>, why: impl Into<String>) -> Self {
        Self { error: Some(why.into()), ..Self::new(part, Outcome::Waiting) }
    }
}

/// Has a configuration take over, and notes what came of it. `said` is what the operator says now, from `file`.
pub(crate) async fn reload(core: &Arc<Core>, server: &Server, file: Option<&Path>, said: Result<Config>) -> Reload {
    let mut parts = Vec::new();
    let done = match said {
        Ok(config) => take_over(core, server, config, &mut parts).await,
        Err(error) => Err(error),
    };
    let file = file.map(|file| file.display().to_string());
    let reload = Reload { file, error: done.as_ref().err().map(|error| format!("{error:#}")), parts };
    reload.log();
    let at_ms = core.clock.now_ms();
    let at = json::time(at_ms);
    let trouble = match (&done, reload.failed().next()) {
        (Err(error), _) => {
            let why = for_readers(error);
            Some(format!("the configuration that was read at {at} is refused, and the one before is in force: {why}"))
        }
        (Ok(()), Some(part)) => {
            let (part, why) = (&part.part, part.error.as_deref().unwrap_or_default());
            Some(format!("the configuration that was read at {at} is in force, and {part} does not work: {why}"))
        }
        (Ok(()), None) => None,
    };
    core.metrics.config_reloads.with_label_values(&[reload.outcome()]).inc();
    core.metrics.config_last_reload_successful.set(trouble.is_none().into());
    *core.reloads.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    note_sections(core, &reload, at_ms);
    reload
}

/// Has the tokens be those that are in their files now, whatever becomes of the rest of the configuration: a token that was
/// replaced must not work until a plugin has started.
pub(crate) async fn reload_tokens(core: &Arc<Core>) {
    let _change = core.tokens.change().await;
    let shared = core.clone();
    // If that fails, the host is going.
    let _ = tokio::task::spawn_blocking(move || take_over_tokens(&shared)).await;
}

/// The same for a thread that may wait.
pub(crate) fn read_tokens_again(core: &Core) {
    let _change = core.tokens.change_and_wait();
    take_over_tokens(core);
}

fn take_over_tokens(core: &Core) {
    match core.tokens.read_again(&core.config.load()) {
        Ok(known) => {
            core.tokens.complain(None);
            if core.tokens.take_over(known) {
                tracing::info!("the tokens were read again");
                core.hub.part();
            }
        }
        Err(error) => {
            let why = format!("cannot read or make a token; the ones before stay in force: {error}");
            if core.tokens.complain(Some(why.clone())) {
                tracing::error!("{why}");
            }
        }
    }
}

/// Has the certificates be those that are in their files now, for whoever connects from now on, whatever becomes of the rest of
/// the configuration.
pub(crate) async fn reload_certificates(core: &Arc<Core>, server: &Server) {
    let _change = core.tokens.change().await;
    let config = core.config.load_full();
    let read = tokio::task::spawn_blocking(move || Tls::read(&config.tls));
    match read.await {
        Ok(Ok(tls)) => {
            if server.reload(tls) {
                core.hub.part();
            }
            tracing::info!("the certificates were read again");
        }
        Ok(Err(error)) => {
            let error = format!("{error:#}");
            tracing::error!(error, "cannot use the certificates; the ones before stay in force");
        }
        // The host is going.
        Err(_) => {}
    }
}

/// What may be shown to whoever reads: a syntax error quotes the line, which may be a secret.
fn for_readers(error: &anyhow::Error) -> String {
    let syntax = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(ConfigError::Syntax { path, message }) => Some((path.display(), message.lines().next()?)),
        _ => None,
    });
    match syntax {
        Some((path, first)) => format!("{path}: {first}; the log says more"),
        None => format!("{error:#}"),
    }
}

/// On the pages of plugins: which of their sections is refused.
fn note_sections(core: &Core, reload: &Reload, at_ms: i64) {
    // A file that cannot be understood says nothing of its sections.
    let were_tried = reload.error.is_none() || reload.failed().next().is_some();
    if !were_tried {
        return;
    }
    for status in core.plugins.list() {
        let part = section(&status.name);
        let failed = reload.failed().find(|failed| reload.error.is_some() && failed.part == part);
        let refused = failed.map(|failed| RefusedSection { at_ms, reason: failed.error.clone().unwrap_or_default() });
        status.update(|known| known.refused_section = refused);
    }
}

fn section(plugin: &str) -> String {
    format!("[plugins.{plugin}]")
}

async fn take_over(core: &Arc<Core>, server: &Server, config: Config, parts: &mut Vec<Part>) -> Result<()> {
    let before = core.config.load_full();
    let Change { config, needs_restart, changed } = Change::between(&before, config.validated()?);
    // What stays as it was must go with what does not.
    let config = Arc::new(config.validated().context("before a restart")?);
    parts.extend(needs_restart.into_iter().map(|key| Part::new(key, Outcome::Restart)));
    let others: Vec<_> = core.plugins.list().into_iter().filter(|status| !status.is_as(&config)).collect();
    let (natives, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|status| status.known().origin == Origin::Native);
    parts.extend(natives.iter().map(|native| Part::new(key_of_native(native, &config), Outcome::Restart)));

    // First all that can fail.
    let mut failed = unknown_names(core, &config, &before).await?;
    // A disk may answer late.
    let wanted = config.tls.clone();
    if let Err(error) = tokio::task::spawn_blocking(move || Tls::read(&wanted)).await? {
        failed.push(Part::failed("[tls]", format!("{error:#}")));
    }
    for status in &others {
        if let Err(why) = core.plugins.try_out(&status.name, &config).await {
            core.metrics.core.errors(&status.name, "load", 1);
            failed.push(Part::failed(section(&status.name), why.to_string()));
        }
    }
    let mut read = None;
    let change = core.tokens.change().await;
    if failed.is_empty() {
        // At last: files that are not there are made, and certificates may be others since.
        let (shared, wanted) = (core.clone(), config.clone());
        let both = move || (shared.tokens.read_again(&wanted), Tls::read(&wanted.tls));
        match tokio::task::spawn_blocking(both).await? {
            (Ok(tokens), Ok(tls)) => read = Some((tokens, tls)),
            (Err(error), _) => {
                let why = format!("cannot read or make a token: {error}");
                core.tokens.complain(Some(why.clone()));
                failed.push(Part::failed("[auth]", why));
            }
            (_, Err(error)) => failed.push(Part::failed("[tls]", format!("{error:#}"))),
        }
    }
    let Some((tokens, tls)) = read else { return Err(refuse(failed, &changed, &others, parts)) };

    // And now nothing does.
    core.config.store(config.clone());
    // Who connects from now on is asked for a certificate before one can be enough to read.
    let has_other_demands = server.reload(tls);
    let are_other_tokens = core.tokens.take_over(tokens);
    core.tokens.complain(None);
    drop(change);
    if has_other_demands || are_other_tokens {
        core.hub.part();
    }
    core.hub.allow(config.stream.streams());
    core.hub.allow_bytes(config.stream.buffer_bytes(core.memory));
    let refused = core.reconfigure_instances(&config)?;
    for part in changed {
        parts.push(match refused {
            0 => Part::new(part, Outcome::Applied),
            _ if part != "[[instances]]" => Part::new(part, Outcome::Applied),
            refused => {
                let most = config.poll.max_instances;
                let why = format!("{refused} of them are not tracked: poll.max_instances is {most}");
                Part::failed(part, why)
            }
        });
    }
    for status in &others {
        core.plugins.reconfigure(&status.name).await;
    }
    let deadline = Instant::now() + SETTLED;
    for status in &others {
        parts.push(settled(core, &status.name, deadline).await);
    }
    let is_new = |name: &&String| before.plugins.get(*name) != config.plugins.get(*name);
    let absent = config.plugins.keys().filter(is_new).filter(|name| core.plugins.get(name).is_none());
    parts.extend(absent.map(|name| Part::waiting(section(name), "no plugin of this name is there yet")));
    Ok(())
}

/// A native sampler is part of a program, and begins anew with it alone.
fn key_of_native(native: &Status, config: &Config) -> String {
    let has_other_section = native.config != config.plugin(&native.name);
    if has_other_section { format!("plugins.{}", native.name) } else { format!("poll, of {}", native.name) }
}

async fn unknown_names(core: &Core, config: &Arc<Config>, before: &Config) -> Result<Vec<Part>> {
    let folder = config.plugins_folder();
    let found = tokio::task::spawn_blocking(move || plugins::in_folder(folder.as_deref()));
    let found = found.await?.unwrap_or_default().into_iter().map(|component| component.name);
    let running = core.plugins.list().into_iter().map(|status| status.name.to_string());
    let known: BTreeSet<String> = found.chain(running).collect();
    let unknown = config.unknown_names(&known, Some(before)).into_iter();
    Ok(unknown.map(|unknown| Part::failed(unknown.part, unknown.why)).collect())
}

/// Why nothing is in force. What would have worked is named as such.
fn refuse(failed: Vec<Part>, changed: &[&str], others: &[Arc<Status>], parts: &mut Vec<Part>) -> anyhow::Error {
    let why = failed.iter().map(|failed| format!("{}: {}", failed.part, failed.error.as_deref().unwrap_or_default()));
    let why = anyhow!("{}", why.collect::<Vec<_>>().join("; "));
    let others = others.iter().map(|status| section(&status.name));
    let works = changed.iter().map(|part| (*part).to_owned()).chain(others);
    let works: Vec<_> = works.filter(|part| failed.iter().all(|failed| failed.part != *part)).collect();
    parts.extend(failed);
    parts.extend(works.into_iter().map(|part| Part::new(part, Outcome::NotApplied)));
    why
}

/// What became of a plugin that begins anew.
async fn settled(core: &Core, name: &str, deadline: Instant) -> Part {
    let part = section(name);
    loop {
        let Some(status) = core.plugins.get(name) else { return Part::waiting(part, "the plugin was removed") };
        match status.state() {
            PluginState::Running => {
                let missing = status.known().missing.iter().map(describe_need).collect();
                return Part { missing, ..Part::new(part, Outcome::Applied) };
            }
            PluginState::Backoff | PluginState::Quarantined | PluginState::Failed => {
                let last = status.known().last_failure.map(|failure| failure.reason);
                return Part::failed(part, last.unwrap_or_else(|| "it does not run".to_owned()));
            }
            PluginState::Loading | PluginState::Compiling if Instant::now() >= deadline => {
                return Part::waiting(part, "the plugin is still being loaded");
            }
            PluginState::Loading | PluginState::Compiling => tokio::time::sleep(LOOK).await,
        }
    }
}
