//! Packages of the host: a Debian package, a tar for any Linux, and an image for containers.
//!
//! They are made from a binary, from what the binary says about itself (manual pages, completions, the keys of its
//! configuration) and from files of the repository. The same inputs give the same bytes: all times are that of the
//! last commit, or `SOURCE_DATE_EPOCH`.
//!
//! # Layout
//!
//! * `contents`: the files that packages have in common.
//! * `tree`: files with their modes, and the tar of them.
//! * `deb`, `archive`, `image`: the three packages. `unit`: their service units. `sbom`: what the binary is built of.
//! * `glibc`: the oldest system that the binary runs on.

mod archive;
mod contents;
mod deb;
mod glibc;
mod image;
mod sbom;
mod tree;
mod unit;

use anyhow::{Context, Result, anyhow, ensure};
use contents::Contents;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The file with the checksums of all others.
const SUMS: &str = "SHA256SUMS";

/// The input of packages, and the folder for them.
#[derive(Debug, Clone)]
pub struct PackageOptions {
    /// The repository.
    pub root: PathBuf,
    /// The binary of the host.
    pub binary: PathBuf,
    /// The version of the packages.
    pub version: String,
    /// The folder to write to. It is made, and what was packaged before is replaced.
    pub out: PathBuf,
}

/// Makes all packages, an SBOM and the list of checksums. Returns the paths of the files that were written.
pub fn package(options: &PackageOptions) -> Result<Vec<PathBuf>> {
    let contents = Contents::collect(options)?;
    let PackageOptions { out, version, .. } = options;
    let is_ours = out.join(SUMS).is_file() || fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_none());
    if out.exists() {
        ensure!(is_ours, "{} has files that are no packages; name a new or empty folder with --out", out.display());
        fs::remove_dir_all(out).with_context(|| format!("cannot remove {}", out.display()))?;
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    // Most of the time goes into compressing the binary, once for each package.
    let (deb, archive, image) = std::thread::scope(|scope| {
        let archive = scope.spawn(|| archive::package(&contents));
        let image = scope.spawn(|| image::package(&contents));
        (deb::package(&contents), archive.join(), image.join())
    });
    let panicked = || anyhow!("making a package panicked");
    let (archive, image) = (archive.map_err(|_| panicked())??, image.map_err(|_| panicked())??);
    let mut files = vec![
        (format!("dropsonde_{version}_{}.deb", deb::architecture()?), deb?),
        (format!("dropsonde-{version}-{}-linux.tar.gz", std::env::consts::ARCH), archive),
        (format!("dropsonde-{version}.cdx.json"), contents.sbom.clone()),
    ];
    files.extend(image.into_iter().map(|(path, bytes)| (format!("dropsonde-{version}-oci/{path}"), bytes)));
    let mut sums = String::new();
    let mut written = Vec::new();
    for (name, bytes) in files {
        writeln!(sums, "{}  {name}", sha256(&bytes))?;
        written.push(write_to(out, &name, &bytes)?);
    }
    written.push(write_to(out, SUMS, sums.as_bytes())?);
    Ok(written)
}

fn write_to(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap_or(folder)).with_context(|| format!("cannot write {}", path.display()))?;
    fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
