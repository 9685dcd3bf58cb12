use super::tree::Tree;
use super::{PackageOptions, glibc, sbom};
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The files and facts that all packages share.
pub(super) struct Contents {
    pub(super) version: String,
    pub(super) binary: Vec<u8>,
    /// The oldest glibc that the binary runs with.
    pub(super) glibc: (u32, u32),
    /// The libraries that the binary loads, by their paths.
    pub(super) libraries: Vec<(String, Vec<u8>)>,
    /// The configuration to begin with: all keys, commented out.
    pub(super) configuration: Vec<u8>,
    /// Manual pages by their names.
    manual: Vec<(String, Vec<u8>)>,
    /// Completions by their paths below `share`.
    completions: Vec<(&'static str, Vec<u8>)>,
    pub(super) changelog: Vec<u8>,
    pub(super) license: Vec<u8>,
    /// The bill of materials of the binary, in CycloneDX.
    pub(super) sbom: Vec<u8>,
    /// The time of all files, in seconds.
    pub(super) time: u64,
}

const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/dropsonde"),
    ("zsh", "zsh/vendor-completions/_dropsonde"),
    ("fish", "fish/vendor_completions.d/dropsonde.fish"),
];

impl Contents {
    pub(super) fn collect(options: &PackageOptions) -> Result<Self> {
        let PackageOptions { root, binary, version, .. } = options;
        let read = |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let says = |args: &[&str]| output(Command::new(binary).args(args));
        let scratch = tempfile::tempdir().context("cannot make a temporary folder")?;
        says(&["docs", "--man", &scratch.path().display().to_string()])?;
        let mut manual = Vec::new();
        for page in fs::read_dir(scratch.path())? {
            let page = page?;
            manual.push((page.file_name().to_string_lossy().into_owned(), read(&page.path())?));
        }
        manual.sort();
        let completions = COMPLETIONS.into_iter().map(|(shell, path)| Ok((path, says(&["completions", shell])?)));
        let bytes = read(binary)?;
        let time = time_of(root)?;
        Ok(Self {
            version: version.clone(),
            glibc: glibc::oldest(&bytes)?,
            libraries: libraries(binary)?,
            configuration: says(&["config"])?,
            manual,
            completions: completions.collect::<Result<_>>()?,
            changelog: read(&root.join("CHANGELOG.md"))?,
            license: read(&root.join("LICENSE"))?,
            sbom: sbom::describe(root, version, &bytes)?,
            binary: bytes,
            time,
        })
    }

    /// Adds manual pages and completions below a folder. Pages can be compressed, and then have another name.
    pub(super) fn add_shared(
        &self,
        tree: &mut Tree,
        share: &str,
        page: impl Fn(&[u8]) -> Result<Vec<u8>>,
    ) -> Result<()> {
        for (name, text) in &self.manual {
            let packed = page(text)?;
            let end = if packed == *text { "" } else { ".gz" };
            tree.add(&format!("{share}/man/man1/{name}{end}"), 0o644, packed);
        }
        for (path, script) in &self.completions {
            tree.add(&format!("{share}/{path}"), 0o644, script.clone());
        }
        tree.add(&format!("{share}/doc/dropsonde/sbom.cdx.json"), 0o644, self.sbom.clone());
        Ok(())
    }
}

/// Returns the libraries and the loader that a binary needs, as the dynamic linker finds them here.
fn libraries(binary: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let listed = String::from_utf8(output(Command::new("ldd").arg(binary))?)?;
    let mut libraries = Vec::new();
    for line in listed.lines() {
        // `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`
        let found = line.rsplit_once("=> ").map_or(line.trim(), |(_, found)| found);
        let path = found.split(" (").next().filter(|path| path.starts_with('/'));
        let Some(path) = path else { continue };
        let bytes = fs::read(path).with_context(|| format!("cannot read {path}"))?;
        libraries.push((path.trim_start_matches('/').to_owned(), bytes));
    }
    Ok(libraries)
}

/// Returns SOURCE_DATE_EPOCH, or the time of the last commit.
fn time_of(root: &Path) -> Result<u64> {
    if let Ok(set) = std::env::var("SOURCE_DATE_EPOCH") {
        return set.parse().with_context(|| format!("SOURCE_DATE_EPOCH={set} is no number of seconds"));
    }
    let said = output(Command::new("git").arg("-C").arg(root).args(["log", "-1", "--format=%ct"]));
    let said = said.context("without git, SOURCE_DATE_EPOCH must be set: the time of all packaged files in seconds")?;
    Ok(String::from_utf8(said)?.trim().parse()?)
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}
