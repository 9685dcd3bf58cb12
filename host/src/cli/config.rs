//! `dropsonde config`: the keys of the configuration, without a host.

use super::out::Out;
use crate::config::{ConfigKey, keys, reference};
use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::json;
use std::io::Write as _;

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// Keys or tables, such as `store.retention`, `retention` or `store` [default: all keys]
    key: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn config(out: &mut Out, args: &ConfigArgs) -> Result<()> {
    let mut meant = Vec::new();
    for name in &args.key {
        let more = reference::keys_of(name).map_err(|why| anyhow!(why))?;
        meant.extend(more.into_iter().filter(|key| !meant.contains(key)).collect::<Vec<_>>());
    }
    let meant = if args.key.is_empty() { keys() } else { meant };
    if !args.json {
        return Ok(write!(out, "{}", reference::commented(&meant))?);
    }
    let row = |key: &ConfigKey| {
        json!({
            "key": key.path,
            "default": key.default,
            "required": key.is_required,
            "restart": key.takes_restart,
            "meaning": key.meaning,
        })
    };
    say!(out, "{}", serde_json::to_string_pretty(&meant.iter().map(row).collect::<Vec<_>>())?);
    Ok(())
}
