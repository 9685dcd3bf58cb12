use super::RunArgs;
use super::case::{self, Case};
use super::check::CheckedComponent;
use super::standalone::{PollResult, StandaloneRun};
use super::test::replayed;
use super::usage::{CallUsage, HostLimits, took};
use crate::cli::out::{Out, aside};
use anyhow::{Context, Result, bail};
use dropsonde_engine::clock::Clock;
use dropsonde_engine::exposition::lines_of;
use dropsonde_engine::plugins::plain;
use dropsonde_engine::{json, snapshot};
use dropsonde_model::Size;
use dropsonde_sandbox::{Inputs, Need, Recorder};
use humantime::format_duration;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Time between the two samples from which rates derive.
const BETWEEN: Duration = Duration::from_secs(1);

/// Runs a component without a host: discovers instances, samples them, and prints the result.
pub(super) async fn run(args: RunArgs, out: &mut Out) -> Result<()> {
    let mut recording = args.record.as_deref().map(CaseRecording::begin).transpose()?;
    // An incomplete recording is deleted.
    let outcome = once(&args, recording.as_mut(), out).await;
    let has_failed = outcome.as_ref().map_or(true, |polled| polled.samples.is_empty() && !polled.failures.is_empty());
    match recording {
        Some(recording) if has_failed => recording.discard(),
        Some(recording) => recording.end(&args).await?,
        None => {}
    }
    match outcome?.failures.first_key_value() {
        Some((id, why)) if has_failed => bail!("no sample: {id}: {why}"),
        _ => Ok(()),
    }
}

/// Samples and prints the result.
async fn once(args: &RunArgs, mut recording: Option<&mut CaseRecording<'_>>, out: &mut Out) -> Result<PollResult> {
    let inputs = match recording.as_deref() {
        Some(recording) => Inputs::RecordedBy(recording.recorder.clone()),
        None => Inputs::Live,
    };
    let clock = Clock::system();
    let mut standalone = StandaloneRun::granted(&args.standalone, inputs, BETWEEN).await?;
    if let Some(recording) = recording.as_deref_mut() {
        recording.granted = standalone.granted.clone();
        recording.checked = Some(standalone.checked.clone());
    }
    let mut at_ms = clock.now_ms();
    let instances = standalone.instances(&args.standalone.instance, at_ms).await?;
    let rounds = if standalone.has_rates() { 2 } else { 1 };
    let mut polled = PollResult::default();
    for round in 0..rounds {
        if round > 0 {
            tokio::time::sleep(BETWEEN).await;
            at_ms = clock.now_ms();
        }
        if let Some(recording) = recording.as_deref() {
            recording.recorder.go_to(case::tick_folder(recording.folder, round));
        }
        polled = standalone.poll(at_ms, &instances).await?;
        if let Some(recording) = recording.as_deref_mut() {
            recording.case.ticks.push(case::CaseTick::of(at_ms, &polled)?);
        }
    }
    if args.standalone.json {
        print_json(&polled, &standalone, out)?
    } else {
        print_table(&polled, &standalone, out)?
    }
    Ok(polled)
}

/// A case that is being recorded.
struct CaseRecording<'a> {
    folder: &'a Path,
    recorder: Arc<Recorder>,
    case: Case,
    granted: Vec<Need>,
    checked: Option<CheckedComponent>,
}

impl<'a> CaseRecording<'a> {
    fn begin(folder: &'a Path) -> Result<Self> {
        if folder.exists() {
            bail!("{} exists already; choose a new folder for the recording", folder.display());
        }
        let recorder = Arc::new(Recorder::default());
        // Files that are read before the first tick belong to the first tick.
        recorder.go_to(case::tick_folder(folder, 0));
        Ok(Self { folder, recorder, case: Case::default(), granted: Vec::new(), checked: None })
    }

    /// Deletes what was written of the recording.
    fn discard(self) {
        if self.folder.exists()
            && let Err(error) = std::fs::remove_dir_all(self.folder)
        {
            aside(format_args!(
                "note: the recording in {} is incomplete and cannot be removed: {error}",
                self.folder.display()
            ));
        }
    }

    async fn end(mut self, args: &RunArgs) -> Result<()> {
        if let Some(error) = self.recorder.failed() {
            let folder = self.folder.display().to_string();
            self.discard();
            return Err(error).with_context(|| format!("cannot write to {folder}"));
        }
        self.case.config = serde_json::from_str(&args.standalone.config)?;
        let known = |need: &Need| match need {
            Need::Env(name) => Some((name.clone(), std::env::var(name).ok()?)),
            _ => None,
        };
        self.case.env = self.granted.iter().filter_map(known).collect();
        self.case.write(self.folder)?;
        let asks = self.granted.iter().any(|need| matches!(need, Need::Http(_)));
        if let Some(checked) = self.checked.as_ref().filter(|_| asks) {
            // In a replay requests take no time: what is expected is what a replay gives.
            let allowed = HostLimits::new(&args.standalone.limits);
            self.case.ticks = replayed(checked, &self.case, self.folder, allowed).await?;
            self.case.write(self.folder)?;
        }
        aside(format_args!("note: recorded in {}", self.folder.display()));
        if asks {
            aside(
                "note: credentials in headers and parameters of requests are left out; files, bodies and the configuration \
                 are as they were, so look at them before you share the recording",
            );
        }
        if self.granted.iter().any(|need| matches!(need, Need::Dir(_))) {
            aside("note: granted directories are not recorded");
        }
        Ok(())
    }
}

/// The series of an instance that a table shows.
const SHOWN_SERIES: usize = 20;

/// The result as JSON, by instance id.
#[derive(Serialize)]
struct RunReport<'a> {
    samples: BTreeMap<String, Box<RawValue>>,
    failures: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stats: Option<serde_json::Value>,
    /// The series that the plugin reported, by instance, without the labels that a host adds.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    series: &'a BTreeMap<String, Vec<String>>,
    /// The plugin's own metrics, as a scrape shows them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    metrics: Vec<String>,
    /// The longest wall time of a call.
    call_seconds: f64,
    cpu_seconds: f64,
    memory_bytes: usize,
    limits: serde_json::Value,
}

fn print_json(polled: &PollResult, standalone: &StandaloneRun, out: &mut Out) -> Result<()> {
    let worker = &standalone.worker;
    let samples = polled.samples.iter().map(|(id, sample)| {
        let raw = RawValue::from_string(String::from_utf8(json::sample(sample))?)?;
        Ok((id.to_string(), raw))
    });
    let samples: BTreeMap<String, Box<RawValue>> = samples.collect::<Result<_>>()?;
    let failures = polled.failures.iter().map(|(id, why)| (id.as_str(), why.as_str())).collect();
    let stats = polled.stats.as_ref().map(snapshot::json_of_source);
    let CallUsage { cpu, wall, memory: memory_bytes } = polled.used;
    let (call_seconds, cpu_seconds) = (wall.as_secs_f64(), cpu.as_secs_f64());
    let limits = standalone.allowed.json();
    let metrics = lines_of(standalone.name(), worker.metrics());
    let series = &polled.series;
    let report =
        RunReport { samples, failures, stats, series, metrics, call_seconds, cpu_seconds, memory_bytes, limits };
    say!(out, "{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

fn print_table(polled: &PollResult, standalone: &StandaloneRun, out: &mut Out) -> Result<()> {
    let worker = &standalone.worker;
    let units: HashMap<_, _> = worker.fields().iter().map(|field| (field.name.as_str(), plain(&field.unit))).collect();
    for (id, sample) in &polled.samples {
        say!(out, "{id}  {}", json::time(sample.at_ms));
        for field in worker.fields() {
            let (name, unit) = (&field.name, units.get(field.name.as_str()).map(String::as_str).unwrap_or_default());
            match sample.get(name) {
                Some(value) => say!(out, "{}", format!("  {name:<28} {value:>16} {unit}").trim_end()),
                None => say!(out, "  {name:<28} {:>16}", "no signal"),
            }
        }
    }
    for (id, why) in &polled.failures {
        say!(out, "{id}  {why}");
    }
    for (id, lines) in &polled.series {
        say!(out, "\n{} series of {id}:", lines.len());
        for line in lines.iter().take(SHOWN_SERIES) {
            say!(out, "  {line}");
        }
        if lines.len() > SHOWN_SERIES {
            say!(out, "  … and {} more; --json shows all", lines.len() - SHOWN_SERIES);
        }
    }
    if let Some(stats) = &polled.stats {
        say!(out, "{:#}", snapshot::json_of_source(stats));
    }
    let metrics = lines_of(standalone.name(), worker.metrics());
    if !metrics.is_empty() {
        say!(out, "\nThe plugin's own metrics:\n{}", metrics.join("\n"));
    }
    let own = worker.metrics();
    let (refused, ignored) = (own.overflowed(), own.wrong_handles() + own.wrong_values());
    if refused + ignored > 0 {
        let (handles, values) = (own.wrong_handles(), own.wrong_values());
        say!(
            out,
            "note: {refused} registrations refused (too many series), {handles} values of unknown series and {values} \
             invalid values ignored"
        );
    }
    if polled.failures.values().any(|why| why.starts_with("denied")) {
        say!(out, "(grant what the plugin needs with --read, --http, --env, --dir or --grant-all)");
    }
    let count = match polled.samples.len() + polled.failures.len() {
        0 => "Answered".to_owned(),
        1 => "1 instance".to_owned(),
        many => format!("{many} instances"),
    };
    let (used, allowed) = (polled.used, standalone.allowed);
    say!(out, "\n{count} in one call");
    say!(out, "  took      {} of {}", took(used.wall), format_duration(allowed.wall));
    say!(out, "  CPU time  {} of {}", took(used.cpu), format_duration(allowed.cpu));
    say!(out, "  memory    {} of {}", Size::new(used.memory), Size::new(allowed.memory));
    Ok(())
}
