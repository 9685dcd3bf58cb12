use dropsonde_builder::{Crate, Network, Toolchain};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Returns the workspace's folder.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Returns another version of `verbs`, from 2 to 99999. The documentation of `verbs` says how some versions differ.
pub(crate) fn verbs_version(number: u32) -> Vec<u8> {
    super::components::replace_text(verbs(), "version-00001", &format!("version-{number:05}"))
}

/// Returns the component of `tests/guests/verbs`, built once per test run.
pub(crate) fn verbs() -> &'static [u8] {
    static VERBS: OnceLock<Vec<u8>> = OnceLock::new();
    VERBS.get_or_init(|| build_guest("verbs"))
}

/// Returns the component of `tests/guests/app`, built once per test run.
pub(crate) fn app() -> &'static [u8] {
    static APP: OnceLock<Vec<u8>> = OnceLock::new();
    APP.get_or_init(|| build_guest("app"))
}

fn build_guest(name: &str) -> Vec<u8> {
    let guest = Crate::at(&workspace().join("tests/guests").join(name)).unwrap();
    let toolchain = Toolchain::find(guest.target_dir()).expect("`cargo dev setup` sets up a compiler for wasm");
    guest.build(&toolchain, Network::Forbidden).unwrap()
}
