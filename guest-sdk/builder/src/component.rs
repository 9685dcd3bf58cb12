use anyhow::{Context, Result, bail};
use wit_component::ComponentEncoder;

const MAGIC: &[u8; 4] = b"\0asm";
/// The four bytes after the magic: version 1, layer 0 (a core module).
const CORE_MODULE: &[u8; 4] = &[1, 0, 0, 0];

/// Makes a component from the compiler's output: a core module that contains its WIT world, or a component already.
pub fn componentize(wasm: &[u8]) -> Result<Vec<u8>> {
    let Some((magic, rest)) = wasm.split_first_chunk::<4>() else { bail!("the compiler's output is empty") };
    if magic != MAGIC {
        bail!("the compiler's output is not WebAssembly");
    }
    if rest.first_chunk::<4>() != Some(CORE_MODULE) {
        return Ok(wasm.to_vec());
    }
    ComponentEncoder::default()
        .module(wasm)
        .context("the module does not carry a plugin's world; is `export_sampler!` missing?")?
        .validate(true)
        .encode()
        .context("the module does not fit the plugin's world; is `export_sampler!` missing?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_wasm_is_refused() {
        assert!(componentize(b"").is_err());
        assert!(componentize(b"ELF and more").is_err());
    }

    #[test]
    fn a_component_is_left_as_it_is() {
        let component = b"\0asm\x0d\0\x01\0";
        assert_eq!(componentize(component).unwrap(), component);
    }
}
