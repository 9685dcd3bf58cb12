//! Unpacks Debian packages into a private folder, with apt's own lists and cache there and with `dpkg -x`. It installs
//! nothing and does not need root.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Downloads the named packages, without their dependencies, and unpacks all of them into `root`, or nothing.
pub(super) fn unpack(packages: &[&str], root: &Path) -> Result<()> {
    let apt = Apt::in_folder(with_suffix(root, ".apt"))?;
    apt.update()?;
    apt.unpack(packages, root)?;
    apt.clean_up()
}

/// apt-get, with all files that it writes in one folder.
pub(super) struct Apt {
    folder: PathBuf,
}

impl Apt {
    pub(super) fn in_folder(folder: PathBuf) -> Result<Self> {
        for name in ["lists/partial", "cache/archives/partial", "download"] {
            fs::create_dir_all(folder.join(name)).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        Ok(Self { folder })
    }

    pub(super) fn update(&self) -> Result<()> {
        run(self.command("apt-get").args(["update", "-qq"])).map(drop)
    }

    /// Returns the names in a package's Depends field, without alternatives and versions.
    pub(super) fn dependencies(&self, package: &str) -> Result<Vec<String>> {
        let shown = run(self.command("apt-cache").args(["show", "--no-all-versions", package]))?;
        let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        Ok(depends.split([',', '|']).filter_map(|one| one.split_whitespace().next()).map(str::to_owned).collect())
    }

    pub(super) fn unpack(&self, packages: &[impl AsRef<OsStr>], root: &Path) -> Result<()> {
        let download = self.folder.join("download");
        run(self.command("apt-get").args(["download", "-qq"]).args(packages).current_dir(&download))?;
        let half = with_suffix(root, ".half");
        if half.exists() {
            fs::remove_dir_all(&half)?;
        }
        for entry in fs::read_dir(&download)? {
            let deb = entry?.path();
            if deb.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg").arg("-x").arg(&deb).arg(&half))?;
                fs::remove_file(&deb)?;
            }
        }
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        fs::rename(&half, root).with_context(|| format!("cannot put {} in place", root.display()))
    }

    pub(super) fn clean_up(self) -> Result<()> {
        fs::remove_dir_all(&self.folder).with_context(|| format!("cannot remove {}", self.folder.display()))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |name| self.folder.join(name).display().to_string();
        for option in [
            format!("Dir::State::Lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            "Debug::NoLocking=1".to_owned(),
            // When run by root, apt would download as a user who cannot enter the folder, and warn about it.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("{program} is not installed; this works only on Debian and its derivatives")
        }
        Err(error) => return Err(error).with_context(|| format!("cannot run {program}")),
    };
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
