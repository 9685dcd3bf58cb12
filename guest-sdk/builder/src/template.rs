//! New plugins: a project that builds and a recorded test case, in each supported language.

use crate::sdk;
use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// The language of a new plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    Rust,
    Python,
    JavaScript,
    C,
    Go,
}

/// The role of a new plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Sampler,
    Source,
}

/// A file's path in the project, and its content.
type File = (&'static str, &'static str);

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("../../templates/", $path))
    };
}

const SAMPLER_CASE: &[File] = &[
    ("tests/busy/case.json", template!("cases/sampler/case.json")),
    ("tests/busy/tick-1/proc/loadavg", template!("cases/sampler/tick-1/proc/loadavg")),
    ("tests/busy/tick-2/proc/loadavg", template!("cases/sampler/tick-2/proc/loadavg")),
];

const SOURCE_CASE: &[File] = &[("tests/open/case.json", template!("cases/source/case.json"))];

impl Language {
    fn files(self, kind: Kind) -> Vec<File> {
        let is_sampler = kind == Kind::Sampler;
        match self {
            Self::Rust => vec![
                ("Cargo.toml", template!("rust/Cargo.toml.in")),
                (".gitignore", template!("rust/gitignore")),
                ("src/lib.rs", if is_sampler { template!("rust/sampler.rs") } else { template!("rust/source.rs") }),
            ],
            Self::Python => vec![
                ("pyproject.toml", template!("python/pyproject.toml")),
                ("requirements.txt", template!("python/requirements.txt")),
                (".gitignore", template!("python/gitignore")),
                ("plugin.py", if is_sampler { template!("python/sampler.py") } else { template!("python/source.py") }),
            ],
            Self::JavaScript => vec![
                ("package.json", template!("js/package.json")),
                (".gitignore", template!("js/gitignore")),
                ("plugin.js", if is_sampler { template!("js/sampler.js") } else { template!("js/source.js") }),
            ],
            Self::C => vec![
                ("plugin.toml", template!("c/plugin.toml")),
                ("requirements.txt", template!("c/requirements.txt")),
                (".gitignore", template!("c/gitignore")),
                ("plugin.c", if is_sampler { template!("c/sampler.c") } else { template!("c/source.c") }),
            ],
            Self::Go => vec![
                ("plugin.toml", template!("go/plugin.toml")),
                ("go.mod", template!("go/go.mod")),
                (".gitignore", template!("go/gitignore")),
                ("plugin.go", if is_sampler { template!("go/sampler.go") } else { template!("go/source.go") }),
            ],
        }
    }
}

/// The folder of the SDK in a plugin that has its own.
const OWN_SDK: &str = "dropsonde/guest-sdk";

/// Writes a new plugin into a folder that does not exist yet. `sdk_at` is the folder of the Rust SDK; without it, a plugin
/// in Rust gets its own.
pub fn create(folder: &Path, name: &str, language: Language, kind: Kind, sdk_at: Option<&Path>) -> Result<()> {
    check_name(name, language)?;
    if folder.exists() {
        bail!("{} is there already; choose a folder that does not exist", folder.display());
    }
    let (world, about, case) = match kind {
        Kind::Sampler => ("sampler-plugin", "The load average", SAMPLER_CASE),
        Kind::Source => ("source-plugin", "The number of open channels", SOURCE_CASE),
    };
    let path = match sdk_at {
        Some(sdk) => sdk
            .canonicalize()
            .ok()
            .filter(|sdk| sdk.join("Cargo.toml").is_file())
            .and_then(|sdk| sdk.to_str().map(str::to_owned))
            .with_context(|| format!("--sdk {}: the Rust SDK is not there", sdk.display()))?,
        None => OWN_SDK.to_owned(),
    };
    let fill = |text: &str| {
        let text = text.replace("{{name}}", name).replace("{{about}}", about);
        text.replace("{{world}}", world).replace("{{sdk}}", &path)
    };
    for (path, text) in language.files(kind).iter().chain(case) {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap_or(folder))
            .and_then(|()| fs::write(&path, fill(text)))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    #[cfg(feature = "bindings")]
    if matches!(language, Language::C | Language::Go) {
        // For editors; each build writes it anew.
        crate::Compiled::at(folder)?.context("the template names its language")?.write_bindings()?;
    }
    if language == Language::Rust {
        sdk::write_lock(folder)?;
        if sdk_at.is_none() {
            sdk::write(&folder.join(OWN_SDK))?;
        }
    }
    Ok(())
}

/// Checks a plugin's name, which becomes a file name, a TOML key, a metric label and, in Rust, a crate name.
fn check_name(name: &str, language: Language) -> Result<()> {
    const NO_CRATES: [&str; 12] =
        ["test", "core", "std", "alloc", "proc_macro", "crate", "self", "super", "fn", "type", "mod", "use"];
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if !begins || !name.bytes().all(plain) || name.len() > 64 {
        bail!(
            "{name:?} is not a valid plugin name: a lower-case letter, then lower-case letters, digits, `-` and `_`, \
             at most 64 in all"
        );
    }
    if language == Language::Rust && NO_CRATES.contains(&name) {
        bail!("{name:?} cannot be the name of a Rust crate; choose another name");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_template_is_left_to_be_filled_in() {
        for language in [Language::Rust, Language::Python, Language::JavaScript, Language::C, Language::Go] {
            for kind in [Kind::Sampler, Kind::Source] {
                for (path, _) in language.files(kind) {
                    let folder = tempfile::tempdir().unwrap();
                    let plugin = folder.path().join("plugin");
                    create(&plugin, "my-plugin", language, kind, None).unwrap();
                    let text = fs::read_to_string(plugin.join(path)).unwrap();
                    for left in ["{{name}}", "{{about}}", "{{world}}", "{{sdk}}"] {
                        assert!(!text.contains(left), "{language:?} {path}: {text}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let made = create(folder.path(), "load", Language::Python, Kind::Sampler, None);
        assert!(made.unwrap_err().to_string().contains("is there already"));
    }

    #[test]
    fn names_that_could_not_be_files_or_crates_are_refused() {
        for bad in ["", "Load", "1st", "a/b", "a.b", "-x", "ä", &"x".repeat(65)] {
            assert!(check_name(bad, Language::Python).is_err(), "{bad}");
        }
        assert!(check_name("test", Language::Rust).is_err());
        assert!(check_name("load-2", Language::Rust).is_ok());
    }
}
