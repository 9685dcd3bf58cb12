//! Runs the files of a folder with Prometheus' PromQL tests: `cargo run --example promqltest -- FOLDER [FILE]`.
//!
//! Cases that need native histograms, `info()`, `anchored`, `smoothed`, start timestamps, or labels for types and units
//! are out of scope. A file `needs.tsv` in the folder tells which cases need native histograms.

#![allow(clippy::print_stdout, reason = "it reports to its user")]

#[path = "../tests/promqltest/run.rs"]
mod run;
#[path = "../tests/promqltest/script.rs"]
mod script;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

/// Files that test what the engine does not have.
const OUT_OF_SCOPE: [(&str, &str); 5] = [
    ("native_histograms", "native histograms"),
    ("extended_vectors", "anchored and smoothed selectors"),
    ("type_and_unit", "labels for types and units"),
    ("info", "joining with info metrics"),
    ("start_timestamps", "start timestamps"),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(folder) = arguments.next() else {
        println!("usage: promqltest FOLDER [FILE]");
        return ExitCode::FAILURE;
    };
    match run_folder(Path::new(&folder), arguments.next().as_deref()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run_folder(folder: &Path, only: Option<&str>) -> Result<bool, String> {
    let read = |path: &Path| std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()));
    let needs = read(&folder.join("needs.tsv")).unwrap_or_default();
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "test"));
    paths.sort();
    let (mut passed, mut failed, mut out_of_scope) = (0, 0, 0);
    for path in paths {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let text = read(&path)?;
        if let Some((_, why)) = OUT_OF_SCOPE.iter().find(|(known, _)| *known == name) {
            let cases = text.lines().filter(|line| line.trim_start().starts_with("eval")).count();
            println!("{name}: {cases} out of scope: {why}");
            out_of_scope += cases;
            continue;
        }
        let lines: BTreeSet<usize> = needs
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .filter(|(_, needs)| needs.split(',').any(|need| need == "native"))
            .filter_map(|(place, _)| place.strip_prefix(&format!("{name}.test:"))?.parse().ok())
            .collect();
        let outcome = run::run(&text, &lines).map_err(|why| format!("{}: {why}", path.display()))?;
        for failure in &outcome.failures {
            println!("{name}.test: {failure}");
        }
        println!(
            "{name}: {} passed, {} failed, {} out of scope: native histograms",
            outcome.passed,
            outcome.failures.len(),
            outcome.out_of_scope
        );
        passed += outcome.passed;
        failed += outcome.failures.len();
        out_of_scope += outcome.out_of_scope;
    }
    println!("{passed} passed, {failed} failed, {out_of_scope} out of scope");
    Ok(failed == 0)
}
