//! `dropsonde serve`: from arguments and a file to a running host, and what it is told while it runs.
//!
//! # Layout
//!
//! * `follow`: when files may say something else; `systemd`: what a service manager hears.

mod follow;
mod systemd;

use super::ServeArgs;
use crate::config::{Config, Listen};
use crate::host::Host;
use crate::http::Tls;
use crate::metrics::HostMetrics;
use crate::plugins;
use crate::tokens::{self, Right};
use crate::tracing::{self, LogOptions};
use anyhow::{Context, Result, bail};
use follow::Followed;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Longest time the last spans have to be sent.
const FLUSH: Duration = Duration::from_secs(3);

/// Serves until Ctrl-C or SIGTERM; a second one ends at once. SIGHUP has the configuration read again.
pub(super) async fn serve(args: ServeArgs, log: &LogOptions) -> Result<()> {
    let config = configuration(&args)?;
    if args.check {
        tracing::log_only(log);
        check(&config)?;
        say!("the configuration is fine");
        return Ok(());
    }
    let metrics = HostMetrics::new().context("cannot set up the host's own metrics")?;
    let tracing = tracing::init(log, &config.tracing, &metrics)?;
    let served = serve_until_told(&args, config, metrics).await;
    if !tracing.shutdown(FLUSH).await {
        // Nothing is logged any more that could be sent.
        eprintln!("some spans could not be sent in time");
    }
    served
}

/// What a start would find out without making anything, or running a plugin.
fn check(config: &Config) -> Result<()> {
    Tls::read(&config.tls)?;
    for file in Right::ALL.into_iter().filter_map(|right| config.token_file(right)) {
        match tokens::read(&file) {
            // It is made, where there is a place to make it; the data directory is.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if config.auth.file_is_named(&file) {
                    has_folder(&file)?;
                }
            }
            read => drop(read.with_context(|| file.display().to_string())?),
        }
    }
    if let Listen::Unix(path) = &config.listen {
        has_folder(path)?;
    }
    match &config.plugins_dir {
        Some(folder) if !folder.is_dir() => bail!("plugins_dir = {}: there is no such folder", folder.display()),
        Some(folder) => Ok(plugins::check_folder(folder)?),
        None => Ok(()),
    }
}

fn has_folder(file: &Path) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() { Ok(()) } else { bail!("{}: there is no such folder to make it in", file.display()) }
}

async fn serve_until_told(args: &ServeArgs, config: Config, metrics: HostMetrics) -> Result<()> {
    raise_open_files();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot wait for signals")?;
    if config.insecure && config.listen.is_open() {
        ::tracing::warn!(listen = %config.listen, "--insecure: other machines may connect in plain, and read without a token");
    }
    if let Some(file) = config.token_file(Right::Read) {
        ::tracing::info!(file = %file.display(), "reading needs the token in this file");
    }
    let mut followed = Followed::of(files(args, &config)).await;
    let mut host = Host::builder().config(config).metrics(metrics).start().await?;
    // It may have made some of them. Whoever replaces one waits for what comes next.
    followed.follow(files(args, &host.core().config.load()), true).await;
    // On standard output, so that a script can read the address.
    let mut out = std::io::stdout();
    let told = writeln!(out, "listening on {}", host.url()).and_then(|()| out.flush());
    if let Err(error) = told {
        ::tracing::debug!(%error, "nobody reads standard output");
    }
    let _watchdog = systemd::watchdog(host.core().clone());
    systemd::ready();
    let mut signalled = async || tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} };
    let failed = loop {
        tokio::select! {
            () = signalled() => break false,
            () = host.server_ended() => break true,
            _ = hang_up.recv() => ::tracing::info!("told to read the configuration again"),
            () = followed.changed() => ::tracing::info!("the configuration, or a file it names, was changed"),
        }
        systemd::reloading();
        followed.look_again().await;
        tokio::select! {
            () = reload(&host, args, &mut followed) => {}
            () = signalled() => break false,
        }
        systemd::ready();
    };
    systemd::stopping();
    ::tracing::info!("stopping");
    tokio::select! {
        () = host.stop() => {}
        () = signalled() => ::tracing::warn!("stopped at once"),
    }
    if failed { bail!("the server ended by itself; the log says why") } else { Ok(()) }
}

/// What the file says now takes over, as far as it can.
async fn reload(host: &Host, args: &ServeArgs, followed: &mut Followed) {
    let own = args.clone();
    let said = tokio::task::spawn_blocking(move || configuration(&own)).await.map_err(anyhow::Error::from).flatten();
    // Also of one that is refused: what it lacks may come.
    let in_force = host.core().config.load_full();
    let mut named = files(args, &in_force);
    if let Ok(config) = &said {
        named.extend(files(args, config));
    }
    let done = match said {
        Ok(config) => host.reload(config).await,
        Err(error) => Err(error),
    };
    followed.follow(named, done.is_ok()).await;
    match done {
        Ok(needs_restart) => {
            for key in needs_restart {
                ::tracing::warn!(key, "this was changed, and takes a restart: it is still as it was");
            }
            ::tracing::info!("the configuration was read again");
        }
        Err(error) => ::tracing::error!(error = format_args!("{error:#}"), "the configuration stays as it was"),
    }
}

/// The configuration's own, and those it names.
fn files(args: &ServeArgs, config: &Config) -> Vec<PathBuf> {
    args.config.iter().cloned().chain(config.named_files()).collect()
}

/// As many files as may be: a long history has many, and so has a host with many streams.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(error) = raised {
        ::tracing::debug!(%error, limit = limit.current, "the number of open files stays as it is");
    }
}

fn configuration(args: &ServeArgs) -> Result<Config> {
    let mut config = match &args.config {
        Some(file) => Config::read(file)?,
        None => Config::default(),
    };
    let ServeArgs { listen, plugins, data, .. } = args.clone();
    config.listen = listen.unwrap_or(config.listen);
    config.insecure = args.insecure;
    config.plugins_dir = plugins.or(config.plugins_dir);
    // What the command line says outranks the file, either way.
    config.store.memory_only = args.memory_only || (config.store.memory_only && data.is_none());
    config.data_dir = data.or(config.data_dir);
    match (config.validated(), &args.config) {
        (Err(error), Some(file)) => Err(error).with_context(|| file.display().to_string()),
        (validated, _) => Ok(validated?),
    }
}
