use crate::cache::{Cache, CacheFolder};
use crate::compiler::{Compiler, Outcome};
use crate::instance::Guest;
use crate::plugin::{Plugin, Shared};
use crate::queue::{Queue, Turn};
use crate::refusal::Refused;
use crate::ticker::Ticker;
use crate::{Limits, contract, weight};
use bytes::Bytes;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, WasmBacktraceDetails};

/// Bytes that a memory may grow by where it is, beyond what was reserved.
const GROWTH: usize = 1 << 20;

/// Bytes before and behind a memory that nothing is at.
const GUARD: usize = 64 << 10;

/// Bytes of address space around a memory.
pub(crate) const AROUND_MEMORY: usize = GROWTH + 2 * GUARD;

/// Bytes of the stack that a guest's code runs on: the runtime's own default.
pub(crate) const GUEST_STACK: usize = 2 << 20;

/// The compiler and runtime all plugins share, and what is linked into each.
pub struct Sandbox {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Guest>,
    pub(crate) ticker: Ticker,
    pub(crate) shared: Shared,
    /// None: components are compiled in this process.
    apart: Option<Apart>,
    queue: Queue,
}

/// How components are compiled in processes of their own.
struct Apart {
    compiler: Compiler,
    cache: Cache,
}

/// A request to compile: its owner and its limits.
#[derive(Debug)]
pub struct Compile<'a> {
    /// The plugin's name: an owner has one compile under way at a time.
    pub owner: Arc<str>,
    /// Longest time it may take, once it has begun.
    pub limit: Duration,
    /// Whether it waits for its turn.
    pub waits: &'a watch::Sender<bool>,
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
        Ok(Self { engine, linker, ticker, shared: Shared::default(), apart: None, queue: Queue::default() })
    }

    /// Compiles in a child process, `program argument`, whose main function is
    /// [`compile_as_child`](crate::compile_as_child), and keeps what it compiled in a folder, if one is given, made for
    /// this user alone. What other versions, settings or processors left there is not used.
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

    /// Compiles a component, or takes it from the cache, and looks it over.
    ///
    /// Takes from milliseconds to many seconds: call it off the server's threads. Nobody waits for a turn here: where
    /// there are many plugins, [`load_in_turn`](Self::load_in_turn) is for them.
    pub fn load(&self, component: &[u8]) -> Result<Plugin, Refused> {
        /// Longer than any component takes on a busy machine: whoever waits for it can give up.
        const LONGEST: Duration = Duration::from_secs(600);
        let turn = Queue::default().enter("".into(), false).0;
        let loaded = self.look_over(component, Some((&turn, LONGEST)))?;
        loaded.ok_or_else(|| Refused::Compiler("others took its place".to_owned()))
    }

    /// Does the same off the caller's thread, once it is its owner's turn to compile. Dropping the future gives up its
    /// turn, and ends the compile if that has begun.
    pub async fn load_in_turn(self: &Arc<Self>, component: Bytes, compile: Compile<'_>) -> Result<Plugin, Refused> {
        let Compile { owner, limit, waits } = compile;
        let work = |turn: Option<Turn>| {
            let (sandbox, component) = (self.clone(), component.clone());
            // Without this future it would go on, and nobody would have it.
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
        // What is known needs no turn.
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

    /// Looks a component over, once it is compiled; none if that takes a turn, or the turn was not enough.
    fn look_over(&self, component: &[u8], turn: Option<(&Turn, Duration)>) -> Result<Option<Plugin>, Refused> {
        Plugin::load(self, component, |digest| {
            let Some((turn, limit)) = turn else {
                return self
                    .apart
                    .as_ref()
                    .map_or(Ok(None), |apart| apart.cache.compiled(&self.engine, digest, || Ok(None)));
            };
            let Some(Apart { compiler, cache }) = &self.apart else {
                weight::check(component).map_err(Refused::Invalid)?;
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
        // Function names come with the name section; DWARF from strangers is not worth parsing.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        // Backtraces name functions, which needs no map of every instruction.
        .generate_address_map(false)
        // By default each memory reserves 4 GiB of address space, so that a few plugins exhaust a limited process.
        .memory_reservation(Limits::default().memory as u64)
        .memory_reservation_for_growth(GROWTH as u64)
        .memory_guard_size(GUARD as u64)
        .async_stack_size(GUEST_STACK);
    config
}
