//! `dropsonde serve --check`: finds the errors that a start would find. It creates nothing and serves nothing.

use crate::config::{Config, Listen};
use crate::host;
use anyhow::{Context as _, Result, anyhow, bail};
use dropsonde_engine::HISTORY;
use dropsonde_engine::plugins::{self, Component, TrialOutcome, describe_need, grants_toml};
use dropsonde_engine::rules;
use dropsonde_http::tokens;
use dropsonde_http::{Tls, probe};
use dropsonde_model::text;
use dropsonde_store::inspect;
use rustix::fs::{Access, access};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// A part of a check, with what is wrong there.
pub(in crate::cli) struct CheckedPart {
    pub(in crate::cli) name: &'static str,
    pub(in crate::cli) wrong: Vec<anyhow::Error>,
}

/// Fails with all errors at once.
pub(super) async fn check(config: &Config) -> Result<()> {
    let address = CheckedPart::new("address", check_listen(&config.listen));
    let data = CheckedPart::new("data directory", check_unused(config));
    let parts = [address, data].into_iter().chain(parts(config).await?);
    let mut wrong: Vec<String> = parts.flat_map(|part| part.wrong).map(|error| text::error(&*error)).collect();
    match wrong.len() {
        0 => Ok(()),
        1 => bail!(wrong.pop().unwrap_or_default()),
        count => {
            let mut all = format!("{count} errors:");
            for wrong in wrong {
                let _ = write!(all, "\n- {wrong}");
            }
            bail!(all)
        }
    }
}

/// Checks everything that a running host does not change.
pub(in crate::cli) async fn parts(config: &Config) -> Result<Vec<CheckedPart>> {
    let engine = config.engine();
    let tokens = config.http();
    let tokens = tokens.token_files().filter_map(|file| check_token(config, &file).err());
    let delivery = dropsonde_delivery::check(&config.delivery()).into_iter().map(|why| anyhow!(why));
    let rules = rules::check(&engine.rules).into_iter();
    Ok(vec![
        CheckedPart::new("certificates", Tls::read(&config.tls).map(drop)),
        CheckedPart { name: "tokens", wrong: tokens.collect() },
        CheckedPart { name: "delivery", wrong: delivery.collect() },
        CheckedPart {
            name: "rules",
            wrong: rules.map(|failure| anyhow!("{}: {}", failure.file, failure.why)).collect(),
        },
        CheckedPart::new("data directory", check_data(config)),
        CheckedPart { name: "plugins", wrong: check_folder(config).await? },
    ])
}

/// Checks the folder of plugins, and tries each of them.
async fn check_folder(config: &Config) -> Result<Vec<anyhow::Error>> {
    let engine = config.engine();
    let found = match &config.plugins_dir {
        Some(folder) if !folder.is_dir() => {
            Err(anyhow!("plugins_dir = {}: no such folder; create it, or name another", folder.display()))
        }
        _ => plugins::in_folder(engine.plugins_dir.as_deref(), &engine).map_err(anyhow::Error::from),
    };
    let found = match found {
        Ok(found) => found,
        Err(error) => return Ok(vec![error]),
    };
    let known: BTreeSet<String> = found.iter().map(|component| component.name.clone()).collect();
    let unknown = engine.unknown_names(&known, None).into_iter().map(|unknown| anyhow!("{}", unknown.why));
    Ok(unknown.chain(check_plugins(config, found).await?).collect())
}

fn check_token(config: &Config, file: &Path) -> Result<()> {
    match tokens::read(file) {
        // The host creates a missing file. It creates the data directory too, but no other folder.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if config.auth.file_is_named(file) {
                has_folder(file)
            } else {
                Ok(())
            }
        }
        read => read.map(drop).with_context(|| file.display().to_string()),
    }
}

fn check_listen(listen: &Listen) -> Result<()> {
    if let Listen::Unix(path) = listen {
        has_folder(path)?;
    }
    probe(listen)
}

fn has_folder(file: &Path) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() { Ok(()) } else { bail!("cannot create {}: no such folder", file.display()) }
}

/// Checks that no host uses the data directory.
fn check_unused(config: &Config) -> Result<()> {
    if config.store.memory_only {
        return Ok(());
    }
    let data = config.data_dir()?;
    let history = data.join(HISTORY);
    let is_in_use = match fs::metadata(&history) {
        Ok(_) => inspect::is_in_use(&history).with_context(|| format!("cannot read {}", history.display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", history.display())),
    };
    if is_in_use {
        bail!("{} is in use by a running host; choose another folder with --data, or stop that host", data.display());
    }
    Ok(())
}

/// Checks that the data directory can be written to or created.
fn check_data(config: &Config) -> Result<()> {
    if config.store.memory_only {
        return Ok(());
    }
    let data = config.data_dir()?;
    let history = data.join(HISTORY);
    if let Some(first) = inspect::stats(&history).ok().and_then(|stats| stats.newer.into_iter().next()) {
        bail!(
            "a later version of Dropsonde wrote history in {} ({first}): start that version again, or choose another \
             folder with --data",
            history.display()
        );
    }
    // The data directory, or the folder it would be created in.
    let place = data.ancestors().find(|place| place.exists()).unwrap_or(Path::new("."));
    let what = if place == data { "write to" } else { "create" };
    if !place.is_dir() {
        bail!("cannot {what} {}: {} is not a folder", data.display(), place.display());
    }
    let writable = access(place, Access::WRITE_OK | Access::EXEC_OK).map_err(std::io::Error::from);
    writable.with_context(|| format!("cannot {what} {}; choose another folder with --data", data.display()))
}

/// Asks every plugin for its needs, and starts it with its section in a separate sandbox. Returns all errors.
async fn check_plugins(config: &Config, found: Vec<Component>) -> Result<Vec<anyhow::Error>> {
    let mut wrong = Vec::new();
    for (name, tried) in host::try_plugins(config, found).await? {
        match tried {
            Err(failed) => wrong.push(anyhow!("plugin {name}: {}", failed.why)),
            Ok(TrialOutcome { missing }) if missing.is_empty() => {}
            Ok(TrialOutcome { missing }) => {
                let needs: Vec<_> = missing.iter().map(describe_need).collect();
                wrong.push(anyhow!(
                    "plugin {name} needs more than it is granted: {}; if you trust it, add to the configuration:\n{}",
                    needs.join(", "),
                    grants_toml(&name, &missing).trim_end()
                ));
            }
        }
    }
    Ok(wrong)
}

// === impl CheckedPart ===

impl CheckedPart {
    fn new(name: &'static str, checked: Result<()>) -> Self {
        Self { name, wrong: checked.err().into_iter().collect() }
    }
}
