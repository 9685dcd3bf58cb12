use crate::cache::{Cache, CacheFolder};
use crate::compiler::Compiler;
use crate::instance::Guest;
use crate::plugin::{Plugin, Shared};
use crate::refusal::Refused;
use crate::ticker::Ticker;
use crate::{Limits, contract};
use std::ffi::OsString;
use wasmtime::component::Linker;
use wasmtime::{Config, Engine, WasmBacktraceDetails};

/// The compiler and runtime all plugins share, and what is linked into each.
pub struct Sandbox {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Guest>,
    pub(crate) ticker: Ticker,
    pub(crate) shared: Shared,
    cache: Option<Cache>,
}

/// The sandbox could not be set up on this machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the sandbox: {0}")]
pub struct SandboxError(String);

impl Sandbox {
    /// Compiles every plugin anew, in this process.
    pub fn new() -> Result<Self, SandboxError> {
        let failed = |error: &dyn std::fmt::Display| SandboxError(format!("{error:#}"));
        let engine = Engine::new(&configuration()).map_err(|e| failed(&e))?;
        let ticker = Ticker::start(engine.weak()).map_err(|e| failed(&e))?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(|e| failed(&e))?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker).map_err(|e| failed(&e))?;
        contract::v0_1::link(&mut linker).map_err(|e| failed(&e))?;
        Ok(Self { engine, linker, ticker, shared: Shared::default(), cache: None })
    }

    /// Compiles in a child process, `program argument`, whose main function is
    /// [`compile_as_child`](crate::compile_as_child), and keeps what it compiled in a folder, if one is given, made for
    /// this user alone. What other versions, settings or processors left there is not used.
    pub fn with_compiler(
        mut self,
        program: impl Into<OsString>,
        argument: impl Into<OsString>,
        folder: Option<CacheFolder>,
    ) -> Result<Self, SandboxError> {
        let compiler = Compiler { program: program.into(), argument: argument.into() };
        let cache = Cache::open(folder, &self.engine, compiler);
        self.cache = Some(cache.map_err(|error| SandboxError(error.to_string()))?);
        Ok(self)
    }

    /// Compiles a component, or takes it from the cache, and looks it over.
    ///
    /// Takes from milliseconds to many seconds: call it off the server's threads.
    pub fn load(&self, component: &[u8]) -> Result<Plugin, Refused> {
        Plugin::load(self, component, self.cache.as_ref())
    }
}

pub(crate) fn configuration() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .gc_support(false)
        // Function names come with the name section; DWARF from strangers is not worth parsing.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // Backtraces name functions, which needs no map of every instruction.
        .generate_address_map(false)
        // By default each memory reserves 4 GiB of address space, so that a few plugins exhaust a limited process.
        .memory_reservation(Limits::default().memory as u64)
        .memory_reservation_for_growth(1 << 20)
        .memory_guard_size(64 << 10);
    config
}
