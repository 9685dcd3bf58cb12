//! `dropsonde docs`: prints the handbook, without a host.

use super::DocsArgs;
use super::out::Out;
use anyhow::{Result, bail};
use dropsonde_http::handbook::{PAGES, page};
use dropsonde_model::nearest::nearest;

pub(super) fn docs(out: &mut Out, args: &DocsArgs) -> Result<()> {
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
