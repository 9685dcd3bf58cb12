//! Commands for the plugins of a running host.

use super::{ClientArgs, OrderArgs, PluginArgs};
use crate::cli::client::{HostClient, encode};
use crate::cli::out::Out;
use crate::cli::query::print;
use anyhow::{Context, Result};
use dropsonde_model::Right;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::io::Write as _;

/// Longest text of a failure in the list, in characters; `plugin show` prints all of it.
const LONGEST_FAILURE: usize = 100;

#[derive(Deserialize)]
struct PluginRow {
    name: String,
    state: String,
    version: Option<String>,
    instances: u64,
    calls: u64,
    failures: u64,
    memory_bytes: u64,
    last_failure: Option<LastFailureRow>,
    retry_at: Option<String>,
    waiting_for: Option<String>,
}

#[derive(Deserialize)]
struct LastFailureRow {
    at: String,
    reason: String,
}

pub(super) async fn list(args: ClientArgs, out: &mut Out) -> Result<()> {
    let body = HostClient::new(&args.host, Right::Read)?.get("/v1/plugins").await?;
    if args.json {
        return print(&body, out);
    }
    let plugins: Vec<PluginRow> =
        serde_json::from_slice(&body).context("the host's answer is not a list of plugins")?;
    let width = plugins.iter().map(|plugin| plugin.name.len()).max().unwrap_or(0).max(4);
    writeln!(
        out,
        "{:<width$}  {:<11} {:<8} {:>9} {:>9} {:>9} {:>8}  LAST FAILURE",
        "NAME", "STATE", "VERSION", "INSTANCES", "CALLS", "FAILURES", "MEMORY"
    )?;
    for plugin in plugins {
        let PluginRow { name, state, instances, calls, failures, .. } = plugin;
        let version = plugin.version.as_deref().unwrap_or("-");
        let memory = format!("{} KiB", plugin.memory_bytes.div_ceil(1024));
        let failure = plugin.last_failure.map(|failure| format!("{} {}", failure.at, failure.reason));
        let retry = plugin.retry_at.map(|at| format!("next try at {at}; ")).unwrap_or_default();
        let waiting = plugin.waiting_for.map(|what| format!("waits for {what}; ")).unwrap_or_default();
        let failure = waiting + &retry + &failure.unwrap_or_default();
        let failure = match failure.char_indices().nth(LONGEST_FAILURE) {
            Some((end, _)) => format!("{}…", failure.get(..end).unwrap_or_default()),
            None => failure,
        };
        let line = format!(
            "{name:<width$}  {state:<11} {version:<8} {instances:>9} {calls:>9} {failures:>9} {memory:>8}  {failure}"
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

pub(super) async fn show(args: PluginArgs, out: &mut Out) -> Result<()> {
    let body =
        HostClient::new(&args.client.host, Right::Read)?.get(&format!("/v1/plugins/{}", encode(&args.name))).await?;
    if args.client.json {
        return print(&body, out);
    }
    let page: Map<String, Value> = serde_json::from_slice(&body).context("the host's answer is not a plugin")?;
    for (name, value) in &page {
        show_value(out, name, value, 0)?;
    }
    Ok(())
}

/// Prints `name  value`, with nested values indented below.
fn show_value(out: &mut Out, name: &str, value: &Value, depth: usize) -> Result<()> {
    let indent = "  ".repeat(depth);
    let label = format!("{indent}{name}");
    match value {
        Value::Object(inner) => {
            writeln!(out, "{label}")?;
            inner.iter().try_for_each(|(name, value)| show_value(out, name, value, depth + 1))
        }
        Value::Array(items) if items.is_empty() => Ok(writeln!(out, "{label:<28} -")?),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let mut label = label;
            for item in items.iter().filter_map(Value::as_str) {
                writeln!(out, "{label:<28} {item}")?;
                label.clear();
            }
            Ok(())
        }
        Value::Array(items) => {
            writeln!(out, "{label}")?;
            items.iter().try_for_each(|item| show_value(out, "-", item, depth + 1))
        }
        Value::String(text) => Ok(writeln!(out, "{label:<28} {text}")?),
        other => Ok(writeln!(out, "{label:<28} {other}")?),
    }
}

/// A change to a plugin that a command requests.
#[derive(Debug, Clone, Copy)]
pub(super) enum RemotePluginAction {
    Reload,
    Quarantine,
    Release,
    Remove,
}

pub(super) async fn request_action(args: OrderArgs, action: RemotePluginAction, out: &mut Out) -> Result<()> {
    let (method, path, done) = match action {
        RemotePluginAction::Reload => (Method::POST, "/reload", "restarted from its file"),
        RemotePluginAction::Quarantine => {
            (Method::POST, "/quarantine", "stopped until it is released or the host restarts")
        }
        RemotePluginAction::Release => (Method::POST, "/release", "released"),
        RemotePluginAction::Remove => (Method::DELETE, "", "removed; its history stays"),
    };
    let path = format!("/v1/plugins/{}{path}", encode(&args.name));
    let answer = HostClient::new(&args.host, Right::Admin)?.change(method, &path).await?;
    let page: Value = serde_json::from_slice(&answer).unwrap_or_default();
    let done = match (action, page.get("preparing").and_then(Value::as_bool)) {
        (RemotePluginAction::Reload, Some(true)) => "compiling; `dropsonde plugin show` prints the outcome",
        _ => done,
    };
    say!(out, "{}: {done}", args.name);
    Ok(())
}
