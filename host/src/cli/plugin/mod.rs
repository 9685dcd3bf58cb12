//! `dropsonde plugin`: for authors, and for the plugins of a running host.

mod alone;
mod bench;
mod build;
mod case;
mod check;
mod remote;
mod run;
mod test;
mod usage;

use super::out::Out;
use super::{ClientArgs, HostArgs};
use crate::config::{GrantsConfig, Size, Span};
use clap::{Args, Subcommand, ValueEnum};
use remote::Wish;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Create a plugin project that builds and passes its own test
    New(NewArgs),
    /// Build a plugin project into one component
    Build(BuildArgs),
    /// Show what a component exports, imports and needs granted
    Check(CheckArgs),
    /// Replay a plugin's recorded cases, and compare its readings
    Test(TestArgs),
    /// Run a component once, without a host
    Run(RunArgs),
    /// Measure a component's calls, without a host
    Bench(BenchArgs),
    /// List the plugins of a running host
    List(ClientArgs),
    /// Show a plugin of a running host: its grants, its work, its failures
    Show(PluginArgs),
    /// Load a plugin of a running host again, from its file
    Reload(OrderArgs),
    /// Stop a plugin of a running host until it is released or the host restarts
    Quarantine(OrderArgs),
    /// Start a plugin again that is in quarantine, or waits after a failure
    Release(OrderArgs),
    /// Remove a plugin and its file from a running host; its history stays
    Remove(OrderArgs),
}

impl PluginCommand {
    pub(super) async fn execute(self, out: &mut Out) -> anyhow::Result<()> {
        match self {
            Self::New(args) => build::new(&args, out),
            Self::Build(args) => tokio::task::block_in_place(|| build::build(&args, out)),
            Self::Check(args) => check::check(args, out).await,
            Self::Test(args) => test::test(args, out).await,
            Self::Run(args) => run::run(args, out).await,
            Self::Bench(args) => bench::bench(args, out).await,
            Self::List(args) => remote::list(args, out).await,
            Self::Show(args) => remote::show(args, out).await,
            Self::Reload(args) => remote::wish(args, Wish::Reload, out).await,
            Self::Quarantine(args) => remote::wish(args, Wish::Quarantine, out).await,
            Self::Release(args) => remote::wish(args, Wish::Release, out).await,
            Self::Remove(args) => remote::wish(args, Wish::Remove, out).await,
        }
    }

    /// Whether what a plugin logs is part of what is shown.
    pub(super) fn shows_log(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Test(_))
    }
}

#[derive(Debug, Args)]
pub(super) struct PluginArgs {
    /// The plugin's name
    name: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct OrderArgs {
    /// The plugin's name
    name: String,
    #[command(flatten)]
    host: HostArgs,
}

#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// The plugin's name, and its folder's
    name: String,
    /// Role of the plugin
    #[arg(long, value_enum, default_value_t = Kind::Sampler)]
    kind: Kind,
    /// Language it is written in
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
    /// Folder to create it in
    #[arg(long, value_name = "DIR", default_value = ".")]
    at: PathBuf,
    /// The Rust SDK's folder [default: guest-sdk where this binary was built]
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// Readings of instances
    Sampler,
    /// Statistics of an application as a whole
    Source,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Language {
    Rust,
    Python,
    Js,
}

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// The plugin's project: a Rust crate, or plugin.py or plugin.js
    #[arg(default_value = ".", value_name = "DIR")]
    folder: PathBuf,
    /// Where to put the component [default: NAME.wasm in the project's folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The component's file, or the name of a bundled plugin
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Older version to compare with: show what this one does and needs beyond it
    #[arg(long, value_name = "OLD.wasm")]
    against: Option<PathBuf>,
    /// The plugin's configuration, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    config: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// The plugin's project; its cases are in its folder `tests`
    #[arg(default_value = ".", value_name = "DIR")]
    folder: PathBuf,
    /// Test a component that is built already
    #[arg(long, value_name = "FILE.wasm")]
    file: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// One component, without a host.
#[derive(Debug, Args)]
struct AloneArgs {
    /// The component's file, or the name of a bundled plugin
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// What to sample; may be repeated [default: what it discovers]
    #[arg(long, value_name = "ID")]
    instance: Vec<String>,
    /// The plugin's configuration, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    config: String,
    #[command(flatten)]
    granted: GrantArgs,
    /// Grant all that the plugin says it needs
    #[arg(long)]
    grant_all: bool,
    #[command(flatten)]
    limits: LimitArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The limits a plugin is held to.
#[derive(Debug, Args)]
struct LimitArgs {
    /// CPU time a call may use [default: 100ms, as on a host]
    #[arg(long, value_name = "DURATION", value_parser = some_time)]
    cpu: Option<Span>,
    /// Memory the plugin may use [default: 64MiB, as on a host]
    #[arg(long, value_name = "SIZE", value_parser = some_bytes)]
    memory: Option<Size>,
    /// Time a call may take, waiting included [default: 1s, as on a host]
    #[arg(long, value_name = "DURATION", value_parser = some_time)]
    deadline: Option<Span>,
}

fn some_time(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if span.get().is_zero() { Err("it must be more than nothing".to_owned()) } else { Ok(span) }
}

fn some_bytes(text: &str) -> Result<Size, String> {
    let bytes: Size = text.parse()?;
    if bytes.get() == 0 { Err("it must be more than nothing".to_owned()) } else { Ok(bytes) }
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    alone: AloneArgs,
    /// Keep what it read and gave as a case for `plugin test`, in a new folder, like tests/NAME
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    alone: AloneArgs,
    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

#[derive(Debug, Default, Clone, Args)]
struct GrantArgs {
    /// Grant files by a glob of absolute paths; may be repeated
    #[arg(long, value_name = "GLOB")]
    read: Vec<String>,
    /// Grant requests to an origin, or names that lead to a network as 10.0.0.0/8; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    http: Vec<String>,
    /// Grant an environment variable; may be repeated
    #[arg(long, value_name = "NAME")]
    env: Vec<String>,
    /// Grant a directory, read-only; may be repeated
    #[arg(long, value_name = "DIR")]
    dir: Vec<String>,
}

impl From<GrantArgs> for GrantsConfig {
    fn from(GrantArgs { read, http, env, dir: dirs }: GrantArgs) -> Self {
        Self { read, http, env, dirs }
    }
}
