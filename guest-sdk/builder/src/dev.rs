//! `cargo dev`: sets up missing tools on this machine, then runs the host or the tests, or builds a release.

use anyhow::{Context, Result, bail};
use dropsonde_builder::{Toolchain, step, unpack_debian_packages};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
Sets up missing tools on this machine, then runs the host or the tests, or builds a release.
All downloads stay under target/, so a second run is quick. `cargo clean` removes them.

Usage: cargo dev <COMMAND> [ARGUMENTS]

Commands:
  run [ARGUMENTS]   builds the host (release) and runs it: `cargo dev run --listen 127.0.0.1:9191`
  test [ARGUMENTS]  runs all tests: `cargo dev test --test all -- plugins`
  release           builds the host for other machines: target/dist/dropsonde. It cannot build plugins, and contains
                    no path of this machine
  setup             only sets up what plain cargo needs: crates, a wasm-capable compiler, Prometheus
                    and other servers, componentize-py, componentize-qjs, componentize-js,
                    schemathesis, and what drives the browser
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let rest: Vec<String> = args.collect();
    let done = match command.as_deref() {
        Some("run") => run(&rest),
        Some("test") => test(&rest),
        Some("release") => release(),
        Some("setup") => setup().and_then(|target| test_tools(&target)),
        None | Some("help" | "-h" | "--help") => {
            // The reader may have closed the pipe.
            let _ = write!(io::stdout(), "{HELP}");
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            let _ = writeln!(io::stderr(), "error: unknown command {other:?}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let target = setup()?;
    step("building the host (the first time: some minutes)", || {
        cargo(["build", "--release", "--package", "dropsonde", "--bin", "dropsonde"].iter())
    })?;
    let mut host = Command::new(target.join("release/dropsonde"));
    host.args(args);
    replace(host)
}

fn test(args: &[String]) -> Result<()> {
    let target = setup()?;
    test_tools(&target)?;
    step("building and running the tests (the first time: some minutes)", || {
        cargo(["test", "--workspace"].iter().copied().chain(args.iter().map(String::as_str)))
    })
}

/// Builds the host without what builds plugins. Fails if the binary contains a path of this machine.
fn release() -> Result<()> {
    let target = setup()?;
    let root = std::env::current_dir().context("the current directory is gone")?;
    let remap = dropsonde_builder::remap_paths(&root);
    step("building the release (some minutes)", || {
        let mut cargo = cargo_command();
        // They replace RUSTFLAGS, which a user may have set for this build.
        let own = std::env::var("RUSTFLAGS").unwrap_or_default();
        let flags: Vec<&str> = own.split_whitespace().chain(remap.iter().map(String::as_str)).collect();
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        cargo.args(["build", "--locked", "--profile", "dist", "--package", "dropsonde", "--bin", "dropsonde"]);
        run_cargo(cargo.arg("--no-default-features"))
    })?;
    let binary = target.join("dist/dropsonde");
    let contents = std::fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let home = std::env::var_os("HOME").map(PathBuf::from);
    for path in home.iter().chain([&root]).filter(|path| path.components().count() > 1) {
        let path = format!("{}/", path.display());
        if contents.windows(path.len()).any(|window| window == path.as_bytes()) {
            bail!("{} contains {path}, a path of this machine", binary.display());
        }
    }
    // The reader may have closed the pipe.
    let _ = writeln!(io::stdout(), "{}  {:.1} MB", binary.display(), contents.len() as f64 / 1e6);
    Ok(())
}

/// Sets up crates and a wasm-capable toolchain. Returns the target directory.
fn setup() -> Result<PathBuf> {
    if Command::new("cc").arg("--version").output().is_err() {
        bail!("cc is not installed, and Rust links with it: `apt install gcc libc6-dev`");
    }
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("this tool lies in guest-sdk/builder")?;
    std::env::set_current_dir(root).with_context(|| format!("cannot enter {}", root.display()))?;
    let target = dropsonde_builder::Crate::at(&root.join("host"))?.target_dir().to_owned();
    step("fetching crates", || cargo(["fetch", "--locked", "--quiet"].iter()))?;
    Toolchain::find_or_fetch(&target)?;
    Ok(target)
}

/// Sets up the additional tools of the tests, at the same time: most of it is downloads.
fn test_tools(target: &Path) -> Result<()> {
    type SetUp = fn(&Path) -> Result<()>;
    let tools: [(SetUp, PathBuf); 7] = [
        (prometheus, target.join("prometheus")),
        (servers, target.join("servers")),
        (componentize_py, target.join("languages/python")),
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
    const REQUIREMENTS: &str = include_str!("../../templates/python/requirements.txt");
    python(folder, REQUIREMENTS, "componentize-py, for plugins in Python")
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
    const PACKAGE: &str = include_str!("../../templates/js/package.json");
    let package = PACKAGE.replace("{{name}}", "languages").replace("{{about}}", "").replace("{{world}}", "");
    npm(folder, &package, "componentize-qjs, for plugins in JavaScript")
}

/// The tests build the example with HTTP with the componentize-js version that it names.
fn componentize_js(folder: &Path) -> Result<()> {
    const PACKAGE: &str = include_str!("../../../plugins/examples/nats/package.json");
    npm(folder, PACKAGE, "componentize-js, for plugins in JavaScript with HTTP")
}

/// The tests drive Chromium, which must be installed.
fn browser(folder: &Path) -> Result<()> {
    const PACKAGE: &str = include_str!("../../../tests/browser/package.json");
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
    step("unpacking Debian's Prometheus", || unpack_debian_packages(&["prometheus"], unpacked))
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
    const PODMAN: [&str; 12] = [
        "podman",
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
    if unpacked.exists() || SERVERS.iter().all(is_there) {
        return Ok(());
    }
    step("unpacking Debian's nginx, Podman, VictoriaMetrics and exporters", || {
        unpack_debian_packages(&[&SERVERS[..], &PODMAN].concat(), unpacked)
    })
    .with_context(|| format!("the tests need {}; install them so that they are on the PATH", SERVERS.join(", ")))
}

fn cargo(args: impl Iterator<Item = impl AsRef<std::ffi::OsStr>>) -> Result<()> {
    run_cargo(cargo_command().args(args))
}

fn cargo_command() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Tests wait for hosts more than they compute, and bear a machine that is busy.
    if let (Ok(cores), None) = (std::thread::available_parallelism(), std::env::var_os("RUST_TEST_THREADS")) {
        cargo.env("RUST_TEST_THREADS", (cores.get() * 4).to_string());
    }
    cargo
}

fn run_cargo(cargo: &mut Command) -> Result<()> {
    let status = cargo.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo failed");
    }
    Ok(())
}

/// Replaces this process by the host, so that signals reach the host and its exit code is returned.
fn replace(mut command: Command) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))
}
