//! `cargo dev`: sets up missing tools on this machine, then runs the host or the tests.

use anyhow::{Context, Result, bail};
use dropsonde_builder::{Toolchain, step, unpack_debian_packages};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
Sets up missing tools on this machine, then runs the host or the tests.
All downloads stay under target/, so a second run is quick. `cargo clean` removes them.

Usage: cargo dev <COMMAND> [ARGUMENTS]

Commands:
  run [ARGUMENTS]   builds the host (release) and runs it: `cargo dev run --listen 127.0.0.1:9191`
  test [ARGUMENTS]  runs all tests: `cargo dev test --test all -- plugins`
  setup             only sets up what plain cargo needs: crates, a wasm-capable compiler, Prometheus,
                    componentize-py, componentize-qjs and schemathesis
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let command = args.next();
    let rest: Vec<String> = args.collect();
    let done = match command.as_deref() {
        Some("run") => run(&rest),
        Some("test") => test(&rest),
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

/// Sets up the additional tools of the tests.
fn test_tools(target: &Path) -> Result<()> {
    prometheus(target)?;
    componentize_py(&target.join("languages/python"))?;
    componentize_js(&target.join("languages/js"))?;
    schemathesis(&target.join("schemathesis"))
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
fn componentize_js(folder: &Path) -> Result<()> {
    const PACKAGE: &str = include_str!("../../templates/js/package.json");
    let package = PACKAGE.replace("{{name}}", "languages").replace("{{about}}", "").replace("{{world}}", "");
    installed(folder, "package.json", &package, "componentize-qjs, for plugins in JavaScript", || {
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
fn prometheus(target: &Path) -> Result<()> {
    let unpacked = target.join("prometheus");
    let is_there = |program| Command::new(program).arg("--version").output().is_ok();
    if unpacked.exists() || (is_there("promtool") && is_there("prometheus")) {
        return Ok(());
    }
    step("unpacking Debian's Prometheus", || unpack_debian_packages(&["prometheus"], &unpacked))
        .context("the tests need prometheus and promtool; install Prometheus so that both are on the PATH")
}

fn cargo(args: impl Iterator<Item = impl AsRef<std::ffi::OsStr>>) -> Result<()> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    // Many tests wait for a host more than they compute.
    if let (Ok(cores), None) = (std::thread::available_parallelism(), std::env::var_os("RUST_TEST_THREADS")) {
        cargo.env("RUST_TEST_THREADS", (cores.get() + 1).to_string());
    }
    let status = cargo.args(args).status().context("cannot run cargo")?;
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
