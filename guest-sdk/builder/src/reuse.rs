//! Components that were built before from the same files by the same tool: tools for Python and JavaScript take up to ten
//! seconds, and give other bytes each time, which a host would compile anew.

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Components that are kept; the least recently used go first.
const MOST_KEPT: usize = 16;

/// Files and bytes of a project beyond which it is always built.
const MOST_FILES: usize = 2000;
const MOST_BYTES: u64 = 64 << 20;

/// Everything that a component depends on, as a hash.
pub(crate) struct Inputs {
    hasher: Sha256,
    files: usize,
    bytes: u64,
}

impl Inputs {
    pub(crate) fn new() -> Self {
        Self { hasher: Sha256::new(), files: 0, bytes: 0 }
    }

    /// Adds a text.
    pub(crate) fn text(&mut self, text: &str) {
        self.hasher.update(text.len().to_le_bytes());
        self.hasher.update(text.as_bytes());
    }

    /// Adds a program or a folder by its path, size and age: a tool that was installed anew is another one.
    pub(crate) fn program(&mut self, program: &Path) -> Result<()> {
        let program = program.canonicalize()?;
        let about = program.metadata()?;
        let changed = about.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.text(&format!("{} {} {changed:?}", program.display(), about.len()));
        Ok(())
    }

    /// Adds the names and ages of what is installed in a Python environment; nothing if there is none.
    pub(crate) fn python_environment(&mut self, environment: &Path) -> Result<()> {
        let Ok(versions) = fs::read_dir(environment.join("lib")) else { return Ok(()) };
        for version in versions {
            let Ok(packages) = fs::read_dir(version?.path().join("site-packages")) else { continue };
            let mut packages: Vec<_> = packages.map(|package| Ok(package?.path())).collect::<Result<_>>()?;
            packages.sort();
            packages.iter().try_for_each(|package| self.program(package))?;
        }
        Ok(())
    }

    /// Adds all files in a folder. Leaves out hidden files, installed packages and components. A link or a device is an
    /// error: it may lead anywhere.
    pub(crate) fn folder(&mut self, folder: &Path) -> Result<()> {
        let mut entries: Vec<_> = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let is_component = path.extension().is_some_and(|extension| extension == "wasm");
            if name.starts_with('.') || is_component || matches!(&*name, "node_modules" | "__pycache__" | "target") {
                continue;
            }
            self.text(&name);
            let about = path.symlink_metadata()?;
            anyhow::ensure!(about.is_dir() || about.is_file(), "{} is neither a file nor a folder", path.display());
            if about.is_dir() {
                self.text("begin");
                self.folder(&path)?;
                self.text("end");
            } else {
                self.files += 1;
                self.bytes += about.len();
                anyhow::ensure!(self.files <= MOST_FILES && self.bytes <= MOST_BYTES, "the project is too large");
                let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                self.hasher.update(text.len().to_le_bytes());
                self.hasher.update(&text);
            }
        }
        Ok(())
    }

    fn key(self) -> String {
        self.hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Returns the component of these inputs from the cache, or builds it and keeps it there. A cache that cannot be used
/// only costs time.
pub(crate) fn reuse(cache: &Path, inputs: Inputs, build: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    let file = cache.join(inputs.key()).with_extension("wasm");
    if let Ok(component) = fs::read(&file) {
        let _ = fs::File::open(&file).and_then(|file| file.set_modified(SystemTime::now()));
        return Ok(component);
    }
    let component = build()?;
    let _ = keep(cache, &file, &component);
    Ok(component)
}

fn keep(cache: &Path, file: &Path, component: &[u8]) -> Result<()> {
    fs::create_dir_all(cache)?;
    let mut half = tempfile::NamedTempFile::new_in(cache)?;
    std::io::Write::write_all(&mut half, component)?;
    half.persist(file)?;
    let mut kept: Vec<(SystemTime, PathBuf)> = Vec::new();
    for entry in fs::read_dir(cache)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "wasm") {
            kept.push((path.metadata()?.modified()?, path));
        }
    }
    kept.sort();
    let surplus = kept.len().saturating_sub(MOST_KEPT);
    kept.into_iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(folder: &Path) -> Inputs {
        let mut inputs = Inputs::new();
        inputs.folder(folder).unwrap();
        inputs
    }

    #[test]
    fn a_component_is_built_again_only_if_a_file_of_its_project_changed() {
        let (project, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let write = |name: &str, text: &str| fs::write(project.path().join(name), text).unwrap();
        let build = |made: &str| reuse(cache.path(), inputs(project.path()), || Ok(made.into())).unwrap();
        write("plugin.py", "1");
        assert_eq!(build("first"), b"first");
        assert_eq!(build("second"), b"first");
        write("plugin.wasm", "its own result");
        fs::create_dir(project.path().join(".venv")).unwrap();
        fs::write(project.path().join(".venv/package.py"), "installed").unwrap();
        assert_eq!(build("second"), b"first");
        write("helper.py", "");
        assert_eq!(build("second"), b"second");
        write("plugin.py", "2");
        assert_eq!(build("third"), b"third");
        write("plugin.py", "1");
        assert_eq!(build("fourth"), b"second");
    }

    #[test]
    fn a_failed_build_is_tried_again_and_old_components_go() {
        let (project, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let failed = reuse(cache.path(), inputs(project.path()), || anyhow::bail!("no"));
        assert!(failed.is_err());
        for nth in 0..MOST_KEPT + 3 {
            fs::write(project.path().join("plugin.js"), nth.to_string()).unwrap();
            reuse(cache.path(), inputs(project.path()), || Ok(vec![0])).unwrap();
        }
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), MOST_KEPT);
    }

    #[test]
    fn a_newly_installed_package_is_another_input_and_a_link_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let packages = folder.path().join("lib/python3.11/site-packages");
        fs::create_dir_all(&packages).unwrap();
        let key = || {
            let mut inputs = Inputs::new();
            inputs.python_environment(folder.path()).unwrap();
            inputs.key()
        };
        let before = key();
        assert_eq!(key(), before);
        fs::create_dir(packages.join("requests-2.0.dist-info")).unwrap();
        assert_ne!(key(), before);
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("endless")).unwrap();
        assert!(Inputs::new().folder(folder.path()).is_err());
    }

    #[test]
    fn another_tool_is_another_input() {
        let folder = tempfile::tempdir().unwrap();
        let tool = folder.path().join("tool");
        let key = || {
            let mut inputs = Inputs::new();
            inputs.program(&tool).unwrap();
            inputs.key()
        };
        fs::write(&tool, "1").unwrap();
        let before = key();
        assert_eq!(key(), before);
        fs::write(&tool, "22").unwrap();
        assert_ne!(key(), before);
    }
}
