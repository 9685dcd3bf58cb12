//! Sends history on disk to another server.

use super::{SendArgs, explain_folder_error, folder};
use crate::cli::out::{Out, aside};
use crate::config::{Config, Destination, RemoteWriteConfig};
use anyhow::{Context, Result, bail};
use dropsonde_delivery::options::{Since, check_destinations};
use dropsonde_delivery::{Feedback, KeptSeries, as_text, kept_cursor, send_kept};
use dropsonde_engine::machine_name;
use dropsonde_engine::series::exported_from;
use dropsonde_model::Labels;
use dropsonde_model::time::time_at;
use dropsonde_promql::{Matcher, parse_selector};
use dropsonde_store::FoundSeries;
use dropsonde_store::inspect::{self, ExportFilter};
use jiff::Timestamp;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The time between two lines of progress where nobody looks at a terminal.
const TOLD: Duration = Duration::from_secs(10);

pub(in crate::cli) async fn send(args: SendArgs, out: &mut Out) -> Result<()> {
    let config = args.data.config()?;
    let now_ms = Timestamp::now().as_millisecond();
    let mut destination = destination(&args, &config)?;
    let selector = |text: &String| {
        parse_selector(text).map_err(|error| anyhow::anyhow!("--match {text:?} is no selector: {error}"))
    };
    let matchers: Vec<Vec<Matcher>> = args.matches.iter().map(selector).collect::<Result<_>>()?;
    let folder = folder(&args.data)?;
    let export = explain_folder_error(&folder, inspect::export(&folder, &ExportFilter::default()))?;
    let external_name = config.external_name.clone().unwrap_or_else(machine_name);
    let mut series = exported_from(&export, &external_name);
    let is_wanted = |labels: &Labels| {
        let has_all = |all: &Vec<Matcher>| {
            all.iter().all(|matcher| matcher.matches(labels.get(&matcher.name).unwrap_or_default()))
        };
        matchers.is_empty() || matchers.iter().any(has_all)
    };
    series.retain(|series| is_wanted(&series.labels));
    let Some((first_ms, last_ms)) = span_ms(&series) else {
        bail!("there is nothing to send: no series in {} is as wanted", folder.display());
    };
    let until = match &args.until {
        // The identity below has the text, so that the same command goes on where it was stopped.
        Some(text) => time_at(text, now_ms).with_context(|| format!("--until {text}: not a time"))?,
        None => now_ms,
    };
    let until_ms = until.min(last_ms.saturating_add(1));
    let since_ms = destination.config.since.ms_before(now_ms).max(first_ms);
    if since_ms >= until_ms {
        bail!("there is nothing to send: history is from {} to {}", time(first_ms), time(last_ms));
    }
    let identity = format!("{} {:?} {:?} {:?} {:?}", args.to, args.since, args.until, args.matches, args.header);
    let cursor = kept_cursor(&config.data_dir()?, &identity);
    if args.again {
        match std::fs::remove_file(&cursor) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", cursor.display()));
            }
            _ => {}
        }
    }
    let progress = Arc::new(Progress::new(since_ms, until_ms));
    destination.config.since = Since::At(Timestamp::from_millisecond(since_ms)?);
    let kept = KeptSeries { series, window: since_ms..until_ms };
    let sending = send_kept(kept, destination, cursor.clone(), now_ms, progress.clone());
    let stopped = tokio::select! {
        sent = sending => { sent?; false }
        _ = tokio::signal::ctrl_c() => true,
    };
    progress.clear();
    let (sent, bytes) = (progress.samples.load(Ordering::Relaxed), progress.bytes.load(Ordering::Relaxed));
    say!(out, "sent {sent} samples in {bytes} bytes");
    for (reason, count) in &*progress.refused.lock().unwrap_or_else(PoisonError::into_inner) {
        say!(out, "refused {count} samples: {reason}");
    }
    let is_refused = !progress.refused.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
    if stopped {
        bail!("stopped; the same command goes on where this one ended");
    }
    if is_refused {
        bail!("the server refused samples; mend that, and send all again with --again");
    }
    if sent == 0 && args.again {
        say!(out, "history has no samples in this time");
    } else if sent == 0 {
        say!(out, "everything was sent before; --again sends it again");
    }
    for (name, why) in &export.restored.unreadable {
        aside(format_args!("note: left out {name}: cannot read it: {why}"));
    }
    Ok(())
}

/// Returns the server: a URL for remote write, or a server of the configuration.
fn destination(args: &SendArgs, config: &Config) -> Result<Destination> {
    let known = config.destinations().into_iter().find(|known| known.name() == args.to);
    let is_known = known.is_some();
    let mut destination = match known {
        Some(known) => known,
        None => {
            let table: Result<RemoteWriteConfig, _> = serde_json::from_value(json!({ "url": args.to }));
            table.with_context(|| format!("cannot send to {}", args.to))?.into()
        }
    };
    let remote = &mut destination.config;
    if let Some(since) = &args.since {
        remote.since = since.parse().map_err(|why: String| anyhow::anyhow!("--since: {why}"))?;
    } else {
        remote.since = Since::At(Timestamp::MIN);
    }
    for header in &args.header {
        let Some((name, value)) = header.split_once(':') else {
            bail!("--header {header:?} is no header; write it like \"X-Scope-OrgID: shop\"");
        };
        remote.headers.insert(name.trim().to_owned(), value.trim().to_owned());
    }
    remote.bearer_token_file = args.bearer_token_file.clone().or(remote.bearer_token_file.take());
    remote.catch_up_rate = args.rate.unwrap_or(remote.catch_up_rate);
    check_destinations(std::slice::from_ref(&destination)).map_err(|error| {
        let why = error.to_string();
        if is_known {
            anyhow::anyhow!("{why}")
        } else {
            anyhow::anyhow!("--to {}: {}", args.to, why.trim_start_matches("remote_write[0]."))
        }
    })?;
    Ok(destination)
}

fn span_ms(series: &[FoundSeries]) -> Option<(i64, i64)> {
    let spans = series.iter().flat_map(|series| &series.columns).filter_map(|column| column.frame.span_ms());
    spans.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
}

fn time(at_ms: i64) -> String {
    dropsonde_engine::json::time(at_ms)
}

/// Shows how far it is, on standard error.
#[derive(Debug)]
struct Progress {
    since_ms: i64,
    until_ms: i64,
    sent_ms: AtomicI64,
    samples: AtomicU64,
    bytes: AtomicU64,
    is_terminal: bool,
    told: Mutex<Instant>,
    is_failing: AtomicBool,
    /// Samples that the server refused for good, by what it said.
    refused: Mutex<BTreeMap<String, u64>>,
}

impl Progress {
    fn new(since_ms: i64, until_ms: i64) -> Self {
        Self {
            since_ms,
            until_ms,
            sent_ms: since_ms.into(),
            samples: 0.into(),
            bytes: 0.into(),
            is_terminal: io::stderr().is_terminal(),
            told: Mutex::new(Instant::now()),
            is_failing: false.into(),
            refused: Mutex::default(),
        }
    }

    fn show(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = if self.is_terminal { Duration::from_millis(200) } else { TOLD };
        if told.elapsed() < pause {
            return;
        }
        *told = Instant::now();
        let sent_ms = self.sent_ms.load(Ordering::Relaxed);
        let whole = self.until_ms.saturating_sub(self.since_ms).max(1) as f64;
        let percent = sent_ms.saturating_sub(self.since_ms) as f64 * 100.0 / whole;
        let samples = self.samples.load(Ordering::Relaxed);
        let line = format!("{percent:.0} %, up to {}, {samples} samples", time(sent_ms));
        // Ignore errors: the terminal may be gone.
        let _ = match self.is_terminal {
            true => write!(io::stderr(), "\r\x1b[K{line}"),
            false => writeln!(io::stderr(), "{line}"),
        };
    }

    fn clear(&self) {
        if self.is_terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Feedback for Progress {
    fn works(&self, _: Duration, _: bool) {
        if self.is_failing.swap(false, Ordering::Relaxed) {
            aside("the server works again");
        }
    }

    fn fails(&self, why: &str, _: bool) {
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            self.clear();
            aside(format_args!("cannot send: {why}; trying again"));
        }
    }

    fn took(&self, samples: usize, bytes: usize) {
        self.samples.fetch_add(samples as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.show();
    }

    fn refused(&self, samples: usize, _: &str, why: &str, example: Option<&Labels>) {
        let example = example.map(|labels| format!("; one of them is of {}", as_text(labels))).unwrap_or_default();
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        // Answers that differ in their words are few, unless a server means ill.
        let reason = if refused.len() < 10 { format!("{why}{example}") } else { "other reasons".to_owned() };
        *refused.entry(reason).or_default() += samples as u64;
    }

    fn sent_before(&self, at_ms: i64) {
        self.sent_ms.store(at_ms, Ordering::Relaxed);
    }
}
