//! Commands that query a running host.

use super::chart;
use super::client::{HostClient, HostErrorAnswer, encode};
use super::out::{Out, aside};
use super::{ClientArgs, units};
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use dropsonde_model::Right;
use dropsonde_model::nearest::nearest;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

#[derive(Debug, Args)]
pub(super) struct InstancesArgs {
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
pub(super) enum StateArg {
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
pub(super) struct InstanceArgs {
    /// Id of the instance
    id: String,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Debug, Args)]
pub(super) struct RangeArgs {
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

/// Time between two attempts to connect again.
const RECONNECT: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct InstanceRow {
    id: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    state: String,
    #[serde(default)]
    samplers: Vec<String>,
    last_at: Option<String>,
}

pub(super) async fn instances(args: InstancesArgs, out: &mut Out) -> Result<()> {
    let labels: String = args.label.iter().map(|label| format!("label={}&", encode(label))).collect();
    // The host does not choose by state, so the rest of the list is cut here.
    let most = args.limit.filter(|_| args.state.is_none()).map(|limit| format!("limit={limit}")).unwrap_or_default();
    let path = format!("/v1/instances?{labels}{most}");
    let client = HostClient::new(&args.client.host, Right::Read)?;
    let body = client.get(path.trim_end_matches(['?', '&'])).await?;
    let listed: Vec<Value> = serde_json::from_slice(&body).context("the host's answer is not a list of instances")?;
    let is_wanted = |row: &Value| args.state.is_none_or(|state| row["state"] == state.as_str());
    let listed: Vec<Value> = listed.into_iter().filter(is_wanted).take(args.limit.unwrap_or(usize::MAX)).collect();
    if args.client.json {
        return print(&serde_json::to_vec(&listed)?, out);
    }
    let instances: Result<Vec<InstanceRow>, _> = listed.into_iter().map(serde_json::from_value).collect();
    let instances = instances.context("the host's answer is not a list of instances")?;
    let width = instances.iter().map(|instance| instance.id.chars().count()).max().unwrap_or(0).max(2);
    writeln!(out, "{:<width$}  {:<8} {:<20} {:<16} LABELS", "ID", "STATE", "LAST", "SAMPLERS")?;
    for instance in instances {
        let labels: Vec<_> = instance.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let last = instance.last_at.as_deref().unwrap_or("-").split('.').next().unwrap_or_default().to_owned();
        let samplers = instance.samplers.join(",");
        writeln!(out, "{:<width$}  {:<8} {last:<20} {samplers:<16} {}", instance.id, instance.state, labels.join(" "))?;
    }
    Ok(())
}

pub(super) async fn latest(args: InstanceArgs, out: &mut Out) -> Result<()> {
    let path = format!("/v1/instances/{}/usage", encode(&args.id));
    let client = HostClient::new(&args.client.host, Right::Read)?;
    let body = match client.get(&path).await {
        Err(error) if is_not_found(&error) => {
            is_known(&client, &args.id).await?;
            return Err(error);
        }
        body => body?,
    };
    if args.client.json {
        return print(&body, out);
    }
    let sample: Map<String, Value> = serde_json::from_slice(&body).context("the host's answer is not a sample")?;
    for (name, value) in sample {
        match value.as_f64() {
            Some(number) => writeln!(out, "{}", format!("{name:<32} {number:>16} {}", units::of(&name)).trim_end())?,
            None => writeln!(out, "{name:<32} {}", value.as_str().unwrap_or_default())?,
        }
    }
    Ok(())
}

pub(super) async fn range(args: RangeArgs, out: &mut Out) -> Result<()> {
    let path = format!("/v1/instances/{}/usage/range?range={}", encode(&args.id), encode(&args.range));
    let client = HostClient::new(&args.client.host, Right::Read)?;
    let body = match &args.field {
        Some(field) => client.get(&format!("{path}&fields={}", encode(field))).await?,
        None => client.get(&path).await?,
    };
    let points = points_of(&body)?;
    if points.is_empty() {
        is_known(&client, &args.id).await?;
        if let Some(field) = &args.field {
            has_field(&points_of(&client.get(&path).await?)?, field, &args)?;
        }
    }
    if args.client.json {
        return print(&body, out);
    }
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        match args.field {
            Some(field) => bail!("instance {} has no values of {field} in the last {}", args.id, args.range),
            None => bail!("instance {} has no samples in the last {}", args.id, args.range),
        }
    };
    let at = |point: &Map<String, Value>| point.get("at").and_then(Value::as_str).unwrap_or_default().to_owned();
    let count = if points.len() == 1 { "1 point".to_owned() } else { format!("{} points", points.len()) };
    say!(out, "{}  {} to {}, {count}", args.id, at(first), at(last));
    let mut names: Vec<&String> = Vec::new();
    for name in points.iter().flat_map(Map::keys).filter(|name| *name != "at") {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let column = |name: &str| points.iter().map(|point| point.get(name).and_then(Value::as_f64)).collect::<Vec<_>>();
    match &args.field {
        Some(field) => write!(out, "{}", chart::chart(&with_unit(field), &column(field), chart::width()))?,
        None => {
            let named: Vec<_> = names.into_iter().map(|name| (with_unit(name), column(name))).collect();
            let rows: Vec<_> = named.iter().map(|(name, values)| (name.as_str(), values.clone())).collect();
            write!(out, "{}", chart::lines("FIELD", &rows, chart::width()))?;
        }
    }
    Ok(())
}

pub(super) async fn watch(args: InstanceArgs, out: &mut Out) -> Result<()> {
    let path = format!("/v1/instances/{}/usage/stream", encode(&args.id));
    let client = HostClient::new(&args.client.host, Right::Read)?;
    // The host would wait until there is an instance of that name.
    is_known(&client, &args.id).await?;
    let mut last_id = None;
    let mut body = client.open(&path).await?;
    loop {
        let ended = print_events(&mut body, &mut last_id, args.client.json, out).await?;
        aside(format_args!("{ended}; connecting again"));
        let mut told = String::new();
        body = loop {
            tokio::time::sleep(RECONNECT).await;
            match client.open_after(&path, last_id.as_deref()).await {
                Ok(body) => break body,
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => {
                    let why = format!("{error:#}");
                    if why != told {
                        aside(format_args!("{why}; trying again"));
                        told = why;
                    }
                }
            }
        };
    }
}

/// Returns whether a host answers that the same request will not work later either.
fn is_final(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref::<HostErrorAnswer>().map(|answer| answer.status);
    status.is_some_and(|status| status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS)
}

/// Prints the events of a stream until it ends, and notes the id of the last one. Returns why it ended.
async fn print_events(
    body: &mut Incoming,
    last_id: &mut Option<String>,
    json: bool,
    out: &mut Out,
) -> Result<&'static str> {
    let mut partial = Vec::new();
    let mut event = String::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Ok("the stream was cut off") };
        let Ok(bytes) = frame.into_data() else { continue };
        partial.extend_from_slice(&bytes);
        while let Some(end) = partial.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = partial.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            if let Some(name) = line.strip_prefix("event: ") {
                event = name.to_owned();
            } else if let Some(id) = line.strip_prefix("id: ") {
                *last_id = Some(id.to_owned());
            } else if let Some(data) = line.strip_prefix("data: ") {
                match &*event {
                    "usage" if json => writeln!(out, "{data}")?,
                    "usage" => writeln!(out, "{}", one_line(data)?)?,
                    // Other events, such as `lagged`, are not data.
                    other => aside(format_args!("{other}: {data}")),
                }
                out.flush()?;
            }
        }
    }
    Ok("the host ended the stream")
}

/// Returns a field's name with its unit.
fn with_unit(field: &str) -> String {
    match units::of(field) {
        "" => field.to_owned(),
        unit => format!("{field} ({unit})"),
    }
}

fn points_of(body: &[u8]) -> Result<Vec<Map<String, Value>>> {
    serde_json::from_slice(body).context("the host's answer is not a list of samples")
}

fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<HostErrorAnswer>().is_some_and(|refused| refused.status == StatusCode::NOT_FOUND)
}

/// Fails if the points lack this field and have one with a similar name, which the error suggests.
fn has_field(points: &[Map<String, Value>], field: &str, RangeArgs { id, range, .. }: &RangeArgs) -> Result<()> {
    let names = || points.iter().flat_map(Map::keys).map(String::as_str).filter(|name| *name != "at");
    match nearest(field, names()) {
        Some(meant) if meant != field => {
            bail!("instance {id} has no values of {field} in the last {range}; did you mean {meant}?")
        }
        _ => Ok(()),
    }
}

/// Fails if the host has no instance with this id. The error suggests a similar id.
async fn is_known(client: &HostClient, id: &str) -> Result<()> {
    let body = client.get("/v1/instances").await?;
    let instances: Vec<InstanceRow> =
        serde_json::from_slice(&body).context("the host's answer is not a list of instances")?;
    let known = || instances.iter().map(|instance| &*instance.id);
    match nearest(id, known()) {
        _ if known().any(|known| known == id) => Ok(()),
        Some(meant) => bail!("no instance {id:?}; did you mean {meant:?}?"),
        None => bail!("no instance {id:?}; `dropsonde instances` lists all instances"),
    }
}

fn one_line(data: &str) -> Result<String> {
    let sample: Map<String, Value> = serde_json::from_str(data).context("an event of the stream is not a sample")?;
    let values = sample.iter().map(|(name, value)| match value.as_f64() {
        Some(number) => format!("{name}={}{}", chart::short(number), units::of(name)),
        None => value.as_str().unwrap_or_default().to_owned(),
    });
    Ok(values.collect::<Vec<_>>().join(" "))
}

pub(super) fn print(body: &[u8], out: &mut Out) -> Result<()> {
    out.write_all(body)?;
    Ok(writeln!(out)?)
}
