//! `dropsonde plugin`: develops plugins, and manages those of a running host.

mod artifact;
mod bench;
#[cfg(feature = "authoring")]
mod build;
mod case;
mod check;
mod remote;
mod run;
mod standalone;
mod test;
mod usage;

use super::out::Out;
use super::{ClientArgs, DataArgs, HostArgs};
use crate::config::{GrantsConfig, Size, Span};
use clap::{Args, Subcommand};
use dropsonde_registry::Reference;
use remote::RemotePluginAction;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum PluginCommand {
    /// Create a plugin project that builds and passes its own test
    #[cfg(feature = "authoring")]
    New(NewArgs),
    /// Build a plugin project into one component, NAME.wasm
    #[cfg(feature = "authoring")]
    Build(BuildArgs),
    /// Show what a component exports and imports, and which grants it needs
    ///
    /// The grants are printed as lines to paste into the configuration.
    Check(CheckArgs),
    /// Build a plugin, replay its recorded test cases and print differences
    ///
    /// `dropsonde plugin run --record` records a test case.
    Test(TestArgs),
    /// Sample once with a component, without a host
    ///
    /// Example: dropsonde plugin run load.wasm --read /proc/loadavg --instance host
    Run(RunArgs),
    /// Measure the calls of a component, without a host
    Bench(BenchArgs),
    /// Pull a plugin from a registry into a file, and show what it needs
    ///
    /// The registry's user and password are those of `docker login`, `podman login` or `skopeo login`.
    ///
    /// Example: dropsonde plugin pull registry.example/plugins/redis:1
    Pull(PullArgs),
    /// Push a plugin to a registry, with its signature if there is one beside it
    ///
    /// Example: dropsonde plugin push redis.wasm registry.example/plugins/redis:1
    Push(PushArgs),
    /// Sign a plugin with a secret key of minisign: writes FILE.wasm.minisig
    ///
    /// `minisign -G` makes a pair of keys.
    Sign(SignArgs),
    /// Check the signature of a plugin, which must lie beside it
    Verify(VerifyArgs),
    /// List the plugins of a running host
    List(ClientArgs),
    /// Show a plugin of a running host: its grants, limits, calls and last failure
    Show(PluginArgs),
    /// Restart a plugin of a running host from its file
    Reload(OrderArgs),
    /// Stop a plugin of a running host until it is released or the host restarts
    Quarantine(OrderArgs),
    /// Start a plugin that is in quarantine or waits after a failure
    Release(OrderArgs),
    /// Remove a plugin and its file from a running host; its history stays
    Remove(OrderArgs),
}

impl PluginCommand {
    pub(super) async fn execute(self, out: &mut Out) -> anyhow::Result<()> {
        match self {
            #[cfg(feature = "authoring")]
            Self::New(args) => build::new(&args, out),
            #[cfg(feature = "authoring")]
            Self::Build(args) => tokio::task::block_in_place(|| build::build(&args, out)),
            Self::Check(args) => check::check(args, out).await,
            Self::Test(args) => test::test(args, out).await,
            Self::Run(args) => run::run(args, out).await,
            Self::Bench(args) => bench::bench(args, out).await,
            Self::Pull(args) => artifact::pull(args, out).await,
            Self::Push(args) => artifact::push(args, out).await,
            Self::Sign(args) => tokio::task::block_in_place(|| artifact::sign(&args, out)),
            Self::Verify(args) => tokio::task::block_in_place(|| artifact::verify(&args, out)),
            Self::List(args) => remote::list(args, out).await,
            Self::Show(args) => remote::show(args, out).await,
            Self::Reload(args) => remote::request_action(args, RemotePluginAction::Reload, out).await,
            Self::Quarantine(args) => remote::request_action(args, RemotePluginAction::Quarantine, out).await,
            Self::Release(args) => remote::request_action(args, RemotePluginAction::Release, out).await,
            Self::Remove(args) => remote::request_action(args, RemotePluginAction::Remove, out).await,
        }
    }

    /// Returns whether the command shows the plugin's log lines.
    pub(super) fn shows_log(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Test(_))
    }
}

#[derive(Debug, Args)]
pub(super) struct PluginArgs {
    /// Name of the plugin
    name: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct OrderArgs {
    /// Name of the plugin
    name: String,
    #[command(flatten)]
    host: HostArgs,
}

#[cfg(feature = "authoring")]
#[derive(Debug, Args)]
pub(super) struct NewArgs {
    /// Name of the plugin and of its folder
    name: String,
    /// Role of the plugin
    #[arg(long, value_enum, default_value_t = PluginKindArg::Sampler)]
    kind: PluginKindArg,
    /// Language of the plugin
    #[arg(long, value_enum, default_value_t = PluginLanguageArg::Rust)]
    lang: PluginLanguageArg,
    /// Folder to create the plugin's folder in
    #[arg(long, value_name = "DIR", default_value = ".")]
    at: PathBuf,
    /// Folder of the Rust SDK [default: the plugin gets its own]
    #[arg(long, value_name = "DIR")]
    sdk: Option<PathBuf>,
}

#[cfg(feature = "authoring")]
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PluginKindArg {
    /// Samples instances
    Sampler,
    /// Describes an application as a whole
    Source,
}

#[cfg(feature = "authoring")]
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum PluginLanguageArg {
    Rust,
    Python,
    Js,
    C,
    Go,
}

#[cfg(feature = "authoring")]
#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    /// Folder of the plugin's project: a Rust crate, or a folder with plugin.py, plugin.js, plugin.c or plugin.go
    #[arg(default_value = ".", value_name = "DIR")]
    folder: PathBuf,
    /// File to write the component to [default: NAME.wasm in the project's folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// The artifact: REGISTRY/REPOSITORY:TAG, perhaps with @sha256:DIGEST
    #[arg(value_name = "REF")]
    reference: Reference,
    /// File to write the component to [default: NAME.wasm here, after the last part of the repository]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The component must have this sha256
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Public key of minisign, or a file with one, that must have signed it; repeatable [default: trusted_keys of the
    /// configuration]
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// File of the component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// The artifact: REGISTRY/REPOSITORY:TAG
    #[arg(value_name = "REF")]
    reference: Reference,
}

#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// File of the component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// File with the secret key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// File with the password of the key [default: asks for it]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// File of the component
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Public key of minisign, or a file with one; repeatable [default: trusted_keys of the configuration]
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    #[command(flatten)]
    data: DataArgs,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// File of the component, or the name of a bundled plugin
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Older version to compare with: show what this version adds and removes
    #[arg(long, value_name = "OLD.wasm")]
    against: Option<PathBuf>,
    /// Configuration of the plugin, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    config: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// Folder of the plugin's project; its test cases are in `tests`
    #[arg(default_value = ".", value_name = "DIR")]
    folder: PathBuf,
    /// Test this component instead of building one
    #[arg(long, value_name = "FILE.wasm")]
    file: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// One component that runs without a host.
#[derive(Debug, Args)]
struct StandaloneArgs {
    /// File of the component, or the name of a bundled plugin
    #[arg(value_name = "FILE.wasm")]
    file: PathBuf,
    /// Instance to sample; repeatable [default: the instances that the plugin discovers]
    #[arg(long, value_name = "ID")]
    instance: Vec<String>,
    /// Configuration of the plugin, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    config: String,
    #[command(flatten)]
    granted: GrantArgs,
    /// Grant everything that the plugin says it needs
    #[arg(long)]
    grant_all: bool,
    #[command(flatten)]
    limits: LimitArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The limits of a plugin.
#[derive(Debug, Args)]
struct LimitArgs {
    /// Limit of CPU time per call [default: 100ms, as on a host]
    #[arg(long, value_name = "DURATION", value_parser = some_time)]
    cpu: Option<Span>,
    /// Limit of memory [default: 64MiB, as on a host]
    #[arg(long, value_name = "SIZE", value_parser = some_bytes)]
    memory: Option<Size>,
    /// Limit of wall time per call [default: 1s, as on a host]
    #[arg(long, value_name = "DURATION", value_parser = some_time)]
    deadline: Option<Span>,
}

fn some_time(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if span.get().is_zero() { Err("it must be more than zero".to_owned()) } else { Ok(span) }
}

fn some_bytes(text: &str) -> Result<Size, String> {
    let bytes: Size = text.parse()?;
    if bytes.get() == 0 { Err("it must be more than zero".to_owned()) } else { Ok(bytes) }
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    standalone: StandaloneArgs,
    /// Record a test case for `plugin test` in this new folder, such as tests/NAME
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(flatten)]
    standalone: StandaloneArgs,
    /// Time to measure, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
}

#[derive(Debug, Default, Clone, Args)]
struct GrantArgs {
    /// Grant the files that match this glob of absolute paths; repeatable
    #[arg(long, value_name = "GLOB")]
    read: Vec<String>,
    /// Grant requests to this origin; or allow names in granted origins to resolve into this network, such as
    /// 10.0.0.0/8; repeatable
    #[arg(long, value_name = "ORIGIN")]
    http: Vec<String>,
    /// Grant this environment variable; repeatable
    #[arg(long, value_name = "NAME")]
    env: Vec<String>,
    /// Grant this directory, read-only; repeatable
    #[arg(long, value_name = "DIR")]
    dir: Vec<String>,
}

impl From<GrantArgs> for GrantsConfig {
    fn from(GrantArgs { read, http, env, dir: dirs }: GrantArgs) -> Self {
        Self { read, http, env, dirs }
    }
}
