use crate::compile_cache::{Cache, CacheFolder};
use crate::compile_queue::{Queue, Turn};
use crate::compiler::{Compiler, Outcome};
use crate::instance::Guest;
use crate::plugin::{LoadedComponents, Plugin};
use crate::refusal::Refused;
use crate::ticker::Ticker;
use crate::{Limits, contract, instance_memory};
use bytes::Bytes;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, WasmBacktraceDetails};

/// Bytes of address space beyond a memory's reservation, into which it can grow without being moved.
const GROWTH: usize = 1 << 20;

/// Bytes of unmapped address space before and behind each memory.
const GUARD: usize = 64 << 10;

/// Bytes of address space that each memory takes besides its reservation.
pub(crate) const AROUND_MEMORY: usize = GROWTH + 2 * GUARD;

/// Bytes of the stack that a guest's code runs on: wasmtime's own default.
pub(crate) const GUEST_STACK: usize = 2 << 20;

/// The compiler and runtime that all plugins share, with the host functions that are linked into each plugin.
pub struct Sandbox {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Guest>,
    pub(crate) ticker: Ticker,
    pub(crate) shared: LoadedComponents,
    /// None: this process compiles the components itself.
    apart: Option<Apart>,
    queue: Queue,
}

/// The compiler that runs in child processes, and the cache of compiled components.
struct Apart {
    compiler: Compiler,
    cache: Cache,
}

/// A request to compile a component.
#[derive(Debug)]
pub struct Compile<'a> {
    /// The name of the plugin. An owner has at most one compile under way.
    pub owner: Arc<str>,
    /// Longest time that the compile may take, from its start.
    pub limit: Duration,
    /// Receives whether the request is waiting for its turn.
    pub waits: &'a watch::Sender<bool>,
}

/// The sandbox cannot be set up on this machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the sandbox: {0}")]
pub struct SandboxError(String);

impl Sandbox {
    /// Returns a sandbox that compiles every plugin in this process, without a cache.
    pub fn new() -> Result<Self, SandboxError> {
        let failed = |error: &dyn std::fmt::Display| SandboxError(format!("{error:#}"));
        let engine = Engine::new(&configuration()).map_err(|e| failed(&e))?;
        let ticker = Ticker::start(engine.weak()).map_err(|e| failed(&e))?;
        let mut linker = Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).map_err(|e| failed(&e))?;
        crate::capability::http::handler::add_to_linker(&mut linker).map_err(|e| failed(&e))?;
        contract::link(&mut linker).map_err(|e| failed(&e))?;
        Ok(Self { engine, linker, ticker, shared: LoadedComponents::default(), apart: None, queue: Queue::default() })
    }

    /// Makes the sandbox compile in child processes, `program argument`, whose main function is
    /// [`compile_as_child`](crate::compile_as_child). With a folder, it caches what it compiled; the folder is made
    /// private to this user. Entries from other versions, settings or processors are not used.
    pub fn with_compiler(
        mut self,
        program: impl Into<OsString>,
        argument: impl Into<OsString>,
        folder: Option<CacheFolder>,
    ) -> Self {
        let compiler = Compiler { program: program.into(), argument: argument.into() };
        let cache = Cache::open(folder, &self.engine);
        self.apart = Some(Apart { compiler, cache });
        self
    }

    /// Removes from the cache what other versions compiled. Call it once no process of another version uses the folder.
    pub fn remove_other_versions(&self) {
        if let Some(Apart { cache, .. }) = &self.apart {
            cache.remove_other_versions();
        }
    }

    /// Compiles a component, or takes it from the cache, and checks it.
    ///
    /// This takes from milliseconds to many seconds: call it off the server's threads. It does not wait for a turn;
    /// where there are many plugins, use [`load_in_turn`](Self::load_in_turn).
    pub fn load(&self, component: &[u8]) -> Result<Plugin, Refused> {
        /// Longer than any component takes on a busy machine. The caller can give up earlier.
        const LONGEST: Duration = Duration::from_secs(600);
        let turn = Queue::default().enter("".into(), false).0;
        let loaded = self.look_over(component, Some((&turn, LONGEST)))?;
        loaded.ok_or_else(|| Refused::Compiler("others took its place".to_owned()))
    }

    /// Compiles and checks a component off the caller's thread, once its owner has a turn to compile. Dropping the
    /// future gives up the turn and ends a running compile.
    pub async fn load_in_turn(self: &Arc<Self>, component: Bytes, compile: Compile<'_>) -> Result<Plugin, Refused> {
        let Compile { owner, limit, waits } = compile;
        let work = |turn: Option<Turn>| {
            let (sandbox, component) = (self.clone(), component.clone());
            // If the future is dropped, the compile must not go on: nobody would receive its result.
            let given_up = turn.as_ref().map(Turn::give_up);
            let done = spawn_blocking(move || {
                let turn = turn.as_ref();
                sandbox.look_over(&component, turn.map(|turn| (turn, limit)))
            });
            async move {
                let done = done.await.map_err(|error| Refused::Compiler(error.to_string()))?;
                drop(given_up);
                done
            }
        };
        let mut is_slow = false;
        // A component that is loaded or cached needs no turn.
        let mut loaded = work(None).await?;
        loop {
            if let Some(plugin) = loaded {
                return Ok(plugin);
            }
            waits.send_replace(true);
            let turn = self.queue.turn(&owner, is_slow).await;
            waits.send_replace(false);
            loaded = work(Some(turn)).await?;
            is_slow = true;
        }
    }

    /// Checks a component after it is compiled. Returns none if compiling needs a turn, or if the turn was not long
    /// enough.
    fn look_over(&self, component: &[u8], turn: Option<(&Turn, Duration)>) -> Result<Option<Plugin>, Refused> {
        Plugin::load(self, component, |digest| {
            let Some((turn, limit)) = turn else {
                return self
                    .apart
                    .as_ref()
                    .map_or(Ok(None), |apart| apart.cache.compiled(&self.engine, digest, || Ok(None)));
            };
            let Some(Apart { compiler, cache }) = &self.apart else {
                instance_memory::check(component).map_err(Refused::Invalid)?;
                let compiled = Component::new(&self.engine, component);
                return compiled.map(Some).map_err(|error| Refused::Invalid(format!("{error:#}")));
            };
            cache.compiled(&self.engine, digest, || match compiler.compile(component, limit, turn)? {
                Outcome::Compiled(compiled) => Ok(Some(compiled)),
                Outcome::Displaced => Ok(None),
            })
        })
    }
}

pub(crate) fn configuration() -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        .gc_support(false)
        // Function names come from the name section. DWARF from unknown authors is not worth the risk of parsing it.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // Backtraces only name functions, which needs no map of every instruction.
        .generate_address_map(false)
        // By default each memory reserves 4 GiB of address space. A few plugins would exhaust a process with an address
        // space limit.
        .memory_reservation(Limits::default().memory as u64)
        .memory_reservation_for_growth(GROWTH as u64)
        .memory_guard_size(GUARD as u64)
        .async_stack_size(GUEST_STACK);
    config
}
