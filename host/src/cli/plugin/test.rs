use super::TestArgs;
use super::case::{self, Case, CaseTick};
use super::check::{CheckedComponent, CompiledComponent};
use super::standalone::StandaloneRun;
use super::usage::HostLimits;
use crate::cli::out::Out;
use anyhow::{Result, bail};
use dropsonde_model::text;
use dropsonde_sandbox::{Inputs, Recording};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The interval of a case with a single tick.
const INTERVAL: Duration = Duration::from_secs(10);

/// Builds a plugin. Returns its component's file.
#[cfg(feature = "authoring")]
fn built(folder: &Path) -> Result<PathBuf> {
    Ok(super::build::BuiltComponent::of(folder, None)?.file)
}

#[cfg(not(feature = "authoring"))]
fn built(_: &Path) -> Result<PathBuf> {
    bail!("this binary cannot build plugins: name a component with --file")
}

/// Builds a plugin and replays its cases.
pub(super) async fn test(args: TestArgs, out: &mut Out) -> Result<()> {
    let file = match args.file {
        Some(file) => file,
        None => tokio::task::block_in_place(|| built(&args.folder))?,
    };
    let tests = args.folder.join("tests");
    let cases = Case::all(&tests)?;
    if cases.is_empty() {
        bail!(
            "{} has no cases; `dropsonde plugin run FILE.wasm --record {}/NAME` records one",
            tests.display(),
            tests.display()
        );
    }
    let opened = CompiledComponent::cached(&file).await?;
    let allowed = HostLimits::new(&args.limits);
    let mut failed = 0;
    for (name, folder) in &cases {
        let lines = replay(opened.clone(), folder, allowed).await.unwrap_or_else(|error| vec![text::error(&*error)]);
        say!(out, "{name:<24} {}", if lines.is_empty() { "ok" } else { "FAILED" });
        for line in &lines {
            say!(out, "    {line}");
        }
        // Show it now: the next case may take a while.
        out.flush()?;
        failed += usize::from(!lines.is_empty());
    }
    match failed {
        0 => Ok(()),
        1 => bail!("1 of {} cases failed", cases.len()),
        _ => bail!("{failed} of {} cases failed", cases.len()),
    }
}

/// Replays a case. Returns one line per difference from the expected result.
async fn replay(component: CompiledComponent, folder: &Path, allowed: HostLimits) -> Result<Vec<String>> {
    let case = Case::read(folder)?;
    let checked = component.check(&serde_json::to_string(&case.config)?).await?;
    let given = replayed(&checked, &case, folder, allowed).await?;
    let differences = case.ticks.iter().zip(&given).enumerate().flat_map(|(nth, (tick, given))| {
        tick.differences(given).into_iter().map(move |line| format!("tick {}, {line}", nth + 1))
    });
    Ok(differences.collect())
}

/// Polls a component with the files, exchanges, clock and environment of a case. Returns the result of each tick.
pub(super) async fn replayed(
    checked: &CheckedComponent,
    case: &Case,
    folder: &Path,
    allowed: HostLimits,
) -> Result<Vec<CaseTick>> {
    // A recording leads neither to this machine nor to the network.
    let needs = checked.needs()?.to_vec();
    let recording = Arc::new(Recording::new(case.env.clone()));
    let at: Vec<i64> = case.ticks.iter().map(CaseTick::at_ms).collect();
    let interval = match at.as_slice() {
        [first, second, ..] => Duration::from_millis(u64::try_from(second - first).unwrap_or(0)),
        _ => INTERVAL,
    };
    let mut standalone = None;
    let mut given = Vec::new();
    for (nth, tick) in case.ticks.iter().enumerate() {
        recording.go_to(case::tick_folder(folder, nth), u64::try_from(tick.at_ms()).unwrap_or(0));
        if standalone.is_none() {
            let inputs = Inputs::Recorded(recording.clone());
            standalone = Some(StandaloneRun::start(checked.clone(), needs.clone(), inputs, interval, allowed).await?);
        }
        let Some(standalone) = &mut standalone else { continue };
        given.push(CaseTick::of(tick.at_ms(), &standalone.poll(tick.at_ms(), &tick.instances()).await?)?);
    }
    Ok(given)
}
