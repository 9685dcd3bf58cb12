//! Sets up what builds and tests need. All downloads stay in one folder, and a second run is quick.

mod debian;
mod test_tools;
mod wasm;

pub use test_tools::test_tools;
pub use wasm::wasm_toolchain;
