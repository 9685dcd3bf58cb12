//! Plugins in languages whose tools make a component from one file: Python and JavaScript.

use crate::contract::{contract_text, write_contract};
use crate::project::{check_file_name, language_in};
use crate::reuse::{Inputs, reuse};
use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A plugin in one file, `plugin.py` or `plugin.js`.
#[derive(Debug, Clone)]
pub struct Script {
    folder: PathBuf,
    language: Language,
    name: String,
    world: String,
    /// Whether the project names componentize-js.
    chose_componentize_js: bool,
}

const COMPONENTIZE_JS: &str = "@bytecodealliance/componentize-js";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Python,
    JavaScript,
}

/// A project file's data about the plugin.
#[derive(Debug, Deserialize)]
struct About {
    name: String,
    #[serde(default)]
    dropsonde: Dropsonde,
    #[serde(default)]
    dependencies: BTreeMap<String, String>,
    #[serde(default, rename = "devDependencies")]
    dev_dependencies: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
struct Dropsonde {
    /// The plugin's world in the contract. None: `sampler-plugin`.
    world: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PyProject {
    project: Project,
    #[serde(default)]
    tool: Tool,
}

#[derive(Debug, Deserialize)]
struct Project {
    name: String,
}

#[derive(Debug, Default, Deserialize)]
struct Tool {
    #[serde(default)]
    dropsonde: Dropsonde,
}

impl Script {
    /// Opens the plugin in a folder. None if the folder has neither `plugin.py` nor `plugin.js`.
    pub(crate) fn at(folder: &Path) -> Result<Option<Self>> {
        let Some(language) =
            language_in(folder, [("plugin.py", Language::Python), ("plugin.js", Language::JavaScript)])?
        else {
            return Ok(None);
        };
        let folder = folder.canonicalize().with_context(|| format!("cannot enter {}", folder.display()))?;
        let file = folder.join(language.project_file());
        let text = std::fs::read_to_string(&file)
            .with_context(|| format!("cannot read {}, which names the plugin", file.display()))?;
        let about = language.parse(&text).with_context(|| format!("{}", file.display()))?;
        check_file_name(&about.name, &file)?;
        let world = about.dropsonde.world.unwrap_or_else(|| "sampler-plugin".to_owned());
        let mut packages = about.dependencies.keys().chain(about.dev_dependencies.keys());
        let chose_componentize_js = packages.any(|package| package == COMPONENTIZE_JS);
        Ok(Some(Self { folder, language, name: about.name, world, chose_componentize_js }))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes the component with the language's tool, unless `cache` has it from the same files and the same tool. The
    /// tool's messages go to standard error.
    pub fn build(&self, cache: Option<&Path>) -> Result<Vec<u8>> {
        match cache.map(|cache| (cache, self.inputs())) {
            Some((cache, Ok(inputs))) => reuse(&cache.join("components"), inputs, || self.build_anew()),
            _ => self.build_anew(),
        }
    }

    /// Returns everything that the component depends on. An error: it is not known, and the component is built anew.
    fn inputs(&self) -> Result<Inputs> {
        let mut inputs = Inputs::new();
        inputs.text(&contract_text());
        inputs.text(&self.world);
        let program = match self.language {
            Language::Python => self.componentize_py(),
            Language::JavaScript if self.chose_componentize_js => {
                self.installed(COMPONENTIZE_JS).map(|package| package.join("package.json")).find(|file| file.exists())
            }
            Language::JavaScript => self.componentize_qjs_program(),
        };
        inputs.program(&program.context("the tool is not installed")?)?;
        if self.language == Language::Python {
            // componentize-py takes modules from the active environment, too.
            let active = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
            let own = self.folder.join(".venv");
            active.iter().chain([&own]).try_for_each(|environment| inputs.python_environment(environment))?;
        }
        inputs.folder(&self.folder)?;
        Ok(inputs)
    }

    fn build_anew(&self) -> Result<Vec<u8>> {
        let work = tempfile::tempdir().context("cannot make a temporary folder")?;
        let (contract, out) = (work.path().join("wit"), work.path().join("plugin.wasm"));
        std::fs::create_dir(&contract)?;
        write_contract(&contract)?;
        let mut tool = match self.language {
            Language::Python => self.python(&contract, &out)?,
            Language::JavaScript => self.javascript(&contract, &out)?,
        };
        let program = Path::new(tool.get_program()).display().to_string();
        // The author does not need a backtrace of the tool itself, nor its report of the output path.
        let status = tool.env("RUST_BACKTRACE", "0").current_dir(&self.folder).stdout(Stdio::null()).status();
        let status = status.with_context(|| format!("cannot run {program}"))?;
        if !status.success() {
            bail!("{program} could not build {}", self.name);
        }
        std::fs::read(&out).with_context(|| format!("{program} made no component"))
    }

    fn componentize_py(&self) -> Option<PathBuf> {
        found(self.folder.join(".venv/bin/componentize-py"), "componentize-py")
    }

    fn componentize_qjs_program(&self) -> Option<PathBuf> {
        let own = self.installed(".bin/componentize-qjs").find(|file| file.exists());
        found(own.unwrap_or_default(), "componentize-qjs")
    }

    fn python(&self, contract: &Path, out: &Path) -> Result<Command> {
        let Some(program) = self.componentize_py() else {
            bail!(
                "componentize-py, which builds Python plugins, is not installed: in {}, run `python3 -m venv .venv && \
                 .venv/bin/pip install -r requirements.txt`, then build again",
                self.folder.display()
            );
        };
        let mut tool = Command::new(program);
        tool.arg("-q").arg("-d").arg(contract).args(["-w", &self.world, "componentize", "-p"]).arg(&self.folder);
        tool.args(["plugin", "-o"]).arg(out);
        Ok(tool)
    }

    fn javascript(&self, contract: &Path, out: &Path) -> Result<Command> {
        if self.chose_componentize_js {
            self.componentize_js(contract, out)
        } else {
            self.componentize_qjs(contract, out)
        }
    }

    /// Builds with componentize-js, whose engine is ten times as large and knows `fetch` and `console`.
    fn componentize_js(&self, contract: &Path, out: &Path) -> Result<Command> {
        const SCRIPT: &str = "import { componentize } from '@bytecodealliance/componentize-js';\
            import { writeFile } from 'node:fs/promises';\
            const [sourcePath, witPath, worldName, out, ...disableFeatures] = process.argv.slice(1);\
            const { component } = await componentize({ sourcePath, witPath, worldName, disableFeatures });\
            await writeFile(out, component);";
        if !self.installed(COMPONENTIZE_JS).any(|folder| folder.exists()) {
            return self.not_installed("componentize-js");
        }
        let mut tool = Command::new("node");
        tool.args(["--input-type=module", "--eval", SCRIPT, "--"]).arg(self.folder.join("plugin.js")).arg(contract);
        tool.arg(&self.world).arg(out).arg("fetch-event").args((!self.has_http()).then_some("http"));
        Ok(tool)
    }

    fn componentize_qjs(&self, contract: &Path, out: &Path) -> Result<Command> {
        if self.has_http() {
            bail!(
                "componentize-qjs cannot build plugins with HTTP: in {}, run `npm install --save-dev {COMPONENTIZE_JS}`, \
                 then build again",
                self.folder.display()
            );
        }
        let Some(program) = self.componentize_qjs_program() else {
            return self.not_installed("componentize-qjs");
        };
        let mut tool = Command::new(program);
        tool.args(["--sync", "--opt-size", "--world", &self.world, "--wit"]).arg(contract);
        tool.arg("--js").arg(self.folder.join("plugin.js")).arg("--output").arg(out);
        Ok(tool)
    }

    /// Returns the places of something that npm installs. Looks in the same folders as node.
    fn installed(&self, path: &str) -> impl Iterator<Item = PathBuf> {
        self.folder.ancestors().map(move |folder| folder.join("node_modules").join(path))
    }

    /// Returns whether the plugin's world has HTTP.
    fn has_http(&self) -> bool {
        self.world.starts_with("http-")
    }

    fn not_installed<T>(&self, tool: &str) -> Result<T> {
        bail!(
            "{tool}, which builds JavaScript plugins, is not installed: in {}, run `npm install`, then build again",
            self.folder.display()
        )
    }
}

impl Language {
    fn project_file(self) -> &'static str {
        match self {
            Self::Python => "pyproject.toml",
            Self::JavaScript => "package.json",
        }
    }

    fn parse(self, text: &str) -> Result<About> {
        Ok(match self {
            Self::JavaScript => serde_json::from_str(text)?,
            Self::Python => {
                let PyProject { project, tool } = toml::from_str(text)?;
                let (name, dropsonde) = (project.name, tool.dropsonde);
                About { name, dropsonde, dependencies: BTreeMap::new(), dev_dependencies: BTreeMap::new() }
            }
        })
    }
}

/// Returns the project's own program, or else the one on the PATH.
fn found(own: PathBuf, name: &str) -> Option<PathBuf> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&paths).map(|folder| folder.join(name));
    std::iter::once(own).chain(on_path).find(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugins_name_and_world_are_in_its_languages_own_project_file() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert!(Script::at(folder.path()).unwrap().is_none());
        write("plugin.py", "");
        assert!(Script::at(folder.path()).unwrap_err().to_string().contains("pyproject.toml"));
        write("pyproject.toml", "[project]\nname = 'load'\n[tool.dropsonde]\nworld = 'source-plugin'\n");
        let script = Script::at(folder.path()).unwrap().unwrap();
        assert_eq!((script.name(), &*script.world), ("load", "source-plugin"));
        write("pyproject.toml", "[project]\nname = '../load'\n");
        assert!(Script::at(folder.path()).is_err());
        std::fs::remove_file(folder.path().join("plugin.py")).unwrap();
        write("plugin.js", "");
        write("package.json", "{\"name\": \"sockets\", \"type\": \"module\"}");
        let script = Script::at(folder.path()).unwrap().unwrap();
        assert_eq!((script.name(), &*script.world), ("sockets", "sampler-plugin"));
        assert!(!script.chose_componentize_js);
        write(
            "package.json",
            "{\"name\": \"nats\", \"devDependencies\": {\"@bytecodealliance/componentize-js\": \"0.23.0\"}}",
        );
        assert!(Script::at(folder.path()).unwrap().unwrap().chose_componentize_js);
    }
}
