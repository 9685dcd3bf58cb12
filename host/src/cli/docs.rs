//! `dropsonde docs` and `completions`: the handbook, manual pages, and what shells complete, without a host.

use super::out::Out;
use anyhow::{Context as _, Result, bail};
use clap::{Args, Command};
use clap_complete::Shell;
use dropsonde_http::handbook::{PAGES, page};
use dropsonde_model::nearest::nearest;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct DocsArgs {
    /// Page to print, such as `configuration` [default: list all pages]
    page: Option<String>,
    /// Write manual pages of all commands, for `man`, into a folder
    #[arg(long, value_name = "DIR", conflicts_with = "page")]
    man: Option<PathBuf>,
}

/// Prints a page or the list of pages, or writes manual pages of all commands of `cli`.
pub(super) fn docs(out: &mut Out, args: &DocsArgs, cli: Command) -> Result<()> {
    if let Some(folder) = &args.man {
        fs::create_dir_all(folder)
            .and_then(|()| clap_mangen::generate_to(cli.disable_help_subcommand(true), folder))
            .with_context(|| format!("cannot write manual pages into {}", folder.display()))?;
        return Ok(());
    }
    let Some(name) = &args.page else {
        for page in PAGES {
            say!(out, "{:<16} {}", page.name, page.about());
        }
        return Ok(());
    };
    let Some(page) = page(name) else {
        let near = nearest(name, PAGES.iter().map(|page| page.name));
        let near = near.map(|near| format!("; did you mean `dropsonde docs {near}`?")).unwrap_or_default();
        bail!("the handbook has no page {name}{near} (`dropsonde docs` lists all pages)");
    };
    say!(out, "{}", page.text.trim_end());
    Ok(())
}

pub(super) fn completions(out: &mut Out, shell: Shell, mut cli: Command) -> Result<()> {
    // Generated as a whole first: the generator panics if its reader has gone.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli, "dropsonde", &mut script);
    Ok(out.write_all(&script)?)
}
