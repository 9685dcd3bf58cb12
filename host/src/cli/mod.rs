//! The commands.

#[macro_use]
mod out;

mod chart;
mod client;
mod docs;
mod plugin;
mod query;
mod serve;
mod store;

use crate::config::{Config, Listen};
use crate::host::compile_if_told;
use crate::tracing::{self, Format as LogFormat, LogOptions};
use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use dropsonde_engine::memory;
use dropsonde_engine::room::{BLOCKING_THREADS, THREAD_STACK};
use dropsonde_model::text;
use dropsonde_model::time::time_ms;
use dropsonde_store::{InstanceId, InvalidInstanceId};
use out::{Out, aside, is_reader_gone};
use plugin::PluginCommand;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// A telemetry host: sandboxed WebAssembly plugins measure, it keeps the history and serves it as JSON, live streams and
/// Prometheus metrics.
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
    /// Which lines to log: error, warn, info, debug, trace, or directives like `info,plugin=debug` [default: info; warn where
    /// a command prints data]
    #[arg(long, value_name = "LEVEL", env = "DROPSONDE_LOG", global = true)]
    log_level: Option<String>,
    /// How to log
    #[arg(long, value_enum, env = "DROPSONDE_LOG_FORMAT", global = true, default_value_t)]
    log_format: LogFormat,
}

impl LogArgs {
    fn options(self, level: &str) -> LogOptions {
        let wanted = self.log_level.unwrap_or_default();
        // For what directives say nothing of, it stays as it is.
        LogOptions { format: self.log_format, level: format!("{level},{wanted}") }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the host (the default command)
    Serve(ServeArgs),
    /// Write plugins, and manage those of a running host
    #[command(subcommand)]
    Plugin(PluginCommand),
    /// Inspect history on disk, also while a host writes it
    #[command(subcommand)]
    Store(StoreCommand),
    /// List the instances of a running host
    Instances(ClientArgs),
    /// Show an instance's latest sample
    Latest(InstanceArgs),
    /// Draw an instance's history in the terminal
    Range(RangeArgs),
    /// Follow an instance live
    Watch(InstanceArgs),
    /// Read the handbook: a page, or the list of pages
    Docs(DocsArgs),
}

#[derive(Debug, Clone, Default, PartialEq, Args)]
struct ServeArgs {
    /// Configuration file (TOML); without one, the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of NAME.wasm files [default: plugins in the data directory]
    #[arg(long, value_name = "DIR")]
    plugins: Option<PathBuf>,
    /// What is kept between starts [default: /var/lib/dropsonde as root, else $XDG_STATE_HOME/dropsonde]
    #[arg(long, value_name = "DIR", conflicts_with = "memory_only")]
    data: Option<PathBuf>,
    /// Write nothing to disk
    #[arg(long)]
    memory_only: bool,
    /// Where to serve HTTP: an address and a port (0 takes any free one), or unix:PATH [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR")]
    listen: Option<Listen>,
    /// Allow other machines to connect without TLS, and to read without a token
    #[arg(long)]
    insecure: bool,
    /// Check the configuration and the files it names, then exit
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Args)]
struct DocsArgs {
    /// Which page; without it, all of them are listed
    page: Option<String>,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Show what is stored, and how much space it takes
    Stats(StoreArgs),
    /// Read all files, and report damage
    Verify(StoreArgs),
    /// Print history as CSV or OpenMetrics
    Export(ExportArgs),
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
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Instance to print; may be repeated [default: all]
    #[arg(long, value_name = "ID", value_parser = instance_id)]
    instance: Vec<InstanceId>,
    /// From this time on: RFC 3339 or Unix seconds
    #[arg(long, value_name = "TIME", value_parser = time, allow_negative_numbers = true)]
    since: Option<i64>,
    /// Before this time: RFC 3339 or Unix seconds
    #[arg(long, value_name = "TIME", value_parser = time, allow_negative_numbers = true)]
    until: Option<i64>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// A line for each value, rates as queries see them
    Csv,
    /// For `promtool tsdb create-blocks-from openmetrics`, running totals in base units
    #[value(name = "openmetrics")]
    OpenMetrics,
}

#[derive(Debug, Args)]
struct DataArgs {
    /// The host's configuration file (TOML), which may say where its data is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The host's data directory [default: /var/lib/dropsonde as root, else $XDG_STATE_HOME/dropsonde]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl DataArgs {
    /// What a host with such arguments has in force.
    fn config(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(file) => Config::read(file)?,
            None => Config::default(),
        };
        if let Some(data) = &self.data {
            (config.data_dir, config.store.memory_only) = (Some(data.clone()), false);
        }
        Ok(config)
    }

    /// Its data directory.
    fn folder(&self) -> anyhow::Result<PathBuf> {
        Ok(self.config()?.data_dir()?)
    }
}

/// What can be made again, of this user; none where there is no home.
fn user_cache() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("dropsonde"))
}

fn instance_id(text: &str) -> Result<InstanceId, InvalidInstanceId> {
    InstanceId::new(text)
}

fn time(text: &str) -> Result<i64, &'static str> {
    time_ms(text).ok_or("it is neither RFC 3339 nor Unix seconds")
}

/// A running host, and who asks it.
#[derive(Debug, Args)]
struct HostArgs {
    /// The running host: http://…, https://… or unix:PATH [default: where it listens by its configuration, else
    /// http://127.0.0.1:9090]
    #[arg(long, value_name = "URL", env = "DROPSONDE_URL")]
    url: Option<String>,
    #[command(flatten)]
    data: DataArgs,
    /// A file with the token to show [default: DROPSONDE_TOKEN, else the host's own file, if it is on this machine]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Certificates (PEM) to trust beside the machine's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The certificate (PEM) to show to a host that wants one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
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
struct InstanceArgs {
    /// The instance's id
    id: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
struct RangeArgs {
    /// The instance's id
    id: String,
    /// How far back: 30m, 6h, 7d
    #[arg(long, default_value = "1h", value_name = "SPAN")]
    range: String,
    /// Draw one field large [default: a line for each]
    #[arg(long, value_name = "FIELD")]
    field: Option<String>,
    #[command(flatten)]
    client: ClientArgs,
}

/// Makes the binary a compiler for its parent. Not a command for people.
pub(crate) const COMPILE: &str = "__compile";

/// Runs the command line. 0: fine, 1: it failed, 2: wrong usage.
pub fn main() -> ExitCode {
    if let Some(compiled) = compile_if_told() {
        return compiled;
    }
    let cli = Cli::parse();
    if cli.command.is_some() && cli.serve != ServeArgs::default() {
        let misplaced = "options of `serve` come after the command";
        Cli::command().error(ErrorKind::ArgumentConflict, misplaced).exit();
    }
    let command = cli.command.unwrap_or(Command::Serve(cli.serve));
    // Commands that print data are quieter: what they say is an error of theirs.
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
    memory::keep_little();
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
            Command::Serve(args) => serve::serve(args, &log, out).await,
            Command::Plugin(command) => command.execute(out).await,
            Command::Store(command) => tokio::task::block_in_place(|| match command {
                StoreCommand::Stats(args) => store::stats(&args, out),
                StoreCommand::Verify(args) => store::verify(&args, out),
                StoreCommand::Export(args) => store::export(args, out),
            }),
            Command::Instances(args) => query::instances(args, out).await,
            Command::Latest(args) => query::latest(args, out).await,
            Command::Range(args) => query::range(args, out).await,
            Command::Watch(args) => query::watch(args, out).await,
            Command::Docs(args) => docs::docs(out, &args),
        }
    });
    // A plugin that is being compiled cannot be waited for.
    runtime.shutdown_background();
    // What a command printed before it failed is shown before the error.
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
