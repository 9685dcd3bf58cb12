//! Reads history on disk without a host.

mod export;
mod send;

use export::export;
use send::send;

use super::out::Out;
use super::{DataArgs, instance_id, time};
use crate::config::Size;
use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use dropsonde_engine::HISTORY;
use dropsonde_engine::json;
use dropsonde_engine::timeline;
use dropsonde_store::inspect::{self, FileDefect, FileTotals, FolderStats, VerifyReport};
use dropsonde_store::{ClockJump, InstanceId};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use tokio::task::block_in_place;

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
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
pub(super) struct SendArgs {
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
pub(super) struct StoreArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
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
pub(super) enum ExportFormat {
    /// One line per value; counters as rates, as queries show them
    Csv,
    /// For `promtool tsdb create-blocks-from openmetrics`; counters as running totals, values in base units
    #[value(name = "openmetrics")]
    OpenMetrics,
}

pub(super) async fn execute(command: StoreCommand, out: &mut Out) -> Result<()> {
    match command {
        StoreCommand::Stats(args) => block_in_place(|| stats(&args, out)),
        StoreCommand::Verify(args) => block_in_place(|| verify(&args, out)),
        StoreCommand::Export(args) => block_in_place(|| export(args, out)),
        StoreCommand::Send(args) => send(args, out).await,
    }
}

/// Returns the folder with the history of the host that the arguments name.
fn folder(args: &DataArgs) -> Result<PathBuf> {
    Ok(args.folder()?.join(HISTORY))
}

fn explain_folder_error<T>(folder: &Path, looked: io::Result<T>) -> Result<T> {
    let shown = folder.display();
    looked.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            anyhow::anyhow!("no history: there is no folder {shown}; name the host's data directory with --data")
        }
        io::ErrorKind::PermissionDenied => anyhow::Error::from(error)
            .context(format!("cannot read {shown}; run this as the user that the host runs as")),
        _ => anyhow::Error::from(error)
            .context(format!("cannot read {shown}; name the host's data directory with --data")),
    })
}

// === stats ===

fn stats(args: &StoreArgs, out: &mut Out) -> Result<()> {
    let folder = folder(&args.data)?;
    let stats = explain_folder_error(&folder, inspect::stats(&folder))?;
    if args.json {
        return Ok(writeln!(out, "{:#}", stats_json(&folder, &stats))?);
    }
    writeln!(out, "folder     {}", folder.display())?;
    writeln!(out, "in use     {}", if stats.in_use { "by a running host" } else { "no" })?;
    for (kind, files) in kinds(&stats) {
        writeln!(out, "{kind:<10} {:>12} bytes in {}", files.bytes, counted(files.files, "file"))?;
    }
    let per_value = stats.bytes_per_value().map(|bytes| format!(", {bytes:.2} a value")).unwrap_or_default();
    writeln!(out, "all        {:>12} bytes{per_value}", stats.bytes())?;
    writeln!(out, "rows       {:>12} of {}", stats.rows, counted(stats.instances as u64, "instance"))?;
    writeln!(out, "series     {:>12}", stats.series)?;
    writeln!(out, "frames     {:>12}", stats.frames)?;
    writeln!(out, "blocks     {:>12}", stats.blocks)?;
    if let (Some(oldest), Some(newest)) = (stats.oldest_ms, stats.newest_ms) {
        writeln!(out, "times      {} to {}", json::time(oldest), json::time(newest))?;
    }
    if stats.clock_set_back > 0 {
        let frames = counted(stats.clock_set_back, "frame");
        writeln!(out, "clock      set back in {frames}: of two rows with the same time the one written later counts")?;
    }
    clock_jumps(&stats.clock_jumps, out)?;
    let damaged = if stats.damaged == 0 { "none seen".to_owned() } else { counted(stats.damaged, "place") };
    writeln!(out, "damage     {damaged}; `dropsonde store verify` reads everything")?;
    for name in &stats.newer {
        writeln!(out, "newer      {name} was written by a newer version")?;
    }
    for (name, why) in &stats.unreadable {
        writeln!(out, "unreadable {name}: {why}")?;
    }
    Ok(())
}

/// Prints one line per jump of the clock.
fn clock_jumps(jumps: &[ClockJump], out: &mut impl Write) -> io::Result<()> {
    for &ClockJump { at_ms, by_ms } in jumps {
        let direction = if by_ms < 0 { "back" } else { "ahead" };
        writeln!(
            out,
            "clock      the clock was set {direction} by {} to {}",
            timeline::span(by_ms),
            json::time(at_ms)
        )?;
    }
    Ok(())
}

fn clock_jumps_json(jumps: &[ClockJump]) -> Vec<Value> {
    jumps.iter().map(|jump| json!({ "at": json::time(jump.at_ms), "by_ms": jump.by_ms })).collect()
}

fn kinds(stats: &FolderStats) -> [(&'static str, FileTotals); 4] {
    [("log", stats.log), ("fresh", stats.fresh), ("settled", stats.settled), ("notes", stats.notes)]
}

fn stats_json(folder: &Path, stats: &FolderStats) -> Value {
    let files = kinds(stats).map(|(kind, files)| (kind, json!({ "files": files.files, "bytes": files.bytes })));
    let unreadable = stats.unreadable.iter().map(|(name, why)| json!({ "file": name, "why": why }));
    json!({
        "folder": folder.to_string_lossy(), "in_use": stats.in_use,
        "files": BTreeMap::from(files), "bytes": stats.bytes(), "bytes_per_value": stats.bytes_per_value(),
        "instances": stats.instances, "series": stats.series, "frames": stats.frames, "blocks": stats.blocks, "rows": stats.rows,
        "values": stats.values, "oldest_at": stats.oldest_ms.map(json::time),
        "newest_at": stats.newest_ms.map(json::time), "damaged": stats.damaged, "newer": stats.newer,
        "unreadable": unreadable.collect::<Vec<_>>(), "clock_set_back": stats.clock_set_back,
        "clock_jumps": clock_jumps_json(&stats.clock_jumps),
    })
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

// === verify ===

fn verify(args: &StoreArgs, out: &mut Out) -> Result<()> {
    let folder = folder(&args.data)?;
    let verified = explain_folder_error(&folder, inspect::verify(&folder, progress()))?;
    if args.json {
        writeln!(out, "{:#}", verified_json(&folder, &verified))?;
    } else {
        for FileDefect { file, offset, what } in &verified.damaged {
            writeln!(out, "{file}: {offset}: {what}")?;
        }
        for FileDefect { file, offset, what } in &verified.torn {
            writeln!(out, "{file}: {offset}: {what}: harmless, this write was not finished")?;
        }
        for file in &verified.newer {
            writeln!(out, "{file}: 0: written by a newer version, not checked")?;
        }
        clock_jumps(&verified.clock_jumps, out)?;
        let (blocks, rows) = (counted(verified.blocks, "block"), counted(verified.rows, "row"));
        let files = counted(verified.files, "file");
        writeln!(out, "read {} bytes in {files}: {blocks}, {rows}", verified.bytes)?;
    }
    if !verified.is_whole() {
        let places = counted(verified.damaged.len() as u64, "damaged place");
        bail!("{places} in {}; a host leaves them out and uses everything else", folder.display());
    }
    Ok(())
}

fn verified_json(folder: &Path, verified: &VerifyReport) -> Value {
    let findings = |found: &[FileDefect]| -> Vec<Value> {
        found.iter().map(|found| json!({ "file": found.file, "offset": found.offset, "what": found.what })).collect()
    };
    json!({
        "folder": folder.to_string_lossy(), "whole": verified.is_whole(), "files": verified.files,
        "bytes": verified.bytes, "records": verified.records, "blocks": verified.blocks, "rows": verified.rows,
        "damaged": findings(&verified.damaged), "torn": findings(&verified.torn), "newer": verified.newer,
        "clock_jumps": clock_jumps_json(&verified.clock_jumps),
    })
}

/// Returns a callback that shows the progress in percent, if standard error is a terminal.
fn progress() -> impl FnMut(u64, u64) {
    let shown = io::stderr().is_terminal();
    let mut last = None;
    move |done, of| {
        let percent = u128::from(done) * 100 / u128::from(of.max(1));
        if shown && last != Some(percent) {
            last = Some(percent);
            // Ignore errors: the terminal may be gone.
            let _ = match percent {
                100 => write!(io::stderr(), "\r\x1b[K"),
                _ => write!(io::stderr(), "\r{percent} %"),
            };
        }
    }
}
