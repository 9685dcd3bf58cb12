//! What an instance of a component takes beside its memories and tables, which no limiter is asked about: a record of each
//! global and each function, for each time a module is instantiated.

use crate::limits::INSTANCES;
use wasmparser::{Instance, Parser, Payload};

/// Bytes of those records. An interpreter with all its modules has some megabytes.
const MOST: u64 = 64 << 20;

/// As wasmtime keeps them.
const GLOBAL: u64 = 16;
const FUNCTION: u64 = 32;

/// Refuses what would take more.
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
            // What a component inside makes is made each time that is.
            Payload::ComponentInstanceSection(_) => instances = instances.max(INSTANCES as u64),
            _ => {}
        }
        heaviest = heaviest.max(module);
    }
    let takes = heaviest.saturating_mul(instances.min(INSTANCES as u64));
    if takes > MOST {
        return Err(format!("an instance of it takes {takes} bytes beside its memories; at most {MOST} are given"));
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
        assert!(check(&component(100_000, 60)).unwrap_err().contains("bytes beside its memories"));
        assert_eq!(check(&component(100, 60)), Ok(()));
    }
}
