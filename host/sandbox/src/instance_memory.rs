//! Estimates the memory of an instance besides its memories and tables. No limiter covers this memory: for each time a
//! module is instantiated, wasmtime keeps a record of each global and each function.

use crate::limits::INSTANCES;
use wasmparser::{Instance, Parser, Payload};

/// Limit of these records in bytes. An interpreter with all its modules takes some megabytes.
const MOST: u64 = 64 << 20;

/// Bytes that wasmtime keeps for each global and each function.
const GLOBAL: u64 = 16;
const FUNCTION: u64 = 32;

/// Refuses a component whose instance would take more.
pub(crate) fn check(component: &[u8]) -> Result<(), String> {
    let mut heaviest = 0;
    let mut module = 0;
    let mut instances = 0;
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(|error| error.to_string())? {
            Payload::ModuleSection { .. } => module = 0,
            Payload::ImportSection(imports) => module += u64::from(imports.count()) * FUNCTION,
            Payload::FunctionSection(functions) => module += u64::from(functions.count()) * FUNCTION,
            Payload::GlobalSection(globals) => module += u64::from(globals.count()) * GLOBAL,
            Payload::InstanceSection(section) => {
                let made = section.into_iter().filter(|one| matches!(one, Ok(Instance::Instantiate { .. })));
                instances += made.count() as u64;
            }
            // A nested component instantiates its modules each time it is instantiated itself, so assume the maximum.
            Payload::ComponentInstanceSection(_) => instances = instances.max(INSTANCES as u64),
            _ => {}
        }
        heaviest = heaviest.max(module);
    }
    let takes = heaviest.saturating_mul(instances.min(INSTANCES as u64));
    if takes > MOST {
        return Err(format!("an instance of it takes {takes} bytes besides its memories; at most {MOST} are allowed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(globals: usize, instances: usize) -> Vec<u8> {
        let globals = "(global i32 (i32.const 0))".repeat(globals);
        let instances = "(core instance (instantiate $m))".repeat(instances);
        wat::parse_str(format!("(component (core module $m {globals}) {instances})")).unwrap()
    }

    #[test]
    fn what_is_instantiated_again_and_again_counts_each_time() {
        assert_eq!(check(&component(100_000, 4)), Ok(()));
        assert!(check(&component(100_000, 60)).unwrap_err().contains("bytes besides its memories"));
        assert_eq!(check(&component(100, 60)), Ok(()));
    }
}
