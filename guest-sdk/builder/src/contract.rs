//! The files of the plugin contract in wit/, included at build time, with the part of WASI that its HTTP worlds import.

use anyhow::{Context, Result};
use std::path::Path;

const FILES: [(&str, &str); 14] = include_files![
    "../../../wit/":
    "types.wit",
    "plugin.wit",
    "sampler.wit",
    "source.wit",
    "observer.wit",
    "log.wit",
    "files.wit",
    "state.wit",
    "metrics.wit",
    "series.wit",
    "worlds.wit",
    "deps/clocks/clocks.wit",
    "deps/http/http.wit",
    "deps/io/io.wit"
];

/// Returns the contract's files as one text.
pub(crate) fn contract_text() -> String {
    FILES.iter().map(|(name, text)| format!("{name}\n{text}\n")).collect()
}

/// Writes the files of the contract into a folder.
pub(crate) fn write_contract(folder: &Path) -> Result<()> {
    for (name, text) in FILES {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(folder))
            .and_then(|()| std::fs::write(path, text))
            .with_context(|| format!("cannot write to {}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// Returns the paths of all files under a folder, relative to it.
    fn files(folder: &Path, below: &Path) -> Vec<PathBuf> {
        let entries =
            std::fs::read_dir(folder.join(below)).unwrap().map(|entry| below.join(entry.unwrap().file_name()));
        let files = |path: PathBuf| if folder.join(&path).is_dir() { files(folder, &path) } else { vec![path] };
        entries.flat_map(files).collect()
    }

    #[test]
    fn no_file_of_the_contract_is_missing() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        let mut there = files(&folder, Path::new(""));
        let mut known: Vec<_> = FILES.iter().map(|(name, _)| PathBuf::from(name)).collect();
        there.sort();
        known.sort();
        assert_eq!(known, there);
    }
}
