//! `cargo dev`: sets up missing tools on this machine, then runs, tests or packages the host.

use anyhow::{Context, Result, bail};
use dropsonde_builder::step;
use dropsonde_dev::package::{PackageOptions, package};
use dropsonde_dev::setup::{test_tools, wasm_toolchain};
use dropsonde_dev::{FEATURES, VERSION};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const HELP: &str = "\
Sets up missing tools on this machine, then runs, tests or packages the host.
All downloads stay under target/, so a second run is quick. `cargo clean` removes them.

Usage: cargo dev <COMMAND> [ARGUMENTS]

Commands:
  run [ARGUMENTS]   builds the host (release) and runs it: `cargo dev run --listen 127.0.0.1:9191`
  test [ARGUMENTS]  runs all tests: `cargo dev test --test all -- plugins`
  release           builds the host for other machines: target/dist/dropsonde. It contains no path of this machine
  package [--binary FILE] [--version VERSION] [--out DIR]
                    builds the release, and packages it into target/package: a Debian package, a tar, an image for
                    containers, an SBOM and SHA256SUMS. --binary packages another binary, --version names another
                    version
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
        Some("release") => release().map(drop),
        Some("package") => make_packages(&rest),
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

/// Builds the host for other machines, and returns the binary's path. Fails if the binary contains a path of this
/// machine.
fn release() -> Result<PathBuf> {
    let target = setup()?;
    let root = std::env::current_dir().context("the current directory is gone")?;
    let remap = dropsonde_builder::remap_paths([root.as_path()]);
    step("building the release (some minutes)", || {
        let mut cargo = cargo_command();
        // They replace RUSTFLAGS, which a user may have set for this build.
        let own = std::env::var("RUSTFLAGS").unwrap_or_default();
        let flags: Vec<&str> = own.split_whitespace().chain(remap.iter().map(String::as_str)).collect();
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        cargo.args(["build", "--locked", "--profile", "dist", "--package", "dropsonde", "--bin", "dropsonde"]);
        run_cargo(cargo.args(["--no-default-features", "--features", FEATURES]))
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
    Ok(binary)
}

fn make_packages(args: &[String]) -> Result<()> {
    let (mut binary, mut version, mut out) = (None, VERSION.to_owned(), None);
    let mut args = args.iter();
    while let Some(option) = args.next() {
        let value = args.next().with_context(|| format!("{option} needs a value"))?;
        match &**option {
            // The working directory changes below.
            "--binary" => binary = Some(std::path::absolute(value)?),
            "--out" => out = Some(std::path::absolute(value)?),
            "--version" => version.clone_from(value),
            other => bail!("unknown option {other:?}; `cargo dev help` lists all"),
        }
    }
    let binary = match binary {
        Some(binary) => binary,
        None => release()?,
    };
    let root = checkout()?;
    let out = out.unwrap_or(dropsonde_builder::Crate::at(&root.join("host"))?.target_dir().join("package"));
    let files = step("packaging", || package(&PackageOptions { root: root.clone(), binary, version, out }))?;
    for file in files {
        let size = file.metadata()?.len();
        // The reader may have closed the pipe.
        let _ = writeln!(io::stdout(), "{}  {:.1} MB", file.display(), size as f64 / 1e6);
    }
    Ok(())
}

/// Returns the folder of the repository.
fn checkout() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("this tool lies in host/dev")?;
    Ok(root.to_owned())
}

/// Sets up crates and a wasm-capable toolchain. Returns the target directory.
fn setup() -> Result<PathBuf> {
    if Command::new("cc").arg("--version").output().is_err() {
        bail!("cc is not installed, and Rust links with it: `apt install gcc libc6-dev`");
    }
    let root = checkout()?;
    std::env::set_current_dir(&root).with_context(|| format!("cannot enter {}", root.display()))?;
    let target = dropsonde_builder::Crate::at(&root.join("host"))?.target_dir().to_owned();
    step("fetching crates", || cargo(["fetch", "--locked", "--quiet"].iter()))?;
    wasm_toolchain(&target)?;
    Ok(target)
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
