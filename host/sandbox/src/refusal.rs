use crate::contract::{PACKAGE, SPOKEN};

/// Why a file is refused as a plugin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it is empty")]
    Empty,
    #[error("it is not WebAssembly")]
    NotWasm,
    #[error("it is a core module, not a component; `dropsonde plugin build` or `wasm-tools component new` makes one")]
    CoreModule,
    /// The file is truncated or damaged, or it uses a feature that this host has disabled.
    #[error("it is not a valid component: {0}")]
    Invalid(String),
    /// The compiler itself failed, or exceeded its limits.
    #[error("it was not compiled: {0}")]
    Compiler(String),
    #[error("it does not export {PACKAGE}plugin; it exports {}", list(.0))]
    NoPlugin(Vec<String>),
    #[error("it speaks version {found} of the plugin contract; this host speaks {}", SPOKEN.join(", "))]
    Version { found: String },
    #[error("it exports {PACKAGE}plugin, but neither sampler nor source nor observer, so it can do nothing here")]
    NoRole,
    #[error("it imports something that this host does not offer, or offers with another type: {0}")]
    Import(String),
    #[error("an export does not have the type that the contract defines: {0}")]
    Export(String),
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// Checks the first bytes, before anything parses the rest.
pub(crate) fn check_preamble(bytes: &[u8]) -> Result<(), Refused> {
    const MAGIC: &[u8] = b"\0asm";
    const CORE: &[u8] = b"\0asm\x01\0\0\0";
    if bytes.is_empty() {
        Err(Refused::Empty)
    } else if bytes.starts_with(CORE) {
        Err(Refused::CoreModule)
    } else if !bytes.starts_with(MAGIC) {
        Err(Refused::NotWasm)
    } else {
        Ok(())
    }
}

/// Refuses a component that uses another version of the contract, judging by the names of its exports.
pub(crate) fn check_version<'a>(exports: impl IntoIterator<Item = &'a str>) -> Result<(), Refused> {
    for version in exports.into_iter().filter_map(|name| name.strip_prefix(PACKAGE)?.split_once('@')).map(|(_, v)| v) {
        let spoken = SPOKEN.iter().any(|spoken| {
            version.strip_prefix(spoken).is_some_and(|rest| rest.starts_with('.') && !rest.contains(['-', '+']))
        });
        if !spoken {
            return Err(Refused::Version { found: version.to_owned() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_a_file_is() {
        assert_eq!(check_preamble(b""), Err(Refused::Empty));
        assert_eq!(check_preamble(b"\x7fELF"), Err(Refused::NotWasm));
        assert_eq!(check_preamble(b"\0as"), Err(Refused::NotWasm));
        assert_eq!(check_preamble(b"\0asm\x01\0\0\0rest"), Err(Refused::CoreModule));
        assert_eq!(check_preamble(b"\0asm\x0d\0\x01\0"), Ok(()));
    }

    #[test]
    fn patches_of_a_spoken_version_are_fine_and_others_are_named() {
        assert_eq!(check_version(["dropsonde:plugin/plugin@0.1.7", "wasi:cli/run@0.2.0"]), Ok(()));
        for newer in ["0.2.0", "1.0.0", "0.10.0", "0.1.0-rc"] {
            let found = check_version([format!("dropsonde:plugin/plugin@{newer}").as_str()]);
            assert_eq!(found, Err(Refused::Version { found: newer.to_owned() }));
        }
    }
}
