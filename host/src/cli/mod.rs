//! The commands.

#[macro_use]
mod out;

mod alerts;
mod chart;
mod client;
mod config;
mod docs;
mod doctor;
mod plugin;
mod promql;
mod query;
mod rules;
mod serve;
mod store;
mod units;

use crate::config::{Config, ConfigFile};
use crate::host::compile_if_told;
use crate::tracing::{self, LogFormat, LogOptions};
use alerts::AlertsArgs;
use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use config::ConfigArgs;
use docs::DocsArgs;
use doctor::DoctorArgs;
use dropsonde_engine::address_space::{BLOCKING_THREADS, THREAD_STACK};
use dropsonde_engine::memory;
use dropsonde_model::text;
use dropsonde_model::time::time_at;
use dropsonde_store::{InstanceId, InvalidInstanceId};
use out::{Out, aside, is_reader_gone};
use plugin::PluginCommand;
use promql::QueryArgs;
use query::{InstanceArgs, InstancesArgs, RangeArgs};
use rules::RulesCommand;
use serve::ServeArgs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use store::StoreCommand;

/// A telemetry host: polls sandboxed WebAssembly plugins, keeps their samples as history, and serves them as JSON, live
/// streams and Prometheus metrics.
#[derive(Debug, Parser)]
#[command(name = "dropsonde", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Args)]
struct LogArgs {
    /// Log level: error, warn, info, debug, trace or off, or directives like `info,plugin=debug` [default: info; warn
    /// for commands that print data]
    #[arg(long, value_name = "LEVEL", env = "DROPSONDE_LOG", global = true)]
    log_level: Option<String>,
    /// Format of log lines
    #[arg(long, value_enum, env = "DROPSONDE_LOG_FORMAT", global = true, default_value_t)]
    log_format: LogFormat,
}

impl LogArgs {
    fn options(self, level: &str) -> LogOptions {
        let wanted = self.log_level.unwrap_or_default();
        // The default level stays for targets that the directives do not name.
        LogOptions { format: self.log_format, level: format!("{level},{wanted}") }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the host (the default command)
    ///
    /// The host prints its address, serves until SIGINT (Ctrl-C) or SIGTERM, and then writes the last samples. It
    /// reloads its configuration when the file changes, on SIGHUP, and on POST /v1/reload.
    ///
    /// Example: dropsonde serve --config dropsonde.toml --data /var/lib/dropsonde
    Serve(ServeArgs),
    /// Develop plugins, and manage those of a running host
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Inspect, check and export history on disk, also beside a running host
    #[command(subcommand)]
    Store(StoreCommand),
    /// List the instances of a running host
    ///
    /// Example: dropsonde instances --label workload=web --state tracked
    Instances(InstancesArgs),
    /// Show the latest sample of an instance
    Latest(InstanceArgs),
    /// Draw the history of an instance in the terminal
    ///
    /// Example: dropsonde range host --range 6h --field cpu_percent
    Range(RangeArgs),
    /// Print the samples of an instance as they arrive, until Ctrl-C; connects again when the connection ends
    Watch(InstanceArgs),
    /// Ask in PromQL
    ///
    /// Prints the values of an expression; with --range it draws them.
    ///
    /// Examples:
    ///   dropsonde query 'topk(5, dropsonde_sample_memory_used_bytes)'
    ///   dropsonde query 'sum(rate(dropsonde_plugin_polls_total[5m]))' --range 6h --step 1m
    #[command(verbatim_doc_comment)]
    Query(QueryArgs),
    /// List the alerts of a running host
    ///
    /// Examples:
    ///   dropsonde alerts
    ///   dropsonde alerts --state firing --json
    #[command(verbatim_doc_comment)]
    Alerts(AlertsArgs),
    /// Check and test rule files of Prometheus' format
    #[command(subcommand)]
    Rules(RulesCommand),
    /// Print the keys of the configuration with their defaults and meanings, as a file to begin with
    ///
    /// Examples:
    ///   dropsonde config > dropsonde.toml
    ///   dropsonde config store
    ///   dropsonde config retention
    #[command(verbatim_doc_comment)]
    Config(ConfigArgs),
    /// Look for what is wrong on this machine: configuration, permissions, disk, clock, plugins, a running host
    ///
    /// Exits with 1 if something is wrong. Run it as the user that the host runs as, with the options of `serve`.
    ///
    /// Example: sudo -u dropsonde dropsonde doctor --config /etc/dropsonde/dropsonde.toml --data /var/lib/dropsonde
    Doctor(DoctorArgs),
    /// Print a page of the handbook, or the list of pages
    Docs(DocsArgs),
    /// Print completions for a shell
    ///
    /// Example: dropsonde completions bash > /etc/bash_completion.d/dropsonde
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct DataArgs {
    /// The host's configuration file (TOML), from which the command learns the host's address, data directory and
    /// tokens [default: the file that `serve` reads by default]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The host's data directory [default: /var/lib/dropsonde as root, else $XDG_STATE_HOME/dropsonde or
    /// ~/.local/state/dropsonde]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl DataArgs {
    /// Returns the configuration that a host with these arguments has.
    fn config(&self) -> anyhow::Result<Config> {
        let file = ConfigFile::find(self.config.as_deref());
        let mut config = file.as_ref().map(ConfigFile::read).transpose()?.unwrap_or_default();
        if let Some(data) = &self.data {
            (config.data_dir, config.store.memory_only) = (Some(data.clone()), false);
        }
        Ok(config)
    }

    /// Returns the host's data directory.
    fn folder(&self) -> anyhow::Result<PathBuf> {
        Ok(self.config()?.data_dir()?)
    }
}

/// Returns the folder for this user's cached files, or none if neither XDG_CACHE_HOME nor HOME is set.
fn user_cache() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("dropsonde"))
}

fn instance_id(text: &str) -> Result<InstanceId, InvalidInstanceId> {
    InstanceId::new(text)
}

fn time(text: &str) -> Result<i64, &'static str> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    time_at(text, now_ms).ok_or("not a time: use RFC 3339, Unix seconds, or a time before now such as -1h")
}

/// The address of a running host, and the client's credentials.
#[derive(Debug, Args)]
struct HostArgs {
    /// URL of the running host: http://…, https://… or unix:PATH [default: the address in --config, else
    /// http://127.0.0.1:9090]
    #[arg(long, value_name = "URL", env = "DROPSONDE_URL")]
    url: Option<String>,
    #[command(flatten)]
    data: DataArgs,
    /// File with the token to send [default: the token in DROPSONDE_TOKEN, else the host's own token file, if the host
    /// is on this machine]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// File of certificates (PEM) to trust, beside those that the machine trusts
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File of the client certificate (PEM), for a host that requires one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// File of the client certificate's private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ClientArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The argument with which a host starts its own binary to compile a plugin. Not a command for people.
pub(crate) const COMPILE: &str = "__compile";

/// Runs the command line. Exit codes: 0 success, 1 failure, 2 wrong usage.
pub fn main() -> ExitCode {
    if let Some(compiled) = compile_if_told() {
        return compiled;
    }
    let cli = Cli::parse();
    if cli.command.is_some() && cli.serve != ServeArgs::default() {
        let misplaced = "options before the command are for `serve`: put them after the command";
        Cli::command().error(ErrorKind::ArgumentConflict, misplaced).exit();
    }
    let is_implied = cli.command.is_none() && cli.serve == ServeArgs::default();
    let command = cli.command.unwrap_or(Command::Serve(cli.serve));
    // Commands that print data log only warnings and errors.
    let is_talkative = match &command {
        Command::Serve(_) => true,
        Command::Plugin(command) => command.shows_log(),
        _ => false,
    };
    let log = cli.log.options(if is_talkative { "info" } else { "warn" });
    if let Err(error) = LogOptions::filter(&log.level) {
        let wrong = format!("--log-level (or DROPSONDE_LOG): {error}");
        Cli::command().error(ErrorKind::InvalidValue, wrong).exit();
    }
    memory::limit_arenas();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().max_blocking_threads(BLOCKING_THREADS).thread_stack_size(THREAD_STACK);
    let runtime = match runtime.build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&anyhow::Error::from(error).context("cannot start the runtime")),
    };
    if !matches!(command, Command::Serve(_)) {
        tracing::log_only(&log);
    }
    let mut out = Out::stdout();
    let done = runtime.block_on(async {
        let out = &mut out;
        match command {
            Command::Serve(args) => serve::serve(args, is_implied, &log, out).await,
            Command::Plugin(command) => command.execute(out).await,
            Command::Store(command) => store::execute(command, out).await,
            Command::Instances(args) => query::instances(args, out).await,
            Command::Latest(args) => query::latest(args, out).await,
            Command::Range(args) => query::range(args, out).await,
            Command::Watch(args) => query::watch(args, out).await,
            Command::Query(args) => promql::ask(args, out).await,
            Command::Alerts(args) => alerts::alerts(args, out).await,
            Command::Rules(command) => tokio::task::block_in_place(|| rules::rules(&command, out)),
            Command::Config(args) => config::config(out, &args),
            Command::Doctor(args) => doctor::doctor(args, out).await,
            Command::Docs(args) => docs::docs(out, &args, Cli::command()),
            Command::Completions { shell } => docs::completions(out, shell, Cli::command()),
        }
    });
    // Do not wait for plugins that are being compiled.
    runtime.shutdown_background();
    // Show what a command printed before its error.
    let shown = out.flush().context("cannot write to standard output");
    match done.and(shown) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_reader_gone(&error) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    aside(format_args!("error: {}", text::error(&**error)));
    ExitCode::FAILURE
}
