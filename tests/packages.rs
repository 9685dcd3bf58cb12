//! Packages: installed into a clean Debian, pushed to a registry, unpacked and run.

use crate::harness::{Host, Server, run, tool, workspace};
use crate::servers::say_not_tested;
use dropsonde_dev::package::{PackageOptions, package};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use tempfile::TempDir;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// All packages of the tested binary.
static PACKAGES: LazyLock<Packages> = LazyLock::new(|| Packages::make(VERSION));

struct Packages {
    folder: TempDir,
    files: Vec<PathBuf>,
}

impl Packages {
    fn make(version: &str) -> Self {
        let folder = TempDir::new().unwrap();
        // What a test binary has in it for debuggers takes long to compress.
        let binary = folder.path().join("dropsonde");
        succeed(Command::new("strip").arg(env!("CARGO_BIN_EXE_dropsonde")).arg("-o").arg(&binary));
        let out = folder.path().join("package");
        let options = PackageOptions { root: workspace(), binary, version: version.to_owned(), out };
        let files = package(&options).unwrap();
        Self { folder, files }
    }

    fn folder(&self) -> PathBuf {
        self.folder.path().join("package")
    }

    fn deb(&self) -> &Path {
        self.files.iter().find(|file| file.extension().is_some_and(|end| end == "deb")).unwrap()
    }
}

/// Runs a command that must succeed, and returns its output.
fn succeed(command: &mut Command) -> String {
    let (code, out, error) = run(command);
    assert_eq!(code, 0, "{command:?}: {out}{error}");
    out
}

/// A copy of a clean Debian.
struct Debian {
    folder: TempDir,
}

impl Debian {
    /// Returns none where it cannot be made: that takes root and mmdebstrap.
    fn clean() -> Option<Self> {
        let clean = workspace().join("target/debian-root");
        if !clean.exists() {
            assert!(std::env::var_os("CI").is_none(), "`cargo dev setup` makes it, as root with mmdebstrap");
            say_not_tested("packages are not installed without root and mmdebstrap");
            return None;
        }
        let folder = TempDir::new().unwrap();
        succeed(Command::new("cp").arg("--archive").arg(clean).arg(folder.path().join("root")));
        Some(Self { folder })
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn has(&self, path: &str) -> bool {
        self.root().join(path).exists()
    }

    /// Returns a command in it that sees this machine's processes.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("unshare");
        let script = format!("mount --rbind /proc \"$0/proc\" && exec chroot \"$0\" {line} \"$@\"");
        command.args(["--mount", "sh", "-c", &script]).arg(self.root());
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn install(&self, deb: &Path) {
        fs::copy(deb, self.root().join("srv/dropsonde.deb")).unwrap();
        succeed(&mut self.command("apt-get install --yes /srv/dropsonde.deb"));
    }

    /// Starts the host as its unit says.
    fn start_service(&self) -> Host {
        let unit = fs::read_to_string(self.root().join("lib/systemd/system/dropsonde.service")).unwrap();
        let setting = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)).unwrap().to_owned();
        let (user, group, start) = (setting("User="), setting("Group="), setting("ExecStart="));
        let line = format!("setpriv --reuid {user} --regid {group} --clear-groups {start}");
        Host::start_by(self.command(&line))
    }
}

#[test]
fn a_debian_package_is_installed_upgraded_with_its_history_removed_and_purged() {
    let Some(debian) = Debian::clean() else { return };
    let old = Packages::make("0.0.1");
    debian.install(old.deb());
    let about = |path: &str| {
        let about = fs::metadata(debian.root().join(path)).unwrap();
        (about.mode() & 0o777, about.uid() == 0, about.gid() == 0)
    };
    assert_eq!(about("etc/dropsonde/dropsonde.toml"), (0o640, true, false), "it may name secrets");
    assert_eq!(about("var/lib/dropsonde"), (0o700, false, false));
    let configuration = debian.root().join("etc/dropsonde/dropsonde.toml");
    let text = fs::read_to_string(&configuration).unwrap();
    fs::write(&configuration, text.replacen("#labels = {}", "labels = { site = 'fra1' }", 1)).unwrap();

    let host = debian.start_service();
    let sampled = host.until("/v1/instances/host/usage", |usage| usage.status == 200).json();
    let labels = host.get("/v1/instances/host").json()["labels"].clone();
    assert_eq!(labels["site"], "fra1", "the configuration of the package is read: {labels}");
    host.stop_and_read_log();
    let export = || succeed(&mut debian.command("dropsonde store export --instance host --data /var/lib/dropsonde"));
    let before = export();
    assert!(before.lines().count() > 5, "{before}");
    let verify = || succeed(&mut debian.command("dropsonde store verify --data /var/lib/dropsonde"));
    assert!(verify().contains("read "));

    debian.install(PACKAGES.deb());
    let version = succeed(&mut debian.command("dropsonde --version"));
    assert_eq!(version.trim(), format!("dropsonde {VERSION}"));
    assert!(fs::read_to_string(&configuration).unwrap().contains("fra1"), "what the owner changed stays");
    verify();
    let host = debian.start_service();
    let latest = host.get("/v1/instances/host/usage").json();
    assert_eq!(latest["memory_limit_mb"], sampled["memory_limit_mb"], "it is there before the first poll");
    host.stop_and_read_log();
    assert!(export().contains(&before), "history is kept");

    succeed(&mut debian.command("apt-get remove --yes dropsonde"));
    assert!(!debian.has("usr/bin/dropsonde") && debian.has("var/lib/dropsonde/history") && configuration.exists());
    succeed(&mut debian.command("apt-get purge --yes dropsonde"));
    assert!(!debian.has("var/lib/dropsonde") && !debian.has("etc/dropsonde"));
    let users = fs::read_to_string(debian.root().join("etc/passwd")).unwrap();
    assert!(!users.contains("dropsonde"), "{users}");
}

#[test]
fn lintian_finds_no_error_in_the_debian_package_and_systemd_none_in_its_unit() {
    let lintian = Command::new("lintian").arg("--version").output();
    if lintian.is_err() && std::env::var_os("CI").is_none() {
        return say_not_tested("lintian is not installed");
    }
    succeed(Command::new("lintian").args(["--allow-root", "--fail-on", "error"]).arg(PACKAGES.deb()));
    let folder = TempDir::new().unwrap();
    let unpacked = folder.path().join("deb");
    succeed(Command::new("dpkg").arg("-x").arg(PACKAGES.deb()).arg(&unpacked));
    let unit = fs::read_to_string(unpacked.join("lib/systemd/system/dropsonde.service")).unwrap();
    // The binary and its manual page are not installed here.
    let binary = unpacked.join("usr/bin/dropsonde").display().to_string();
    let unit: String =
        unit.lines().filter(|line| !line.starts_with("Documentation=")).map(|line| format!("{line}\n")).collect();
    let file = folder.path().join("dropsonde.service");
    fs::write(&file, unit.replace("/usr/bin/dropsonde", &binary)).unwrap();
    succeed(Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(file));
    let page = unpacked.join("usr/share/man/man1/dropsonde-serve.1.gz");
    assert!(succeed(Command::new("gzip").arg("-cd").arg(page)).contains("memory\\-only"));
}

#[test]
fn two_packagings_give_the_same_bytes_which_sha256sums_lists() {
    let again = Packages::make(VERSION);
    for (one, other) in PACKAGES.files.iter().zip(&again.files) {
        assert_eq!(one.strip_prefix(PACKAGES.folder()).unwrap(), other.strip_prefix(again.folder()).unwrap());
        assert!(fs::read(one).unwrap() == fs::read(other).unwrap(), "{} differs", one.display());
    }
    let checked = succeed(Command::new("sha256sum").args(["--check", "SHA256SUMS"]).current_dir(PACKAGES.folder()));
    assert_eq!(checked.matches(": OK").count(), PACKAGES.files.len() - 1, "{checked}");
}

#[test]
fn the_archive_runs_from_where_it_is_unpacked() {
    let folder = TempDir::new().unwrap();
    let archive = PACKAGES.files.iter().find(|file| file.to_string_lossy().ends_with(".tar.gz")).unwrap();
    succeed(Command::new("tar").arg("-xzf").arg(archive).args(["--strip-components=1", "-C"]).arg(folder.path()));
    let mut command = Command::new(folder.path().join("bin/dropsonde"));
    command.args(["serve", "--memory-only", "--config"]).arg(folder.path().join("share/doc/dropsonde/dropsonde.toml"));
    let host = Host::start_by(command);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200);
    let install = fs::read_to_string(folder.path().join("share/doc/dropsonde/INSTALL")).unwrap();
    assert!(install.contains("with glibc 2."), "{install}");
}

#[test]
fn the_image_is_pushed_pulled_unpacked_and_scraped() {
    let registry = Server::registry();
    let folder = TempDir::new().unwrap();
    let policy = folder.path().join("policy.json");
    fs::write(&policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
    let copy = |from: &str, to: &str| {
        let mut skopeo = tool("skopeo");
        skopeo.arg("--policy").arg(&policy).args([
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            from,
            to,
        ]);
        succeed(&mut skopeo);
    };
    let made = PACKAGES.folder().join(format!("dropsonde-{VERSION}-oci"));
    let remote = format!("docker://{}/dropsonde:{VERSION}", registry.address);
    copy(&format!("oci:{}:{VERSION}", made.display()), &remote);
    let pulled = folder.path().join("pulled");
    copy(&remote, &format!("oci:{}:{VERSION}", pulled.display()));
    let bundle = folder.path().join("bundle");
    let image = format!("{}:{VERSION}", pulled.display());
    succeed(tool("umoci").args(["unpack", "--image", &image]).arg(&bundle));
    let config: Value = serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
    let process = &config["process"];
    assert_ne!(process["user"]["uid"], 0, "{process}");
    assert_eq!(process["args"], serde_json::json!(["/usr/bin/dropsonde", "serve"]));
    let root = bundle.join("rootfs");
    let user = process["user"]["uid"].to_string();
    // chroot itself takes the rights of a user away.
    let script = format!(
        "mkdir -p \"$0/proc\" && mount --rbind /proc \"$0/proc\" && exec chroot --userspec={user}:{user} \"$0\" \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).arg(&root).args(["/usr/bin/dropsonde", "serve"]).env_clear();
    for variable in process["env"].as_array().unwrap() {
        let (name, value) = variable.as_str().unwrap().split_once('=').unwrap();
        command.env(name, if name == "PATH" { "/usr/sbin:/usr/bin:/sbin:/bin" } else { value });
    }
    let host = Host::start_by(command);
    host.until("/v1/instances/host/usage", |usage| usage.status == 200);
    assert!(host.get("/metrics").body.contains("dropsonde_sample_memory_used_bytes{"));
    assert!(host.log().contains("data=\"/var/lib/dropsonde\""), "{}", host.log());
}

#[test]
fn the_bill_of_materials_names_the_crates_in_the_binary_with_their_licenses() {
    let file = PACKAGES.folder().join(format!("dropsonde-{VERSION}.cdx.json"));
    let bom: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
    assert_eq!((&bom["bomFormat"], &bom["specVersion"]), (&"CycloneDX".into(), &"1.5".into()));
    let components = bom["components"].as_array().unwrap();
    let named = |name: &str| components.iter().find(|component| component["name"] == name);
    for linked in ["wasmtime", "hyper", "wit-bindgen", "procfs"] {
        assert!(
            named(linked).is_some_and(|component| component["licenses"].is_array()),
            "{linked}: {:?}",
            named(linked)
        );
    }
    for unlinked in ["proptest", "criterion", "dropsonde-dev"] {
        assert!(named(unlinked).is_none(), "{unlinked} is only for tests");
    }
    assert!(named("hyper").unwrap()["purl"].as_str().unwrap().starts_with("pkg:cargo/hyper@1."));
}
