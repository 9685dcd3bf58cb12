//! Applies another configuration while the host runs. Everything that can fail is tried first; if a part fails, nothing
//! changes.

use crate::config::{Config, ConfigChange, ConfigError};
use anyhow::{Context as _, Result, anyhow};
use arc_swap::ArcSwap;
use dropsonde_delivery::Deliveries;
use dropsonde_engine::plugins::{self, ComponentOrigin, PluginState, PluginStatus, RefusedSection, describe_need};
use dropsonde_engine::{Engine, Options, json};
pub use dropsonde_http::reload::{PartOutcome, ReloadPart, ReloadReport};
use dropsonde_http::{Server, Tls};
use dropsonde_model::text;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Longest wait for a plugin that restarts: one that passed its trial starts in less.
const SETTLED: Duration = Duration::from_secs(30);

/// The part of the configuration whose files have mistakes of their own.
const RULES: &str = "rules";

/// Time between two checks whether a plugin has restarted.
const LOOK: Duration = Duration::from_millis(10);

/// Applies a configuration, and records the outcome in the log, metrics, health and plugins' pages. `said` is the
/// configuration that was read from `file`, or the error.
pub(crate) async fn reload(
    in_force: &ArcSwap<Config>,
    server: &Server,
    deliveries: &Deliveries,
    file: Option<&Path>,
    said: Result<Config>,
) -> ReloadReport {
    let engine = &server.app().engine;
    let mut parts = Vec::new();
    let done = match said {
        Ok(config) => take_over(in_force, server, deliveries, config, &mut parts).await,
        Err(error) => Err(error),
    };
    let file = file.map(|file| file.display().to_string());
    let reload = ReloadReport { file, error: done.as_ref().err().map(|error| text::error(&**error)), parts };
    reload.log();
    let at_ms = engine.clock.now_ms();
    let at = json::time(at_ms);
    // The engine itself tells of rule files.
    let trouble = match (&done, reload.failed().find(|failed| failed.part != RULES)) {
        (Err(error), _) => {
            let why = for_readers(error);
            Some(format!("the configuration read at {at} was refused, and the previous one stays in force: {why}"))
        }
        (Ok(()), Some(part)) => {
            let (part, why) = (&part.part, part.error.as_deref().unwrap_or_default());
            Some(format!("the configuration read at {at} is in force, but {part} does not work: {why}"))
        }
        (Ok(()), None) => None,
    };
    engine.metrics.config_reloads.with_label_values(&[reload.outcome()]).inc();
    engine.metrics.config_last_reload_successful.set(reload.is_good().into());
    server.app().reloads.set_trouble(trouble);
    server.app().reloads.set_waiting_for_restart(&reload);
    note_sections(engine, &reload, at_ms);
    reload
}

/// Returns the error as clients may see it. A syntax error quotes the line of the file, which can hold a secret.
fn for_readers(error: &anyhow::Error) -> String {
    let syntax = error.chain().find_map(|cause| match cause.downcast_ref() {
        Some(ConfigError::Syntax { path, message }) => Some((path.display(), message.lines().next()?)),
        _ => None,
    });
    match syntax {
        Some((path, first)) => format!("{path}: {first}; the log has the details"),
        None => text::error(&**error),
    }
}

/// Notes on each plugin's page whether its section was refused.
fn note_sections(engine: &Engine, reload: &ReloadReport, at_ms: i64) {
    // No section was tried if the file could not be read.
    let were_tried = reload.error.is_none() || reload.failed().next().is_some();
    if !were_tried {
        return;
    }
    for status in engine.plugins.list() {
        let part = section(&status.name);
        let failed = reload.failed().find(|failed| reload.error.is_some() && failed.part == part);
        let refused = failed.map(|failed| RefusedSection { at_ms, reason: failed.error.clone().unwrap_or_default() });
        status.update(|known| known.refused_section = refused);
    }
}

fn section(plugin: &str) -> String {
    format!("[plugins.{plugin}]")
}

async fn take_over(
    in_force: &ArcSwap<Config>,
    server: &Server,
    deliveries: &Deliveries,
    config: Config,
    parts: &mut Vec<ReloadPart>,
) -> Result<()> {
    let (app, engine) = (server.app(), &server.app().engine);
    let before = in_force.load_full();
    let ConfigChange { config, needs_restart, changed } = ConfigChange::between(&before, config.validated()?);
    // The kept old values and the new ones may contradict each other, so check the combination.
    let config = config.validated().context("together with the keys that need a restart")?;
    let (options, served, delivered) = (Arc::new(config.engine()), Arc::new(config.http()), config.delivery());
    let before_options = before.engine();
    parts.extend(needs_restart.into_iter().map(|key| ReloadPart::new(key, PartOutcome::Restart)));
    let others: Vec<_> = engine.plugins.list().into_iter().filter(|status| !status.has_settings_of(&options)).collect();
    let (natives, others): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|status| status.look(|known| known.origin == ComponentOrigin::Native));
    parts.extend(natives.iter().map(|native| ReloadPart::new(key_of_native(native, &options), PartOutcome::Restart)));

    // First, try everything that can fail.
    let mut failed = unknown_names(engine, &options, &before_options).await?;
    // A slow disk must not block this thread.
    let wanted = config.tls.clone();
    if let Err(error) = tokio::task::spawn_blocking(move || Tls::read(&wanted)).await? {
        failed.push(ReloadPart::failed("[tls]", text::error(&*error)));
    }
    // Some bundled plugins run once they have a section.
    let begin = options.bundled_in_use().filter(|bundled| engine.plugins.get(bundled.name).is_none());
    let others = others.iter().map(|status| status.name.to_string());
    let others: Vec<String> = others.chain(begin.map(|bundled| bundled.name.to_owned())).collect();
    // The file that such a plugin is to have is not there yet: it is pulled once this configuration is in force.
    let awaits_pull = |name: &str| {
        let pinned =
            |options: &Options| options.plugins.get(name).map(|section| (section.from.clone(), section.sha256.clone()));
        let now = pinned(&options).filter(|(from, sha256)| from.is_some() && sha256.is_some());
        now.is_some() && now != pinned(&before_options)
    };
    for name in others.iter().filter(|name| !awaits_pull(name)) {
        if let Err(why) = engine.plugins.try_out(name, &options).await {
            engine.metrics.core.errors(name, "load", 1);
            failed.push(ReloadPart::failed(section(name), why.to_string()));
        }
    }
    let mut read = None;
    let change = app.tokens.change().await;
    if failed.is_empty() {
        // Last, because it creates missing token files. Certificates are read again: they may have changed since.
        let (shared, wanted) = (app.clone(), served.clone());
        let both = move || (shared.tokens.read_again(&wanted), Tls::read(&wanted.tls));
        match tokio::task::spawn_blocking(both).await? {
            (Ok(tokens), Ok(tls)) => read = Some((tokens, tls)),
            (Err(error), _) => {
                let why = format!("cannot read or make a token: {error}");
                app.tokens.set_read_failure(Some(why.clone()));
                failed.push(ReloadPart::failed("[auth]", why));
            }
            (_, Err(error)) => failed.push(ReloadPart::failed("[tls]", text::error(&*error))),
        }
    }
    let Some((tokens, tls)) = read else { return Err(refuse(failed, &changed, &others, parts)) };

    // Everything was tried; now apply it.
    engine.options.store(options.clone());
    app.options.store(served);
    in_force.store(Arc::new(config));
    // First new connections are asked for a certificate, then a certificate alone can allow reading.
    let has_other_demands = server.reload(tls);
    let are_other_tokens = app.tokens.take_over(tokens);
    app.tokens.set_read_failure(None);
    drop(change);
    if has_other_demands || are_other_tokens {
        engine.hub.end_client_streams();
    }
    engine.hub.allow(options.stream.streams());
    engine.hub.allow_bytes(options.stream.buffer_bytes(engine.memory));
    let refused = engine.reconfigure_instances(&options)?;
    for part in changed {
        parts.push(match refused {
            0 => ReloadPart::new(part, PartOutcome::Applied),
            _ if part != "[[instances]]" => ReloadPart::new(part, PartOutcome::Applied),
            refused => {
                let most = options.poll.max_instances();
                let why =
                    format!("{refused} instances are not tracked: limit of {most} reached; raise poll.max_instances");
                ReloadPart::failed(part, why)
            }
        });
    }
    deliveries.reconfigure(delivered).await;
    for failure in engine.rules.reload().await {
        parts.push(ReloadPart::failed(RULES, failure.to_string()));
    }
    for name in &others {
        engine.plugins.reconfigure(name).await;
    }
    let deadline = Instant::now() + SETTLED;
    for name in &others {
        parts.push(match awaits_pull(name) {
            true => ReloadPart::waiting(section(name), "it is being pulled"),
            false => settled(engine, name, deadline).await,
        });
    }
    let is_new = |name: &&String| before.plugins.get(*name) != options.plugins.get(*name);
    let absent = options.plugins.keys().filter(is_new).filter(|name| engine.plugins.get(name).is_none());
    parts.extend(absent.map(|name| ReloadPart::waiting(section(name), "there is no plugin of this name yet")));
    Ok(())
}

/// Returns the changed key of a native sampler or source, which restarts only with its program.
fn key_of_native(native: &PluginStatus, options: &Options) -> String {
    let has_other_section = native.config != options.plugin(&native.name);
    if has_other_section { format!("plugins.{}", native.name) } else { format!("poll, of {}", native.name) }
}

async fn unknown_names(engine: &Engine, options: &Options, before: &Options) -> Result<Vec<ReloadPart>> {
    let (folder, found) = (options.plugins_dir.clone(), options.clone());
    let found = tokio::task::spawn_blocking(move || plugins::in_folder(folder.as_deref(), &found));
    let found = found.await?.unwrap_or_default().into_iter().map(|component| component.name);
    let running = engine.plugins.list().into_iter().map(|status| status.name.to_string());
    let known: BTreeSet<String> = found.chain(running).collect();
    let unknown = options.unknown_names(&known, Some(before)).into_iter();
    Ok(unknown.map(|unknown| ReloadPart::failed(unknown.part, unknown.why)).collect())
}

/// Returns the error of a refused reload. Adds to `parts` what failed, and what would have worked.
fn refuse(failed: Vec<ReloadPart>, changed: &[&str], others: &[String], parts: &mut Vec<ReloadPart>) -> anyhow::Error {
    let why = failed.iter().map(|failed| format!("{}: {}", failed.part, failed.error.as_deref().unwrap_or_default()));
    let why = anyhow!("{}", why.collect::<Vec<_>>().join("; "));
    let others = others.iter().map(|name| section(name));
    let works = changed.iter().map(|part| (*part).to_owned()).chain(others);
    let works: Vec<_> = works.filter(|part| failed.iter().all(|failed| failed.part != *part)).collect();
    parts.extend(failed);
    parts.extend(works.into_iter().map(|part| ReloadPart::new(part, PartOutcome::NotApplied)));
    why
}

/// Waits until a restarting plugin runs or fails, and returns the outcome.
async fn settled(engine: &Engine, name: &str, deadline: Instant) -> ReloadPart {
    let part = section(name);
    loop {
        let Some(status) = engine.plugins.get(name) else { return ReloadPart::waiting(part, "the plugin was removed") };
        match status.state() {
            PluginState::Running => {
                let missing = status.look(|known| known.missing.iter().map(describe_need).collect());
                return ReloadPart { missing, ..ReloadPart::new(part, PartOutcome::Applied) };
            }
            PluginState::Backoff | PluginState::Quarantined | PluginState::Failed => {
                let last = status.look(|known| known.last_failure.as_ref().map(|failure| failure.reason.clone()));
                return ReloadPart::failed(part, last.unwrap_or_else(|| "the plugin does not run".to_owned()));
            }
            PluginState::Loading | PluginState::Compiling if Instant::now() >= deadline => {
                return ReloadPart::waiting(part, "the plugin is still being loaded");
            }
            PluginState::Loading | PluginState::Compiling => tokio::time::sleep(LOOK).await,
        }
    }
}
