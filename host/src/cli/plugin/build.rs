use super::{BuildArgs, NewArgs, PluginKindArg, PluginLanguageArg};
use crate::cli::out::{Out, aside};
use crate::cli::user_cache;
use anyhow::{Context, Result};
use dropsonde_builder::{self as builder, Project, create};
use dropsonde_sandbox::replace::{SHARED, replace_file};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(super) fn new(args: &NewArgs, out: &mut Out) -> Result<()> {
    let language = match args.lang {
        PluginLanguageArg::Rust => builder::Language::Rust,
        PluginLanguageArg::Python => builder::Language::Python,
        PluginLanguageArg::Js => builder::Language::JavaScript,
        PluginLanguageArg::C => builder::Language::C,
        PluginLanguageArg::Go => builder::Language::Go,
    };
    let kind = match args.kind {
        PluginKindArg::Sampler => builder::Kind::Sampler,
        PluginKindArg::Source => builder::Kind::Source,
    };
    let folder = args.at.join(&args.name);
    create(&folder, &args.name, language, kind, args.sdk.as_deref())?;
    let name = &args.name;
    say!(out, "{}  a {} plugin", folder.display(), language_name(args.lang));
    say!(out, "next: cd {}", folder.display());
    match args.lang {
        PluginLanguageArg::Rust | PluginLanguageArg::C | PluginLanguageArg::Go => {}
        PluginLanguageArg::Python => {
            say!(out, "      python3 -m venv .venv && .venv/bin/pip install -r requirements.txt");
        }
        PluginLanguageArg::Js => say!(out, "      npm install"),
    }
    say!(out, "      dropsonde plugin test               # builds the plugin and replays the cases in tests/");
    say!(out, "      dropsonde plugin check {name}.wasm   # prints the lines that grant what it needs");
    Ok(())
}

fn language_name(language: PluginLanguageArg) -> &'static str {
    match language {
        PluginLanguageArg::Rust => "Rust",
        PluginLanguageArg::Python => "Python",
        PluginLanguageArg::Js => "JavaScript",
        PluginLanguageArg::C => "C",
        PluginLanguageArg::Go => "Go",
    }
}

pub(super) fn build(args: &BuildArgs, out: &mut Out) -> Result<()> {
    let built = BuiltComponent::of(&args.folder, args.out.clone())?;
    let file = built.file.display();
    say!(out, "{file}  {} bytes, built in {:.1} s", built.size, built.seconds);
    say!(out, "next: dropsonde plugin check {file}");
    Ok(())
}

/// A component that was built and written to a file.
pub(super) struct BuiltComponent {
    pub(super) file: PathBuf,
    size: usize,
    seconds: f64,
}

impl BuiltComponent {
    pub(super) fn of(folder: &Path, out: Option<PathBuf>) -> Result<Self> {
        let project = Project::at(folder)?;
        let started = Instant::now();
        aside(format_args!("building {}", project.name()));
        let cache = user_cache();
        let component = project.build(&toolchains(), cache.as_deref())?;
        let file = out.unwrap_or_else(|| folder.join(format!("{}.wasm", project.name())));
        // Replace the file at once: a running host may read it at any time.
        replace_file(&file, &component, SHARED).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self { file, size: component.len(), seconds: started.elapsed().as_secs_f64() })
    }
}

/// Returns the folders that can have a wasm toolchain: cargo's target directory, if it has this binary in it. `cargo dev`
/// puts one there.
fn toolchains() -> Vec<PathBuf> {
    let own = std::env::current_exe().ok();
    own.iter().flat_map(|own| own.ancestors().skip(2).take(2)).map(Path::to_owned).collect()
}
