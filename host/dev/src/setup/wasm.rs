//! The compiler for plugins: rustup's target if rustup can add it, otherwise Debian's packages.

use super::debian::Apt;
use anyhow::{Context, Result, anyhow, bail};
use dropsonde_builder::{TARGET, Toolchain, step, tell};
use std::path::Path;
use std::process::Command;

/// Finds a toolchain, and fetches what is missing. Unpacked files stay under `target_dir`.
pub fn wasm_toolchain(target_dir: &Path) -> Result<()> {
    if let Some(found) = Toolchain::find(target_dir) {
        return found.fetch_library_crates();
    }
    let by_rustup = step(format_args!("adding rustup's {TARGET} target"), add_target);
    let why_not = match by_rustup {
        Ok(()) if Toolchain::installed().is_some() => return Ok(()),
        Ok(()) => anyhow!("rustup added the target to a different toolchain than the one that cargo uses"),
        Err(error) => {
            tell(format_args!("    {error:#}"));
            error
        }
    };
    let root = Toolchain::unpacked_root(target_dir);
    step("unpacking Debian's Rust library source instead (about 115 MB to fetch, 0.7 GB on disk)", || {
        fetch_debian(&root)
    })
    .with_context(|| {
        format!("no compiler for {TARGET}: rustup could not add it ({why_not:#}); run `rustup target add {TARGET}` with network access")
    })?;
    let unpacked = Toolchain::find(target_dir).context("Debian's packages were unpacked, but contain no compiler")?;
    unpacked.fetch_library_crates()
}

fn add_target() -> Result<()> {
    let output = Command::new("rustup").args(["target", "add", TARGET]).output().context("rustup is not installed")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("rustup says: {}", said.lines().find(|line| line.starts_with("error")).unwrap_or("it failed").trim());
    }
    Ok(())
}

fn fetch_debian(root: &Path) -> Result<()> {
    let mut apt_folder = root.as_os_str().to_owned();
    apt_folder.push(".apt");
    let apt = Apt::in_folder(apt_folder.into())?;
    apt.update()?;
    // Package names contain versions (libstd-rust-web-1.96, libllvm22), so follow the dependencies that are parts of
    // the compiler.
    let is_part = |name: &String| name.starts_with("libstd-rust-web-") || name.starts_with("libllvm");
    let mut packages = vec!["rustc-web".to_owned(), "rust-web-src".to_owned()];
    let mut looked_at = 0;
    while let Some(package) = packages.get(looked_at).cloned() {
        looked_at += 1;
        let depends = apt.dependencies(&package).with_context(|| format!("Debian's index offers no {package}"))?;
        for part in depends.into_iter().filter(is_part) {
            if !packages.contains(&part) {
                packages.push(part);
            }
        }
    }
    apt.unpack(&packages, root)?;
    apt.clean_up()
}
