//! Pulls plugins that the configuration takes from registries into the plugins folder, where the host finds them as it
//! finds any other. What was pulled before is used without the registry.

use crate::config::{Config, PluginConfig, TrustedKeys};
use anyhow::{Context as _, Result, ensure};
use dropsonde_engine::plugins;
use dropsonde_model::text;
use dropsonde_registry::{Credentials, Digest, Found, Reference, Registry};
use dropsonde_sandbox::replace::{PRIVATE, make_inside, replace_file};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// First wait before a pull is tried again, and the longest: each is twice as long as the one before.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(600);

/// A component may have many bytes, which are in memory while it is pulled.
static ONE_AT_A_TIME: Semaphore = Semaphore::const_new(1);

/// The folder in the data directory with the records of pulls.
const FOLDER: &str = "pulled";

/// The record of a pull for a plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The reference in the configuration.
    from: String,
    /// The same with the digest of the manifest.
    pinned: String,
    /// The component's sha256.
    component: Digest,
}

/// One plugin to pull.
struct Pull {
    name: String,
    from: String,
    sha256: Option<String>,
    trusted: TrustedKeys,
    /// The plugin's file.
    file: PathBuf,
    record: PathBuf,
}

/// Pulls what is missing, until the returned tasks are dropped. Each plugin is tried until it is there.
pub(super) fn keep_pulled(config: Arc<Config>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for (name, section) in &config.plugins {
        if let Some(pull) = Pull::of(&config, name, section) {
            tasks.spawn(pull.until_done());
        }
    }
    tasks
}

impl Pull {
    fn of(config: &Config, name: &str, section: &PluginConfig) -> Option<Self> {
        let (folder, data) = (config.plugins_folder()?, config.kept_dir()?);
        Some(Self {
            name: name.to_owned(),
            from: section.from.clone()?,
            sha256: section.sha256.clone(),
            trusted: TrustedKeys::new(config.trusted_keys.clone()),
            file: folder.join(format!("{name}.wasm")),
            record: data.join(FOLDER).join(format!("{name}.json")),
        })
    }

    async fn until_done(self) {
        let pull = Arc::new(self);
        let looking = pull.clone();
        let there = tokio::task::spawn_blocking(move || looking.there()).await.unwrap_or_default();
        // Bytes that have a digest never change. A tag may have been moved while the host was not running.
        let is_pinned = pull.sha256.is_some() || pull.from.contains('@');
        if there.is_some() && is_pinned {
            return;
        }
        let mut wait = RETRY;
        loop {
            let pulled = match ONE_AT_A_TIME.acquire().await {
                Ok(_turn) => pull.pull(there.as_ref()).await,
                Err(_) => return,
            };
            match pulled {
                Ok(()) => return,
                Err(error) => {
                    let why = text::error(&*error);
                    tracing::warn!(
                        plugin = &*pull.name,
                        from = &*pull.from,
                        why,
                        "the plugin cannot be pulled; {}, and the pull is tried again in {} s",
                        if there.is_some() { "what was pulled before stays" } else { "it is missing" },
                        wait.as_secs()
                    );
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_RETRY);
        }
    }

    /// Returns the digest of the plugin's file, if that is what was pulled for this reference.
    fn there(&self) -> Option<Digest> {
        let record: Record = serde_json::from_slice(&fs::read(&self.record).ok()?).ok()?;
        let component = Digest::of(&fs::read(&self.file).ok()?);
        (record.from == self.from && record.component == component).then_some(component)
    }

    /// Pulls the component, unless it is the one that is there.
    async fn pull(self: &Arc<Self>, there: Option<&Digest>) -> Result<()> {
        let reference: Reference = self.from.parse()?;
        let named = reference.clone();
        let registry = tokio::task::spawn_blocking(move || Registry::new(&named, Credentials::of_user())).await??;
        let found = registry.find(&reference).await?;
        if there == Some(found.digest()) {
            return Ok(());
        }
        found.check_sha256(self.sha256.as_deref(), &format!("plugins.{}.sha256", self.name))?;
        let component = registry.pull(&found).await?;
        let pull = self.clone();
        tokio::task::spawn_blocking(move || pull.put(&found, &component)).await?
    }

    /// Puts what was pulled into the plugins folder, if it is what the configuration allows.
    fn put(&self, found: &Found, component: &[u8]) -> Result<()> {
        ensure!(component.len() as u64 <= plugins::LARGEST, "it is too large");
        if !self.trusted.is_empty() {
            let signature = found.signature().context("it is not signed, and trusted_keys is set")?;
            self.trusted.verify(component, signature)?;
        }
        let record =
            Record { from: self.from.clone(), pinned: found.pinned.to_string(), component: found.digest().clone() };
        make_inside(parent(&self.record))?;
        make_inside(parent(&self.file))?;
        // The signature first: the host reads the component as soon as it is there.
        let signature = TrustedKeys::signature_of(&self.file);
        match found.signature() {
            Some(text) => replace_file(&signature, text.as_bytes(), PRIVATE)?,
            None => drop(fs::remove_file(signature)),
        }
        replace_file(&self.file, component, PRIVATE)
            .with_context(|| format!("cannot write {}", self.file.display()))?;
        replace_file(&self.record, &serde_json::to_vec(&record)?, PRIVATE)?;
        tracing::info!(plugin = &*self.name, from = %found.pinned, sha256 = found.digest().hex(), "pulled a plugin");
        Ok(())
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}
