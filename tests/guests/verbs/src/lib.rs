//! The tests' guest: an instance's id is a verb, and sampling the instance does it.
//!
//! `ok` reads 1, `count` counts its own calls, `gap` reads a gap, `unavailable` nothing, `gone` is gone, `panic` panics, `spin` never
//! returns, `hoard` takes all memory, `recurse` all stack, `flood` logs, `long` returns too much, `read` reads the file
//! in the configuration, `remember` counts in saved state.

use dropsonde_guest::{Config, Failure, Field, Instance, Need, Reading, Readings, Sampler, Tick, export_sampler};
use dropsonde_guest::{files, log, state};
use std::hint::black_box;

#[derive(Default)]
struct Verbs {
    settings: Settings,
    calls: f64,
}

#[derive(Default, Clone, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Settings {
    discover: Vec<String>,
    read: Option<String>,
    /// `panic`, `spin` or `refuse`, in `init`.
    init: Option<String>,
}

impl Sampler for Verbs {
    fn needs(config: &Config) -> Result<Vec<Need>, Failure> {
        Ok(config.parse::<Settings>()?.read.into_iter().map(Need::read).collect())
    }

    fn init(&mut self, config: &Config) -> Result<(), Failure> {
        self.settings = config.parse()?;
        match self.settings.init.as_deref() {
            None => Ok(()),
            Some("refuse") => Err(Failure::invalid("it says so")),
            Some(verb) => act(verb, &self.settings).map(drop),
        }
    }

    fn fields(&self) -> Vec<Field> {
        vec![
            Field::gauge("value", "What the verb gave").precision(0.001),
            Field::rate("calls_per_sec", "Calls of this instance of the plugin", "verb_calls_total"),
        ]
    }

    fn discover(&mut self, _: &Tick) -> Result<Vec<Instance>, Failure> {
        Ok(self.settings.discover.iter().map(Instance::new).collect())
    }

    fn sample(&mut self, verb: &str) -> Result<Reading, Failure> {
        let value = if verb == "count" { self.calls } else { act(verb, &self.settings)? };
        Ok(Reading::from([value, self.calls]))
    }

    fn sample_all(&mut self, _: &Tick, verbs: &[String]) -> Result<Readings, Failure> {
        self.calls += 1.0;
        let (fields, mut readings) = (self.fields(), Readings::default());
        for verb in verbs {
            let reading = self.sample(verb);
            readings.push(reading, &fields);
        }
        if verbs.iter().any(|verb| verb == "long") {
            readings.values = vec![0.0; 4 << 20];
        }
        Ok(readings)
    }
}

#[allow(clippy::panic, reason = "one of the verbs")]
fn act(verb: &str, settings: &Settings) -> Result<f64, Failure> {
    match verb {
        "gap" => return Ok(f64::NAN),
        "unavailable" => return Err(Failure::unavailable("not now")),
        "gone" => return Err(Failure::Gone),
        "panic" => panic!("told to"),
        "spin" => spin(),
        "hoard" => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(vec![1_u8; 1 << 20]);
                black_box(&hoard);
            }
        }
        "recurse" => return Ok(recurse(1.0)),
        "flood" => (0..1000).for_each(|line| log::info(format!("line {line}\n\x1b[31mforged"))),
        "read" => return Ok(files::read(settings.read.as_deref().unwrap_or_default())?.len() as f64),
        "remember" => {
            let times = state::load().and_then(|bytes| bytes.first().copied()).unwrap_or(0).saturating_add(1);
            state::save(&[times]).map_err(Failure::unavailable)?;
            return Ok(f64::from(times));
        }
        _ => {}
    }
    Ok(1.0)
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns).wrapping_add(1);
    }
}

#[allow(unconditional_recursion, reason = "one of the verbs")]
fn recurse(depth: f64) -> f64 {
    black_box(recurse(black_box(depth + 1.0))) + depth
}

export_sampler!(Verbs);
