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

use crate::config::{Config, ConfigFile, Listen, Size};
use crate::host::compile_if_told;
use crate::tracing::{self, LogFormat, LogOptions};
use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use dropsonde_engine::address_space::{BLOCKING_THREADS, THREAD_STACK};
use dropsonde_engine::memory;
use dropsonde_model::text;
use dropsonde_model::time::time_at;
use dropsonde_store::{InstanceId, InvalidInstanceId};
use out::{Out, aside, is_reader_gone};
use plugin::PluginCommand;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

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

#[derive(Debug, Subcommand)]
enum RulesCommand {
    /// Read rule files, and report mistakes in them, in their expressions and in their templates
    ///
    /// Example: dropsonde rules check rules/*.yml
    Check(RuleFilesArgs),
    /// Run unit tests of rules, in the format of `promtool test rules`
    ///
    /// Example: dropsonde rules test alerts_test.yml
    Test(RuleFilesArgs),
}

#[derive(Debug, Args)]
struct RuleFilesArgs {
    /// Files in YAML
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Debug, Clone, Default, PartialEq, Args)]
struct ServeArgs {
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

#[derive(Debug, Args)]
struct DocsArgs {
    /// Page to print, such as `configuration` [default: list all pages]
    page: Option<String>,
    /// Write manual pages of all commands, for `man`, into a folder
    #[arg(long, value_name = "DIR", conflicts_with = "page")]
    man: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct DoctorArgs {
    #[command(flatten)]
    host: HostArgs,
    /// As the host is started
    #[arg(long, value_name = "DIR")]
    rootfs: Option<PathBuf>,
    /// As the host is started
    #[arg(long)]
    insecure: bool,
    /// As the host is started
    #[arg(long)]
    trust_tag: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// Keys or tables, such as `store.retention`, `retention` or `store` [default: all keys]
    key: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Show how many rows and series are stored, their times and their disk usage
    Stats(StoreArgs),
    /// Read all files and report damage; exits with 1 if there is any
    Verify(StoreArgs),
    /// Print history as CSV or OpenMetrics
    ///
    /// Example: dropsonde store export --instance host --since 2026-11-21T00:00:00Z > host.csv
    Export(ExportArgs),
    /// Send history to another server by remote write; the same command goes on where it was stopped
    ///
    /// Examples:
    ///   dropsonde store send --to http://victoria:8428/api/v1/write --since 7d
    ///   dropsonde store send --config dropsonde.toml --to far --match '{id=~"web-.*"}'
    #[command(verbatim_doc_comment)]
    Send(SendArgs),
}

#[derive(Debug, Args)]
struct SendArgs {
    #[command(flatten)]
    data: DataArgs,
    /// URL to send to, or the name of a server of [[remote_write]] in --config
    #[arg(long, value_name = "URL|NAME")]
    to: String,
    /// Send samples from this time on: a span before now such as 7d, or RFC 3339 [default: all]
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Send samples before this time: RFC 3339, Unix seconds, or -1h [default: now]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,
    /// Send series that one of these selectors selects; repeatable [default: all]
    #[arg(long = "match", value_name = "SELECTOR")]
    matches: Vec<String>,
    /// A further header of requests; repeatable
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// File with a bearer token
    #[arg(long, value_name = "FILE")]
    bearer_token_file: Option<PathBuf>,
    /// The most bytes per second, such as 1MiB [default: 16MiB]
    #[arg(long, value_name = "SIZE")]
    rate: Option<Size>,
    /// Send also what was sent before
    #[arg(long)]
    again: bool,
}

#[derive(Debug, Args)]
struct StoreArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ExportArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Output format
    #[arg(long, value_enum, default_value_t = ExportFormat::Csv)]
    format: ExportFormat,
    /// Instance to export; repeatable [default: all instances]
    #[arg(long, value_name = "ID", value_parser = instance_id)]
    instance: Vec<InstanceId>,
    /// Export samples from this time on: RFC 3339, Unix seconds, or -1h
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    since: Option<i64>,
    /// Export samples before this time: RFC 3339, Unix seconds, or -1h
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    until: Option<i64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ExportFormat {
    /// One line per value; counters as rates, as queries show them
    Csv,
    /// For `promtool tsdb create-blocks-from openmetrics`; counters as running totals, values in base units
    #[value(name = "openmetrics")]
    OpenMetrics,
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

#[derive(Debug, Args)]
struct InstancesArgs {
    /// Only instances with this label, as KEY=VALUE; repeatable: all must match
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Only instances in this state
    #[arg(long, value_enum, value_name = "STATE")]
    state: Option<StateArg>,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum StateArg {
    Tracked,
    Paused,
    Ended,
}

impl StateArg {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tracked => "tracked",
            Self::Paused => "paused",
            Self::Ended => "ended",
        }
    }
}

#[derive(Debug, Args)]
struct InstanceArgs {
    /// Id of the instance
    id: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct RangeArgs {
    /// Id of the instance
    id: String,
    /// Time span up to now, such as 30m, 6h or 7d
    #[arg(long, default_value = "1h", value_name = "SPAN")]
    range: String,
    /// Draw only this field, as a large chart [default: one line per field]
    #[arg(long, value_name = "FIELD")]
    field: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct QueryArgs {
    /// The expression
    expression: String,
    /// The time of the values, or the end of the range: RFC 3339, Unix seconds, or -1h [default: now]
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    time: Option<i64>,
    /// Draw the values of this time, such as 30m, 6h or 7d [default: one value]
    #[arg(long, value_name = "SPAN")]
    range: Option<String>,
    /// The time between two values [default: a 240th of the range, at least 1s]
    #[arg(long, value_name = "SPAN", requires = "range")]
    step: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct AlertsArgs {
    /// Only alerts in this state: pending, firing or resolved; repeatable [default: all]
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
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
