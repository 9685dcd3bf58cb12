//! Any text is read as a rule file or refused, and its rules are evaluated without a panic; so is any template.

#![no_main]

use dropsonde_model::Labels;
use dropsonde_promql::{MemorySource, QueryError, Request, Source, Visit};
use dropsonde_rules::{RuleFile, RuleSettings, RunningGroup, Sample, Storage, Surroundings, Template, Variables};
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeMap;
use std::sync::LazyLock;

struct Memory(MemorySource);

static MEMORY: LazyLock<Memory> = LazyLock::new(|| {
    let mut source = MemorySource::new();
    for (name, value) in [("up", 1.0), ("a", f64::NAN), ("b", f64::INFINITY)] {
        source.push(&Labels::from([("__name__", name), ("job", "j")]), 0, value);
    }
    Memory(source)
});

impl Source for Memory {
    fn select(&self, request: &Request<'_>, visit: &mut Visit<'_>) -> Result<(), QueryError> {
        self.0.select(request, visit)
    }
}

impl Storage for Memory {
    fn write(&self, _: usize, _: i64, _: &[(Labels, f64)]) {}
}

impl Surroundings for Memory {
    fn query(&self, _: &str) -> Result<Vec<Sample>, String> {
        let labels = BTreeMap::from([("job".to_owned(), "j".to_owned())]);
        Ok(vec![Sample { labels, value: 1.0 }])
    }

    fn now_ms(&self) -> i64 {
        0
    }

    fn external_url(&self) -> &str {
        "http://host"
    }
}

fuzz_target!(|text: &str| {
    if let Ok(template) = Template::parse(text) {
        // It may fail, with an error.
        let _ = template.expand(&Variables::default(), &*MEMORY);
    }
    let Ok(file) = RuleFile::parse(text) else { return };
    for group in file.groups {
        let mut running = RunningGroup::new(group);
        for at_ms in [0, 60_000] {
            running.evaluate(at_ms, &*MEMORY, &RuleSettings::default());
        }
    }
});
