use super::host_address::HostAddress;
use crate::cli::HostArgs;
use crate::config::Config;
use anyhow::{Context as _, Result, bail};
use dropsonde_http::tokens;
use dropsonde_model::Right;
use std::io::ErrorKind;

/// Finds the token to send. A token from a data directory on this machine goes only to a host on this machine, or over
/// a secure connection if --config or --data was given.
pub(super) fn find(args: &HostArgs, config: &Config, target: &HostAddress, right: Right) -> Result<Option<String>> {
    if let Some(file) = &args.token_file {
        let token = tokens::read(file).with_context(|| format!("--token-file {}", file.display()))?;
        return Ok(Some(token));
    }
    if let Some(token) = std::env::var("DROPSONDE_TOKEN").ok().filter(|token| !token.trim().is_empty()) {
        let token = token.trim();
        if !token.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            bail!("DROPSONDE_TOKEN is not a token: a token is one line of printable ASCII");
        }
        return Ok(Some(token.to_owned()));
    }
    let is_named = args.data.config.is_some() || args.data.data.is_some();
    let may_be_shown = target.is_local() || (is_named && target.is_secure());
    if !may_be_shown {
        return Ok(None);
    }
    // The host may need a token because of flags that are unknown here; then it has created the file.
    let made = || Some(config.kept_dir()?.join(right.file_name()));
    let Some(file) = config.http().token_file(right).or_else(made) else { return Ok(None) };
    match tokens::read(&file) {
        Ok(token) => Ok(Some(token)),
        // Most hosts need no token for reading.
        Err(error) if right == Right::Read && error.kind() == ErrorKind::NotFound => Ok(None),
        Err(_) if right == Right::Read && !is_named => Ok(None),
        Err(error) => {
            let hint = match error.kind() {
                ErrorKind::NotFound => "; name the host's data directory with --data, or a file with --token-file",
                _ => "; run this as the user that the host runs as",
            };
            Err(error).with_context(|| format!("cannot read the {} token in {}{hint}", right.as_str(), file.display()))
        }
    }
}
