//! The contract as code of other languages, by wit-bindgen, with glue that makes it pleasant.

use crate::contract::write_contract;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use wasi_preview1_component_adapter_provider as adapter;
use wit_bindgen_core::wit_parser::{Resolve, WorldId, WorldKey};
use wit_bindgen_core::{Files, WorldGenerator};
use wit_component::{ComponentEncoder, embed_component_metadata};

const C: [(&str, &str); 3] = include_files!["../../templates/c/glue/": "bindings.c", "dropsonde.c", "dropsonde.h"];

const GO: [(&str, &str); 13] = include_files![
    "../../templates/go/glue/":
    "dropsonde.go",
    "go.mod",
    "host.go",
    "observer.go",
    "sampler.go",
    "source.go",
    "wit/export_dropsonde_plugin_observer/export.go",
    "wit/export_dropsonde_plugin_plugin/export.go",
    "wit/export_dropsonde_plugin_sampler/export.go",
    "wit/export_dropsonde_plugin_source/export.go",
    "wit/runtime/empty.s",
    "wit/runtime/runtime.go",
    "wit/types/types.go",
];

/// The roles of plugins, which are names of interfaces that worlds export.
const ROLES: [&str; 3] = ["sampler", "source", "observer"];

/// A world of the contract.
pub(crate) struct Contract {
    folder: TempDir,
    world: String,
}

impl Contract {
    /// Parses a world.
    pub(crate) fn read(world: &str) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        write_contract(folder.path())?;
        let contract = Self { folder, world: world.to_owned() };
        contract.resolve().with_context(|| format!("plugin.toml: world = {world:?}"))?;
        Ok(contract)
    }

    /// Parses it anew: a generator changes what it is given.
    fn resolve(&self) -> Result<(Resolve, WorldId)> {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_dir(self.folder.path())?;
        let world = resolve.select_world(&[package], Some(&self.world))?;
        Ok((resolve, world))
    }

    /// Makes the component of a core module in which no world is embedded.
    pub(crate) fn componentize(&self, mut module: Vec<u8>) -> Result<Vec<u8>> {
        let (resolve, world) = self.resolve()?;
        embed_component_metadata(&mut module, &resolve, world, Default::default())?;
        ComponentEncoder::default()
            .module(&module)?
            .adapter(adapter::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?
            .validate(true)
            .encode()
    }
}

/// Writes what a plugin in C includes.
pub(crate) fn write_c(contract: &Contract, folder: &Path) -> Result<()> {
    let (mut resolve, world) = contract.resolve()?;
    let names = short_names(&resolve, world);
    let roles = names.iter().map(|(_, name)| name).filter(|name| ROLES.contains(&name.as_str()));
    let roles: String = roles.map(|role| format!("#define DROPSONDE_{}\n", role.to_uppercase())).collect();
    write(folder, "roles.h", &roles)?;
    let options = wit_bindgen_c::Opts {
        rename: names,
        rename_world: Some("wit".to_owned()),
        // The glue frees everything. Without helpers there are no functions that drop resources, which HTTP has.
        no_helpers: !contract.world.starts_with("http-"),
        no_object_file: true,
        ..Default::default()
    };
    generate(options.build(), &mut resolve, world, |name, text| write(folder, name, text))?;
    C.iter().try_for_each(|(name, text)| write(folder, name, text))
}

/// Writes the Go module that a plugin imports.
pub(crate) fn write_go(contract: &Contract, folder: &Path) -> Result<()> {
    let (mut resolve, world) = contract.resolve()?;
    let names = short_names(&resolve, world);
    let has = |role: &str| names.iter().any(|(_, name)| name == role);
    let options = wit_bindgen_go::Opts {
        format: wit_bindgen_go::Format::False,
        pkg_name: Some("dropsonde/wit".to_owned()),
        ..Default::default()
    };
    let wit = folder.join("wit");
    generate(options.build(), &mut resolve, world, |name, text| {
        // Its runtime is a part of the glue, and is not fetched.
        write(&wit, name, &text.replace("\"go.bytecodealliance.org/pkg/wit/", "\"dropsonde/wit/"))
    })?;
    for (name, text) in GO {
        // Glue for a role that the world does not have would not compile.
        let is_of = |role: &str| name == format!("{role}.go") || name.contains(&format!("_plugin_{role}/"));
        if ROLES.iter().all(|role| has(role) || !is_of(role)) {
            write(folder, name, text)?;
        }
    }
    Ok(())
}

fn generate(
    mut generator: Box<dyn WorldGenerator>,
    resolve: &mut Resolve,
    world: WorldId,
    mut write: impl FnMut(&str, &str) -> Result<()>,
) -> Result<()> {
    let mut files = Files::default();
    generator.generate(resolve, world, &mut files)?;
    files.iter().try_for_each(|(name, bytes)| write(name, std::str::from_utf8(bytes)?))
}

/// Returns the interfaces of the contract that a world has, with their short names: `dropsonde:plugin/files@0.1.0` is
/// `files`.
fn short_names(resolve: &Resolve, world: WorldId) -> Vec<(String, String)> {
    let Some(world) = resolve.worlds.get(world) else { return Vec::new() };
    let keys = world.imports.keys().chain(world.exports.keys());
    let short = |key: &WorldKey| {
        let WorldKey::Interface(id) = key else { return None };
        let interface = resolve.interfaces.get(*id)?;
        let package = &resolve.packages.get(interface.package?)?.name;
        (package.namespace == "dropsonde").then(|| Some((resolve.name_world_key(key), interface.name.clone()?)))?
    };
    keys.filter_map(short).collect()
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap_or(folder))
        .and_then(|()| fs::write(&path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_world_becomes_code_and_a_wrong_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for world in ["sampler-plugin", "source-plugin", "http-sampler-plugin"] {
            let contract = Contract::read(world).unwrap();
            let (c, go) = (folder.path().join(world).join("c"), folder.path().join(world).join("go"));
            write_c(&contract, &c).unwrap();
            write_go(&contract, &go).unwrap();
            let is_sampler = world.contains("sampler");
            let roles = fs::read_to_string(c.join("roles.h")).unwrap();
            assert_eq!(roles.contains("DROPSONDE_SAMPLER"), is_sampler, "{world}: {roles}");
            assert_eq!(
                (go.join("sampler.go").exists(), go.join("source.go").exists()),
                (is_sampler, !is_sampler),
                "{world}"
            );
        }
        let wrong = Contract::read("no-world").err().unwrap();
        assert!(format!("{wrong:#}").contains("no-world"), "{wrong:#}");
    }
}
