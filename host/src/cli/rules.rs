//! `dropsonde rules`: checks and tests rule files, without a host.

use super::out::{Out, aside};
use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use dropsonde_rules::{RuleFile, TestFile};
use std::path::{Path, PathBuf};

#[derive(Debug, Subcommand)]
pub(super) enum RulesCommand {
    /// Read rule files, and report mistakes in them, in their expressions and in their templates
    ///
    /// Example: dropsonde rules check rules/*.yml
    Check(RuleFilesArgs),
    /// Run unit tests of rules, in the format of `promtool test rules`
    ///
    /// Example: dropsonde rules test alerts_test.yml
    Test(RuleFilesArgs),
}

#[derive(Debug, Args)]
pub(super) struct RuleFilesArgs {
    /// Files in YAML
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn rules(command: &RulesCommand, out: &mut Out) -> Result<()> {
    match command {
        RulesCommand::Check(RuleFilesArgs { files }) => check(files, out),
        RulesCommand::Test(RuleFilesArgs { files }) => test(files, out),
    }
}

fn check(files: &[PathBuf], out: &mut Out) -> Result<()> {
    let mut wrong = 0;
    for file in files {
        match text_of(file).map(|text| RuleFile::parse_all(&text)) {
            Ok((rules, mistakes)) if mistakes.is_empty() => {
                let (groups, count) = (rules.groups.len(), rules.groups.iter().map(|group| group.rules.len()).sum());
                say!(out, "{}: {}, {}", file.display(), counted(groups, "group"), counted(count, "rule"));
            }
            Ok((_, mistakes)) => {
                wrong += 1;
                mistakes.iter().for_each(|mistake| aside(format_args!("{}:{mistake}", file.display())));
            }
            Err(error) => {
                wrong += 1;
                aside(format_args!("{error:#}"));
            }
        }
    }
    if wrong > 0 { bail!("{} with a mistake", counted(wrong, "file")) } else { Ok(()) }
}

fn test(files: &[PathBuf], out: &mut Out) -> Result<()> {
    let mut wrong = 0;
    for file in files {
        match run_tests(file) {
            Ok(failures) if failures.is_empty() => say!(out, "{}: ok", file.display()),
            Ok(failures) => {
                wrong += 1;
                say!(out, "{}: FAILED", file.display());
                for failure in failures {
                    say!(out, "  {failure}");
                }
            }
            Err(error) => {
                wrong += 1;
                aside(format_args!("{error:#}"));
            }
        }
    }
    if wrong > 0 { bail!("{} failed", counted(wrong, "file")) } else { Ok(()) }
}

/// Runs the tests of a file. Returns what is not as expected.
fn run_tests(file: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let tests = TestFile::parse(&text).map_err(|why| anyhow::anyhow!("{}:{why}", file.display()))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut rules = Vec::new();
    for pattern in &tests.rule_files {
        let pattern = folder.join(pattern);
        let found =
            glob::glob(&pattern.to_string_lossy()).with_context(|| format!("rule_files {}", pattern.display()))?;
        let found = found.collect::<Result<Vec<_>, _>>()?;
        if found.is_empty() {
            bail!("{}: no rule file is {}", file.display(), pattern.display());
        }
        for path in found {
            rules.push(read(&path)?);
        }
    }
    tests.run(&rules).map_err(|why| anyhow::anyhow!("{}: {why}", file.display()))
}

fn read(file: &Path) -> Result<RuleFile> {
    RuleFile::parse(&text_of(file)?).map_err(|mistake| anyhow::anyhow!("{}:{mistake}", file.display()))
}

fn text_of(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn counted(count: usize, what: &str) -> String {
    let end = if count == 1 { "" } else { "s" };
    format!("{count} {what}{end}")
}
