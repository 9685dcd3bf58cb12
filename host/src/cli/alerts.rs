//! `dropsonde alerts`: the alerts of a running host.

use super::client::{HostClient, encode};
use super::out::Out;
use super::{ClientArgs, query};
use anyhow::{Context as _, Result};
use clap::Args;
use dropsonde_model::Right;
use dropsonde_model::text::harmless;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::Write as _;

#[derive(Debug, Args)]
pub(super) struct AlertsArgs {
    /// Only alerts in this state: pending, firing or resolved; repeatable [default: all]
    #[arg(long, value_name = "STATE")]
    state: Vec<String>,
    #[command(flatten)]
    client: ClientArgs,
}

#[derive(Deserialize)]
struct AlertRow {
    name: String,
    state: String,
    severity: Option<String>,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    active_at: String,
    #[serde(default)]
    silenced_by: Vec<String>,
}

pub(super) async fn alerts(args: AlertsArgs, out: &mut Out) -> Result<()> {
    let states: Vec<String> = args.state.iter().map(|state| format!("state={}", encode(state))).collect();
    let path = format!("/v1/alerts?{}", states.join("&"));
    let body = HostClient::new(&args.client.host, Right::Read)?.get(&path).await?;
    if args.client.json {
        return query::print(&body, out);
    }
    let alerts: Vec<AlertRow> = serde_json::from_slice(&body).context("the host's answer is not a list of alerts")?;
    if alerts.is_empty() {
        return Ok(writeln!(out, "no alerts")?);
    }
    let width = alerts.iter().map(|alert| alert.name.chars().count()).max().unwrap_or(0).max(5);
    writeln!(out, "{:<width$}  {:<9} {:<9} {:<20} {:<16} SUMMARY", "ALERT", "STATE", "SEVERITY", "SINCE", "INSTANCE")?;
    for alert in alerts {
        let since = alert.active_at.split('.').next().unwrap_or_default().trim_end_matches('Z').to_owned();
        let severity = alert.severity.as_deref().unwrap_or("-").to_owned();
        let about = match alert.annotations.get("summary") {
            Some(summary) => summary.clone(),
            None => {
                let own = alert.labels.iter().filter(|(name, _)| !["alertname", "severity"].contains(&name.as_str()));
                own.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
            }
        };
        let silenced = if alert.silenced_by.is_empty() { "" } else { " (silenced)" };
        let instance = ["id", "instance"].iter().find_map(|label| alert.labels.get(*label)).map_or("-", String::as_str);
        let row = format!(
            "{:<width$}  {:<9} {severity:<9} {since:<20} {instance:<16} {about}{silenced}",
            alert.name, alert.state
        );
        writeln!(out, "{}", harmless(&row))?;
    }
    Ok(())
}
