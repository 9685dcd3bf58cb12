//! A recorded test case: `case.json`, and beside it the files that were read in each tick, in `tick-1`, `tick-2`, …
//!
//! ```json
//! {
//!   "config": {},
//!   "env": { "TZ": "UTC" },
//!   "ticks": [
//!     { "at": "2026-01-02T03:04:00Z", "samples": { "host": { "load_avg_1m": 0.42 } }, "failures": { "db": "denied" } }
//!   ]
//! }
//! ```
//!
//! A tick polls the instances it names. `samples` has the fields as a host shows them, and `failures` has text that the
//! reason must contain. A tick of a source has `stats` instead.

use super::standalone::PollResult;
use anyhow::{Context, Result, bail};
use dropsonde_engine::{json, snapshot};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const FILE: &str = "case.json";

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Case {
    #[serde(default)]
    pub(super) config: Map<String, Value>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) env: BTreeMap<String, String>,
    pub(super) ticks: Vec<CaseTick>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CaseTick {
    at: Timestamp,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    samples: BTreeMap<String, Map<String, Value>>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    failures: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stats: Option<Value>,
}

/// Returns the folder of files that were read in a tick. Ticks count from 0.
pub(super) fn tick_folder(case: &Path, tick: usize) -> PathBuf {
    case.join(format!("tick-{}", tick + 1))
}

impl Case {
    /// Finds the cases of a project, by name.
    pub(super) fn all(tests: &Path) -> Result<BTreeMap<String, PathBuf>> {
        let entries = match std::fs::read_dir(tests) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", tests.display())),
        };
        let mut cases = BTreeMap::new();
        for entry in entries {
            let path = entry?.path();
            if path.join(FILE).is_file() {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                cases.insert(name, path);
            }
        }
        Ok(cases)
    }

    pub(super) fn read(folder: &Path) -> Result<Self> {
        let file = folder.join(FILE);
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let case: Self = serde_json::from_str(&text).with_context(|| format!("{}", file.display()))?;
        if case.ticks.is_empty() {
            bail!("{}: the case has no ticks", file.display());
        }
        if case.ticks.windows(2).any(|pair| matches!(pair, [a, b] if a.at >= b.at)) {
            bail!("{}: the ticks are not in the order of their times", file.display());
        }
        Ok(case)
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(folder.join(FILE), text + "\n"))
            .with_context(|| format!("cannot write to {}", folder.display()))
    }
}

impl CaseTick {
    /// Makes a tick of a poll's result, which later polls have to match.
    pub(super) fn of(at_ms: i64, polled: &PollResult) -> Result<Self> {
        let samples = polled.samples.iter().map(|(id, sample)| Ok((id.to_string(), fields(&json::sample(sample))?)));
        Ok(Self {
            at: Timestamp::from_millisecond(at_ms)?,
            samples: samples.collect::<Result<_>>()?,
            failures: polled.failures.iter().map(|(id, why)| (id.to_string(), why.clone())).collect(),
            stats: polled.stats.as_ref().map(snapshot::json_of_source),
        })
    }

    pub(super) fn at_ms(&self) -> i64 {
        self.at.as_millisecond()
    }

    pub(super) fn instances(&self) -> Vec<String> {
        self.samples.keys().chain(self.failures.keys()).cloned().collect()
    }

    /// Compares a poll's result (`given`) with this tick. Returns one line per difference.
    pub(super) fn differences(&self, given: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (id, wanted) in &self.samples {
            match (given.samples.get(id), given.failures.get(id)) {
                (Some(sample), _) => {
                    compare(id, &Value::from(wanted.clone()), &Value::from(sample.clone()), &mut lines)
                }
                (None, Some(why)) => lines.push(format!("{id}: no sample: {why}")),
                (None, None) => lines.push(format!("{id}: no sample")),
            }
        }
        for (id, wanted) in &self.failures {
            match given.failures.get(id) {
                Some(why) if why.contains(wanted) => {}
                Some(why) => lines.push(format!("{id}: failed with {why:?}, expected {wanted:?}")),
                None => lines.push(format!("{id}: gave a sample, expected the failure {wanted:?}")),
            }
        }
        if let Some(wanted) = &self.stats {
            compare("stats", wanted, given.stats.as_ref().unwrap_or(&Value::Null), &mut lines);
        }
        lines
    }
}

/// Parses a sample's fields without its time, which is the tick's.
fn fields(sample: &[u8]) -> Result<Map<String, Value>> {
    let mut fields: Map<String, Value> = serde_json::from_slice(sample)?;
    // This keeps the order of the other fields.
    fields.shift_remove("at");
    Ok(fields)
}

fn compare(what: &str, wanted: &Value, given: &Value, lines: &mut Vec<String>) {
    match (wanted, given) {
        (Value::Object(wanted), Value::Object(given)) => {
            for (key, wanted) in wanted {
                compare(&format!("{what}.{key}"), wanted, given.get(key).unwrap_or(&Value::Null), lines);
            }
            for (key, given) in given.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
                lines.push(format!("{what}.{key} is {given}, expected none"));
            }
        }
        (Value::Number(a), Value::Number(b)) if is_same(a.as_f64(), b.as_f64()) => {}
        (wanted, given) if wanted == given => {}
        (wanted, Value::Null) => lines.push(format!("{what} is missing, expected {wanted}")),
        (wanted, given) => lines.push(format!("{what} is {given}, expected {wanted}")),
    }
}

/// Returns whether two numbers agree to nine digits, as many as people write.
fn is_same(a: Option<f64>, b: Option<f64>) -> bool {
    let (Some(a), Some(b)) = (a, b) else { return a == b };
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(json: &str) -> CaseTick {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn every_difference_is_one_line_with_the_name_of_the_field() {
        let wanted = tick(
            r#"{"at":"2026-01-02T03:04:00Z","samples":{"a":{"x":1,"y":2},"b":{"x":0.3},"c":{}},"failures":{"d":"denied"}}"#,
        );
        let given = tick(
            r#"{"at":"2026-01-02T03:04:00Z","samples":{"a":{"x":1.0,"z":3},"b":{"x":0.30000000000000004},"d":{}},"failures":{"c":"gone"}}"#,
        );
        assert_eq!(
            wanted.differences(&given),
            [
                "a.y is missing, expected 2",
                "a.z is 3, expected none",
                "c: no sample: gone",
                "d: gave a sample, expected the failure \"denied\"",
            ]
        );
        assert_eq!(wanted.differences(&wanted), [""; 0]);
    }

    #[test]
    fn a_different_value_in_stats_is_reported_with_its_section() {
        let of = |stats: &str| tick(&format!(r#"{{"at":"2026-01-02T03:04:00Z","stats":{stats}}}"#));
        let lines = of(r#"{"channels":{"total_active":3}}"#).differences(&of(r#"{"channels":{"total_active":4}}"#));
        assert_eq!(lines, ["stats.channels.total_active is 4, expected 3"]);
    }
}
