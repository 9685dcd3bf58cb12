use super::ServeArgs;
use crate::config::Config;
use crate::host::Host;
use crate::http::Tls;
use crate::metrics::HostMetrics;
use crate::tracing::{self, LogOptions};
use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write as _;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Longest time the last spans have to be sent.
const FLUSH: Duration = Duration::from_secs(3);

/// Serves until Ctrl-C or SIGTERM; a second one ends at once.
pub(super) async fn serve(args: ServeArgs, log: &LogOptions) -> Result<()> {
    let check = args.check;
    let config = configuration(args)?;
    if check {
        Tls::read(&config.tls)?;
        say!("the configuration is fine");
        return Ok(());
    }
    let metrics = HostMetrics::new().context("cannot set up the host's own metrics")?;
    let tracing = tracing::init(log, &config.tracing, &metrics)?;
    let served = serve_until_told(config, metrics).await;
    if !tracing.shutdown(FLUSH).await {
        // Nothing is logged any more that could be sent.
        eprintln!("some spans could not be sent in time");
    }
    served
}

async fn serve_until_told(config: Config, metrics: HostMetrics) -> Result<()> {
    raise_open_files();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for signals")?;
    let mut hang_up = signal(SignalKind::hangup()).context("cannot wait for signals")?;
    tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            ::tracing::info!("the configuration is read at the start alone; plugins are followed all the time");
        }
    });
    let mut host = Host::builder().config(config).metrics(metrics).start().await?;
    // On standard output, so that a script can read the address.
    let mut out = std::io::stdout();
    let told = writeln!(out, "listening on {}", host.url()).and_then(|()| out.flush());
    if let Err(error) = told {
        ::tracing::debug!(%error, "nobody reads standard output");
    }
    let mut signalled = async || tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} };
    let failed = tokio::select! {
        () = signalled() => false,
        () = host.server_ended() => true,
    };
    ::tracing::info!("stopping");
    tokio::select! {
        () = host.stop() => {}
        () = signalled() => ::tracing::warn!("stopped at once"),
    }
    if failed { bail!("the server ended by itself; the log says why") } else { Ok(()) }
}

/// As many files as may be: a long history has many, and so has a host with many streams.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    if let Err(error) = raised {
        ::tracing::debug!(%error, limit = limit.current, "the number of open files stays as it is");
    }
}

fn configuration(args: ServeArgs) -> Result<Config> {
    let mut config = match &args.config {
        Some(file) => Config::read(file)?,
        None => Config::default(),
    };
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    config.plugins_dir = args.plugins.or(config.plugins_dir);
    // What the command line says outranks the file, either way.
    config.store.memory_only = args.memory_only || (config.store.memory_only && args.data.is_none());
    config.data_dir = args.data.or(config.data_dir);
    Ok(config.validated()?)
}
