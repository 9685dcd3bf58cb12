//! `dropsonde serve`: starts a host from arguments and a configuration file, and handles signals, reloads and changed
//! files while it runs.
//!
//! # Layout
//!
//! * `file_watcher`: notices changed files. `systemd`: notifies the service manager.
//! * `pulls`: pulls plugins that the configuration takes from registries.
//! * `check`: checks a configuration without starting a host; `dropsonde doctor` uses it too.

pub(super) mod check;
mod file_watcher;
mod pulls;
mod systemd;

use super::out::{Out, aside};
use crate::config::{Config, ConfigFile, Listen, in_force};
use crate::host::{Host, NOT_WRITTEN};
use crate::reload::ReloadReport;
use crate::tracing::{self, LogOptions};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use dropsonde_engine::metrics::HostMetrics;
use dropsonde_http::App;
use dropsonde_http::reload::ReloadReply;
use dropsonde_model::Right;
use dropsonde_sandbox::Root;
use file_watcher::FileWatcher;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

#[derive(Debug, Clone, Default, PartialEq, Args)]
pub(super) struct ServeArgs {
    /// Configuration file (TOML) [default: /etc/dropsonde/dropsonde.toml as root, else
    /// $XDG_CONFIG_HOME/dropsonde/dropsonde.toml or ~/.config/dropsonde/dropsonde.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of plugins, NAME.wasm files [default: `plugins` in the data directory]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// Data directory, for everything that is kept between starts: history, tokens, plugins and their state [default:
    /// /var/lib/dropsonde as root, else $XDG_STATE_HOME/dropsonde or ~/.local/state/dropsonde]
    #[arg(long, value_name = "DIR", conflicts_with = "memory_only")]
    data: Option<PathBuf>,
    /// Write nothing to disk: history and plugins' state are lost when the host stops
    #[arg(long)]
    memory_only: bool,
    /// Show made-up series of 50 instances with two hours of history, to look around; nothing is written to disk
    #[arg(long, conflicts_with_all = ["config", "data", "plugins"])]
    demo: bool,
    /// Address and port to serve HTTP on (port 0: any free port), or unix:PATH [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR")]
    listen: Option<Listen>,
    /// Let other machines connect without TLS and read without a token
    #[arg(long)]
    insecure: bool,
    /// Pull plugins by a tag alone (`from = "registry.example/plugins/redis:1"`), which can be moved to other bytes
    #[arg(long)]
    trust_tag: bool,
    /// Folder that plugins take for `/`, for a host in a container that measures its machine: grants and the paths that
    /// plugins read are below it
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// Check the configuration, the files it names and the plugins, print all errors, and exit
    #[arg(long)]
    check: bool,
    /// Print the configuration that would be in force, without secrets, and exit
    #[arg(long, conflicts_with = "check")]
    print_config: bool,
}

/// Least address space, in bytes, in which a host with the bundled plugins starts: below it, there is no room for its
/// threads.
const LEAST_ADDRESS_SPACE: u64 = 512 << 20;

/// Time between two attempts to read or create tokens after a failure.
const TOKENS_RETRY: Duration = Duration::from_secs(5);

/// Longest time to send the last spans when the host stops.
const FLUSH: Duration = Duration::from_secs(3);

/// Serves until SIGINT (Ctrl-C) or SIGTERM; a second signal ends the host at once. SIGHUP reloads the configuration.
/// `is_implied` says that nothing on the command line asked for it.
pub(super) async fn serve(args: ServeArgs, is_implied: bool, log: &LogOptions, out: &mut Out) -> Result<()> {
    let config = configuration(&args)?;
    if args.print_config {
        write!(out, "{}", in_force::text(config_file(&args).as_ref(), &config)?)?;
        return Ok(());
    }
    if is_implied && io::stderr().is_terminal() {
        aside(format_args!(
            "no command: serving this machine's numbers on {}; Ctrl-C stops it, `dropsonde --help` lists all commands",
            config.listen
        ));
    }
    check_address_space()?;
    // Handle SIGXFSZ, or it would kill the host: a write beyond RLIMIT_FSIZE then fails, and its caller goes on
    // without.
    let _beyond_limit = signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).context("cannot wait for signals")?;
    if args.check {
        tracing::log_only(log);
        check::check(&config).await?;
        say!(out, "the configuration is fine");
        return Ok(());
    }
    let metrics = HostMetrics::new().context("cannot set up the host's own metrics")?;
    let tracing = tracing::init(log, &config.tracing, &metrics)?;
    let served = serve_until_told(&args, config, metrics, out).await;
    if !tracing.shutdown(FLUSH).await {
        // Tracing has ended, so this is not logged.
        aside("some spans could not be sent in time");
    }
    served
}

async fn serve_until_told(args: &ServeArgs, config: Config, metrics: HostMetrics, out: &mut Out) -> Result<()> {
    raise_open_files();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot wait for signals")?;
    if config.insecure && config.listen.is_open() {
        ::tracing::warn!(listen = %config.listen, "--insecure: other machines can connect without TLS and read without a token");
    }
    if let Some(file) = config.http().token_file(Right::Read) {
        ::tracing::info!(file = %file.display(), "reading needs the token in this file");
    }
    tell_places(args, &config);
    let mut watcher = FileWatcher::of(files(args, &config)).await;
    let mut host = Host::builder().config(config).metrics(metrics).start().await?;
    // The start may have created some of these files. Scripts replace files after the line that is printed next.
    watcher.follow(files(args, &host.config()), true).await;
    let mut _alone =
        [follow_tokens(host.server().app()).await, follow_certificates(&host).await, pulls::keep_pulled(host.config())];
    // Who reads the address may ask for a reload at once.
    let mut asked = host.server().app().reloads.take_asked();
    // On standard output, so that a script can read the address.
    let told = writeln!(out, "listening on {}", host.url()).and_then(|()| out.flush());
    if let Err(error) = told {
        ::tracing::debug!(%error, "cannot print the address: standard output has no reader");
    }
    let _watchdog = systemd::watchdog(host.engine().clone());
    systemd::ready(&format!("serving on {}", host.url()));
    let mut signalled = async || tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} };
    let failed = loop {
        let answer = tokio::select! {
            () = signalled() => break false,
            () = host.server_ended() => break true,
            answer = next(&mut asked) => {
                ::tracing::info!("reload: requested through the API");
                Some(answer)
            }
            _ = hang_up.recv() => {
                ::tracing::info!("reload: requested by SIGHUP");
                None
            }
            () = watcher.changed() => {
                ::tracing::info!("reload: the configuration or a file it names has changed");
                None
            }
        };
        systemd::reloading();
        watcher.look_again().await;
        let reload = tokio::select! {
            reload = reload(&host, args, &mut watcher) => reload,
            () = signalled() => break false,
        };
        // The new configuration may name other files.
        _alone = [
            follow_tokens(host.server().app()).await,
            follow_certificates(&host).await,
            pulls::keep_pulled(host.config()),
        ];
        systemd::ready(&reload.summary());
        if let Some(answer) = answer {
            // The client may have disconnected.
            let _ = answer.send(reload);
        }
    };
    systemd::stopping();
    ::tracing::info!("stopping");
    let is_written = tokio::select! {
        is_written = host.stop() => is_written,
        () = signalled() => {
            ::tracing::warn!("stopping at once: second signal");
            true
        }
    };
    if !is_written {
        bail!(NOT_WRITTEN);
    }
    if failed { bail!("the server ended by itself; see the log") } else { Ok(()) }
}

/// Waits until the API asks for a reload.
async fn next(asked: &mut Option<mpsc::Receiver<ReloadReply>>) -> ReloadReply {
    let asked = match asked {
        Some(asked) => asked.recv().await,
        None => None,
    };
    match asked {
        Some(answer) => answer,
        None => std::future::pending().await,
    }
}

/// Reads the configuration again and applies it.
async fn reload(host: &Host, args: &ServeArgs, watcher: &mut FileWatcher) -> ReloadReport {
    let own = args.clone();
    let read = move || configuration(&own).map(|config| (config.engine().awaited_files(), config));
    let said = tokio::task::spawn_blocking(read).await.map_err(anyhow::Error::from).flatten();
    // Follow the files of a refused configuration too: a missing file may appear.
    let in_force = host.config();
    let mut named = files(args, &in_force);
    let mut awaited = BTreeSet::new();
    let said = said.map(|(files_awaited, config)| {
        named.extend(files(args, &config));
        awaited = files_awaited;
        config
    });
    // Note the files' state before the trial, so that a change during the trial counts.
    let all = |awaited: &BTreeSet<PathBuf>| named.iter().chain(awaited).cloned().collect();
    watcher.follow(all(&awaited), false).await;
    let reload = host.reload_from(config_file(args).as_ref().map(ConfigFile::path), said).await;
    if reload.error.is_none() {
        awaited.clear();
    }
    watcher.follow(all(&awaited), reload.error.is_none()).await;
    reload
}

/// Follows token files until the returned task is dropped. A changed token does not wait for a reload, which takes as
/// long as plugins take to start.
async fn follow_tokens(app: &Arc<App>) -> JoinSet<()> {
    let app = app.clone();
    let mut watcher = FileWatcher::of(app.options.load().token_files().collect()).await;
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            {
                let mut changed = std::pin::pin!(watcher.changed());
                loop {
                    tokio::select! {
                        () = &mut changed => break,
                        () = tokio::time::sleep(TOKENS_RETRY) => {}
                    }
                    // The folder of the tokens may be back.
                    if app.tokens.has_read_failure() {
                        app.reload_tokens().await;
                    }
                }
            }
            watcher.look_again().await;
            app.reload_tokens().await;
        }
    });
    task
}

/// Follows certificates and their keys until the returned task is dropped.
async fn follow_certificates(host: &Host) -> JoinSet<()> {
    let server = host.server().clone();
    let mut watcher = FileWatcher::of(server.app().options.load().tls_files().collect()).await;
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            watcher.changed().await;
            watcher.look_again().await;
            server.reload_certificates().await;
        }
    });
    task
}

/// Returns the configuration file and the files it names.
fn files(args: &ServeArgs, config: &Config) -> Vec<PathBuf> {
    let file = config_file(args).map(|file| file.path().to_owned());
    file.into_iter().chain(config.named_files()).collect()
}

/// Returns the configuration file. A demo has none.
fn config_file(args: &ServeArgs) -> Option<ConfigFile> {
    if args.demo { None } else { ConfigFile::find(args.config.as_deref()) }
}

/// Logs where this host reads and writes.
fn tell_places(args: &ServeArgs, config: &Config) {
    let file = config_file(args);
    let configuration = match file.as_ref().map(ConfigFile::path) {
        Some(path) if path.exists() => path.display().to_string(),
        Some(path) => format!("defaults, until there is {}", path.display()),
        None => "defaults".to_owned(),
    };
    let shown = |path: Option<PathBuf>| path.map_or_else(|| "none".to_owned(), |path| path.display().to_string());
    let token = |right| shown(config.http().token_file(right));
    ::tracing::info!(
        configuration,
        data = shown(config.kept_dir()),
        plugins = shown(config.plugins_folder()),
        write_token = token(Right::Write),
        admin_token = token(Right::Admin),
        "starting"
    );
}

/// Fails if the address space is too small. A host cannot handle a failed allocation: it would abort in the middle of
/// its work.
fn check_address_space() -> Result<()> {
    let Some(allowed) = getrlimit(Resource::As).current.filter(|allowed| *allowed < LEAST_ADDRESS_SPACE) else {
        return Ok(());
    };
    bail!(
        "RLIMIT_AS allows {} MiB of address space; the host needs {} MiB to start, and some GiB to compile plugins: raise it \
         (`ulimit -v unlimited` before the start, or LimitAS= of the service)",
        allowed >> 20,
        LEAST_ADDRESS_SPACE >> 20
    )
}

/// Raises the limit of open files to its maximum: a long history and many streams need many files.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(error) = raised {
        ::tracing::debug!(%error, limit = limit.current, "cannot raise the limit of open files");
    }
}

fn configuration(args: &ServeArgs) -> Result<Config> {
    let file = config_file(args);
    let mut config = match &file {
        Some(file) => file.read()?,
        None if args.demo => Config::demo()?,
        None => Config::default(),
    };
    let file = file.as_ref().map(ConfigFile::path);
    let ServeArgs { listen, plugins, data, .. } = args.clone();
    config.listen = listen.unwrap_or(config.listen);
    config.insecure = args.insecure;
    config.trust_tag = args.trust_tag;
    if let Some(folder) = &args.rootfs {
        let root = Root::open(folder).with_context(|| format!("--rootfs {}", folder.display()))?;
        config.root = Some(root);
    }
    config.plugins_dir = plugins.or(config.plugins_dir);
    if let Some(data) = data.as_ref().filter(|_| config.store.memory_only) {
        let file = file.unwrap_or(Path::new("the configuration")).display();
        bail!(
            "--data {} keeps history on disk, but `memory_only = true` in [store] of {file} writes nothing to disk; \
             remove one of them",
            data.display()
        );
    }
    config.store.memory_only |= args.memory_only;
    config.data_dir = data.or(config.data_dir);
    let wrong: Vec<String> = config.invalid_values().iter().map(ToString::to_string).collect();
    let checked = match &wrong[..] {
        [] => return Ok(config),
        [one] => Err(anyhow!("{one}")),
        all => Err(anyhow!("{} errors:\n- {}", all.len(), all.join("\n- "))),
    };
    match file {
        Some(file) => checked.with_context(|| file.display().to_string()),
        None => checked,
    }
}
