//! The files of the plugin contract in wit/, included at build time.

use anyhow::{Context, Result};
use std::path::Path;

macro_rules! wit {
    ($($name:literal),*) => {
        [$(($name, include_str!(concat!("../../../wit/", $name)))),*]
    };
}

const FILES: [(&str, &str); 10] = wit![
    "types.wit",
    "plugin.wit",
    "sampler.wit",
    "source.wit",
    "observer.wit",
    "log.wit",
    "files.wit",
    "state.wit",
    "metrics.wit",
    "worlds.wit"
];

/// Writes the files of the contract into a folder.
pub(crate) fn write_contract(folder: &Path) -> Result<()> {
    for (name, text) in FILES {
        std::fs::write(folder.join(name), text).with_context(|| format!("cannot write to {}", folder.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_of_the_contract_is_missing() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        let mut there: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name()).collect();
        let mut known: Vec<_> = FILES.iter().map(|(name, _)| std::ffi::OsString::from(name)).collect();
        there.sort();
        known.sort();
        assert_eq!(known, there);
    }
}
