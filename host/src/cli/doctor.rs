//! `dropsonde doctor`: looks at everything that a host needs on this machine, and says what to do about what is wrong.

use super::HostArgs;
use super::client::HostClient;
use super::out::Out;
use super::serve::check;
use crate::config::{Config, ConfigFile};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use dropsonde_engine::{HISTORY, json};
use dropsonde_model::{Right, text};
use dropsonde_sandbox::Root;
use dropsonde_store::inspect::{self, FolderStats};
use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};
use serde::Deserialize;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
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

/// Share of a disk that must be free, in percent.
const FREE_PERCENT: u64 = 5;

/// Samples further ahead of the clock than this, in milliseconds, show that it was set back.
const AHEAD_MS: i64 = 60_000;

/// A time that has certainly passed: the clock is wrong if it is before. In milliseconds.
const PASSED_MS: i64 = 1_760_000_000_000;

/// Open files that a host with some hundred streams and a long history needs.
const OPEN_FILES: u64 = 4096;

/// The status of a host with which nothing is wrong.
const HEALTHY: &str = "healthy";

/// The state of one thing that was looked at.
struct Finding {
    name: &'static str,
    outcome: Outcome,
    text: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Fine,
    /// It works, but somebody may want to know.
    Note,
    Wrong,
}

/// The relevant part of the answer of `/health`.
#[derive(Deserialize)]
struct Health {
    status: String,
    #[serde(default)]
    reasons: Vec<String>,
}

pub(super) async fn doctor(args: DoctorArgs, out: &mut Out) -> Result<()> {
    let mut findings = Vec::new();
    let data = &args.host.data;
    let config = data.config().and_then(|config| {
        let root = args.rootfs.as_deref().map(Root::open).transpose().context("--rootfs")?;
        let (insecure, trust_tag) = (args.insecure, args.trust_tag);
        Ok(Config { insecure, trust_tag, root, ..config }.validated()?)
    });
    match config {
        Err(error) => findings.push(Finding::wrong("configuration", text::error(&*error))),
        Ok(config) => {
            let file = ConfigFile::find(data.config.as_deref());
            findings.push(Finding::fine(
                "configuration",
                match file.as_ref().map(ConfigFile::path) {
                    Some(path) if path.exists() => path.display().to_string(),
                    Some(path) => format!("defaults: there is no {}", path.display()),
                    None => "defaults".to_owned(),
                },
            ));
            for part in check::parts(&config).await? {
                findings.extend(part.wrong.iter().map(|error| Finding::wrong(part.name, text::error(&**error))));
                if part.wrong.is_empty() {
                    findings.push(Finding::fine(part.name, about(part.name, &config)));
                }
            }
            findings.extend(tokio::task::block_in_place(|| {
                let history = config.kept_dir().and_then(|data| inspect::stats(&data.join(HISTORY)).ok());
                [disk(&config, history.as_ref()), clock(history.as_ref())]
            }));
            findings.extend([open_files(), processes()]);
            findings.push(host(&args, &config).await);
        }
    }
    if args.json {
        let row = |finding: &Finding| json!({ "what": finding.name, "outcome": finding.outcome.as_str(), "text": finding.text });
        say!(out, "{}", serde_json::to_string_pretty(&findings.iter().map(row).collect::<Vec<_>>())?);
    } else {
        for Finding { name, outcome, text } in &findings {
            let line =
                format!("{:<6} {name:<15} {}", outcome.as_str(), text.replace('\n', "\n                       "));
            say!(out, "{}", line.trim_end());
        }
    }
    match findings.iter().filter(|finding| finding.outcome == Outcome::Wrong).count() {
        0 => Ok(()),
        1 => bail!("1 thing is wrong"),
        wrong => bail!("{wrong} things are wrong"),
    }
}

/// Says what was looked at, for parts that are named after what they are in.
fn about(part: &str, config: &Config) -> String {
    let path = match part {
        "data directory" => config.kept_dir(),
        "plugins" => config.plugins_folder(),
        _ => None,
    };
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn disk(config: &Config, history: Option<&FolderStats>) -> Finding {
    const NAME: &str = "disk";
    let Some(data) = config.kept_dir() else { return Finding::fine(NAME, "nothing is written") };
    let place = data.ancestors().find(|place| place.exists()).unwrap_or(Path::new("/"));
    let space = match statvfs(place) {
        Ok(space) => space,
        Err(error) => return Finding::wrong(NAME, format!("{}: {error}", place.display())),
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let all = space.f_blocks.saturating_mul(space.f_frsize);
    let (place, free_mib) = (place.display(), free >> 20);
    if free < all / 100 * FREE_PERCENT {
        let text = format!(
            "{free_mib} MiB are free on the disk of {place}, less than {FREE_PERCENT} %; free some, or lower store.max_disk. \
             While the disk is full, samples are in memory alone"
        );
        return Finding::wrong(NAME, text);
    }
    let most = config.store.max_disk.get() as u64;
    let used = history.map_or(0, FolderStats::bytes);
    if most > free.saturating_add(used) {
        let text = format!("{free_mib} MiB are free on the disk of {place}; store.max_disk allows {} MiB", most >> 20);
        return Finding { name: NAME, outcome: Outcome::Note, text };
    }
    Finding::fine(NAME, format!("{free_mib} MiB are free on the disk of {place}"))
}

fn clock(history: Option<&FolderStats>) -> Finding {
    const NAME: &str = "clock";
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    let now = json::time(now_ms);
    if now_ms < PASSED_MS {
        return Finding::wrong(NAME, format!("the clock says {now}; set it, or start a time service such as chrony"));
    }
    match history.and_then(|stats| stats.newest_ms).filter(|newest| *newest > now_ms + AHEAD_MS) {
        Some(newest) => Finding::wrong(
            NAME,
            format!(
                "history has samples of {}, but the clock says {now}: it was set back, or was ahead then. Samples from \
                 the future appear once their time has come",
                json::time(newest)
            ),
        ),
        None => Finding::fine(NAME, now),
    }
}

fn open_files() -> Finding {
    const NAME: &str = "open files";
    match getrlimit(Resource::Nofile).maximum {
        Some(most) if most < OPEN_FILES => {
            let text =
                format!("at most {most}: raise it (`ulimit -Hn 65536`, LimitNOFILE= of the service) for many streams");
            Finding { name: NAME, outcome: Outcome::Note, text }
        }
        Some(most) => Finding::fine(NAME, format!("at most {most}")),
        None => Finding::fine(NAME, "no limit"),
    }
}

/// Looks whether other users' processes can be seen.
fn processes() -> Finding {
    const NAME: &str = "processes";
    match fs::read("/proc/1/stat").with_context(|| "/proc/1/stat") {
        Ok(_) => Finding::fine(NAME, "those of all users can be seen"),
        Err(error) => Finding {
            name: NAME,
            outcome: Outcome::Note,
            text: format!(
                "those of other users cannot be seen ({}): /proc may be mounted with hidepid, or is that of a container",
                text::error(&*error)
            ),
        },
    }
}

/// Asks the running host how it is.
async fn host(args: &DoctorArgs, config: &Config) -> Finding {
    const NAME: &str = "host";
    let asked = async {
        let body = HostClient::new(&args.host, Right::Read)?.get_whatever_it_says("/health").await?;
        Ok::<_, anyhow::Error>(serde_json::from_slice::<Health>(&body).ok())
    };
    match asked.await {
        Ok(None) => Finding::wrong(NAME, format!("what answers at {} is no Dropsonde host", config.listen)),
        Ok(Some(health)) if health.status == HEALTHY => Finding::fine(NAME, health.status),
        Ok(Some(health)) => Finding::wrong(NAME, format!("{}: {}", health.status, health.reasons.join("\n"))),
        Err(error) => Finding { name: NAME, outcome: Outcome::Note, text: text::error(&*error) },
    }
}

// === impl Finding ===

impl Finding {
    fn fine(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Fine, text: text.into() }
    }

    fn wrong(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, outcome: Outcome::Wrong, text: text.into() }
    }
}

// === impl Outcome ===

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Note => "note",
            Self::Wrong => "WRONG",
        }
    }
}
