//! The Rust SDK as a part of a new plugin: so a plugin is made and built without the repository of this project.

use crate::contract::write_contract;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use toml::{Table, Value};

const FILES: [(&str, &str); 31] = include_files![
    "../../":
    "src/clock.rs",
    "src/contract.rs",
    "src/counters/cache.rs",
    "src/counters/channels.rs",
    "src/counters/envelopes.rs",
    "src/counters/gauges.rs",
    "src/counters/mod.rs",
    "src/counters/sum.rs",
    "src/counters/tally.rs",
    "src/counters/tokens.rs",
    "src/counters/window.rs",
    "src/env.rs",
    "src/export.rs",
    "src/field.rs",
    "src/files.rs",
    "src/glue/mod.rs",
    "src/glue/observer.rs",
    "src/glue/sampler.rs",
    "src/glue/source.rs",
    "src/http/mod.rs",
    "src/http/native.rs",
    "src/http/tests.rs",
    "src/http/wasi.rs",
    "src/lib.rs",
    "src/log.rs",
    "src/metrics.rs",
    "src/observer.rs",
    "src/sampler.rs",
    "src/series.rs",
    "src/source.rs",
    "src/state.rs",
];

const MANIFEST: &str = include_str!("../../Cargo.toml");
const WORKSPACE: &str = include_str!("../../../Cargo.toml");

/// The versions of crates that the SDK was tested with.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// Writes the SDK into `sdk` and the contract beside it, where the SDK reads it.
pub(crate) fn write(sdk: &Path) -> Result<()> {
    write_contract(&sdk.with_file_name("wit"))?;
    let manifest = manifest()?;
    for (name, text) in FILES.into_iter().chain([("Cargo.toml", &*manifest)]) {
        let path = sdk.join(name);
        fs::create_dir_all(path.parent().unwrap_or(sdk))
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Writes the versions of crates that a plugin begins with.
pub(crate) fn write_lock(plugin: &Path) -> Result<()> {
    fs::write(plugin.join("Cargo.lock"), LOCK).context("cannot write Cargo.lock")
}

/// Returns the SDK's manifest with what it takes from this workspace, and without what only its tests need.
fn manifest() -> Result<String> {
    let workspace: Table = WORKSPACE.parse()?;
    let workspace = workspace.get("workspace").and_then(Value::as_table).context("the workspace's manifest")?;
    let mut manifest: Table = MANIFEST.parse()?;
    manifest.remove("lints");
    manifest.remove("dev-dependencies");
    let of = |part: &str| workspace.get(part).and_then(Value::as_table);
    inherit(&mut manifest, of("package"), of("dependencies"));
    Ok(toml::to_string(&manifest)?)
}

/// Replaces each `key.workspace = true`, in this table and in those below.
fn inherit(table: &mut Table, package: Option<&Table>, dependencies: Option<&Table>) {
    for (key, value) in table.iter_mut() {
        let Value::Table(below) = value else { continue };
        match below.get("workspace").and_then(Value::as_bool) {
            Some(true) => {
                if let Some(whole) = [package, dependencies].into_iter().flatten().find_map(|of| of.get(key)) {
                    *value = whole.clone();
                }
            }
            _ => inherit(below, package, dependencies),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn no_file_of_the_sdk_is_missing() {
        let sdk = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let there: BTreeSet<_> = files(&sdk.join("src")).into_iter().collect();
        let known: BTreeSet<_> = FILES.iter().map(|(name, _)| sdk.join(name)).collect();
        assert_eq!(known, there);
    }

    #[test]
    fn the_manifest_takes_nothing_from_a_workspace() {
        let manifest = manifest().unwrap();
        assert!(!manifest.contains("workspace") && manifest.contains("edition = \"20"), "{manifest}");
        assert!(manifest.contains("wit-bindgen") && !manifest.contains("proptest"), "{manifest}");
    }
}
