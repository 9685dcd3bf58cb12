//! The software bill of materials, in CycloneDX 1.5: the crates in the binary and in the plugins that it has in it.

use super::sha256;
use crate::FEATURES;
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// The relevant part of the output of `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
    manifest_path: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// None for what is linked, as opposed to what builds and tests need.
    kind: Option<String>,
}

pub(super) fn describe(root: &Path, version: &str, binary: &[u8]) -> Result<Vec<u8>> {
    let machine = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let plugins = root.join("plugins").display().to_string();
    let host = metadata(root, &machine)?;
    let bundled = metadata(root, dropsonde_builder::TARGET)?;
    let parts = host.linked_into(|package| package.name == "dropsonde").into_iter();
    let parts = parts.chain(bundled.linked_into(|package| package.manifest_path.starts_with(&plugins)));
    let parts: BTreeMap<&str, (&Package, Vec<&str>)> =
        parts.map(|(package, on)| (&*package.id, (package, on))).collect();
    let mut packages: Vec<_> = parts.values().collect();
    packages.sort_by_key(|(package, _)| (&package.name, &package.version));
    let dependencies = packages.iter().map(|(package, on)| {
        let on = on.iter().filter_map(|id| parts.get(id)).map(|(package, _)| package.reference());
        json!({ "ref": package.reference(), "dependsOn": on.collect::<BTreeSet<_>>() })
    });
    let bom = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "dropsonde",
                "name": "dropsonde",
                "version": version,
                "licenses": [{ "expression": "Apache-2.0" }],
                "hashes": [{ "alg": "SHA-256", "content": sha256(binary) }],
            },
        },
        "components": packages.iter().map(|(package, _)| package.component()).collect::<Vec<_>>(),
        "dependencies": dependencies.collect::<Vec<_>>(),
    });
    Ok(serde_json::to_vec_pretty(&bom)?)
}

fn metadata(root: &Path, platform: &str) -> Result<Metadata> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["metadata", "--format-version=1", "--locked", "--offline", "--no-default-features"]);
    cargo.args(["--features", FEATURES, "--filter-platform", platform]);
    cargo.arg("--manifest-path").arg(root.join("host/Cargo.toml"));
    let output = cargo.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("cargo's metadata")
}

// === impl Metadata ===

impl Metadata {
    /// Returns the packages that are linked into some, these included, with the ids of those that each one needs.
    fn linked_into(&self, is_root: impl Fn(&Package) -> bool) -> Vec<(&Package, Vec<&str>)> {
        let needs: BTreeMap<&str, Vec<&str>> =
            self.resolve.nodes.iter().map(|node| (&*node.id, node.linked())).collect();
        let roots = self.packages.iter().filter(|package| is_root(package));
        let mut wanted: Vec<&str> = roots.map(|package| &*package.id).collect();
        let mut parts = BTreeSet::new();
        while let Some(id) = wanted.pop() {
            if parts.insert(id) {
                wanted.extend(needs.get(id).into_iter().flatten());
            }
        }
        let linked = self.packages.iter().filter(|package| parts.contains(&*package.id));
        linked.map(|package| (package, needs.get(&*package.id).cloned().unwrap_or_default())).collect()
    }
}

// === impl Node ===

impl Node {
    fn linked(&self) -> Vec<&str> {
        let is_linked = |dependency: &&Dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
        self.deps.iter().filter(is_linked).map(|dependency| &*dependency.pkg).collect()
    }
}

// === impl Package ===

impl Package {
    fn reference(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    fn component(&self) -> Value {
        let mut component = json!({
            "type": "library",
            "bom-ref": self.reference(),
            "name": self.name,
            "version": self.version,
        });
        if let Some(component) = component.as_object_mut() {
            if self.source.is_some() {
                component.insert("purl".to_owned(), format!("pkg:cargo/{}@{}", self.name, self.version).into());
            }
            if let Some(license) = &self.license {
                // An old way to write `OR`.
                component.insert("licenses".to_owned(), json!([{ "expression": license.replace('/', " OR ") }]));
            }
        }
        component
    }
}
