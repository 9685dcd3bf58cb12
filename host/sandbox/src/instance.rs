use crate::budget::Budget;
use crate::capability::denials::Denials;
use crate::capability::files::{EntryKind, FileError, LARGEST_FILE, Page, Space};
use crate::capability::http::{Connections, Http};
use crate::capability::inputs::Inputs;
use crate::capability::log::{Level, Log};
use crate::capability::metrics::{MetricHandles, NotRegistered, PluginMetrics};
use crate::capability::series::{NotDefined, SeriesTable};
use crate::capability::state::SavedState;
use crate::capability::wasi;
use crate::contract::Exports;
use crate::limits::{ARGUMENTS, Ceiling, HTTP_FIELDS};
use crate::meter::Meter;
use crate::{CallError, Failure, Grants, Limits, Plugin, Sandbox};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wasmtime::component::ResourceTable;
use wasmtime::{CallHook, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// The state of one instance, as host functions see it.
pub(crate) struct Guest {
    pub(crate) grants: Arc<Grants>,
    pub(crate) state: SavedState,
    pub(crate) metrics: MetricHandles,
    pub(crate) series: SeriesTable,
    inputs: Inputs,
    log: Arc<Mutex<Log>>,
    wasi: WasiCtx,
    http: Http,
    http_limits: WasiHttpCtx,
    resources: ResourceTable,
    pub(crate) ceiling: Ceiling,
    pub(crate) limits: Limits,
    /// Bytes of files that the plugin may still read in this call.
    file_bytes_left: usize,
    denials: Denials,
}

/// A live instance of a plugin, in its own store. After an error that ends it, it must be dropped and never called
/// again.
pub(crate) struct Live {
    store: Store<Guest>,
    exports: Exports,
    meter: Meter,
    limits: Limits,
    /// Whether a call ended it.
    is_over: bool,
}

/// Everything that an instance is created with.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) plugin: Arc<str>,
    pub(crate) limits: Limits,
    pub(crate) grants: Arc<Grants>,
    pub(crate) state: SavedState,
    pub(crate) metrics: PluginMetrics,
    pub(crate) inputs: Inputs,
    pub(crate) log: Arc<Mutex<Log>>,
    pub(crate) connections: Connections,
}

// === impl Guest ===

impl Guest {
    fn new(with: &Surroundings) -> Self {
        let mut http_limits = WasiHttpCtx::new();
        http_limits.set_field_size_limit(HTTP_FIELDS);
        let denials = Denials::default();
        Self {
            grants: with.grants.clone(),
            state: with.state.clone(),
            metrics: MetricHandles::new(&with.metrics),
            series: SeriesTable::new(with.metrics.most()),
            inputs: with.inputs.clone(),
            log: with.log.clone(),
            wasi: wasi::context(&with.plugin, &with.grants, &with.inputs, &with.log),
            http: Http::new(
                with.grants.clone(),
                with.limits,
                with.inputs.clone(),
                with.connections.clone(),
                denials.clone(),
            ),
            http_limits,
            resources: wasi::table(with.limits.handles),
            ceiling: Ceiling::new(with.limits.memory),
            limits: with.limits,
            file_bytes_left: with.limits.file_bytes,
            denials,
        }
    }

    pub(crate) fn read_file(&mut self, path: &str) -> Result<Vec<u8>, FileError> {
        let read = self.inputs.read(&self.grants.files, path, self.file_bytes_left);
        let read = self.noted(path, read)?;
        self.file_bytes_left = self.file_bytes_left.saturating_sub(read.len());
        Ok(read)
    }

    pub(crate) fn read_file_range(&mut self, path: &str, offset: u64, length: u32) -> Result<Vec<u8>, FileError> {
        let length = (length as usize).min(LARGEST_FILE as usize);
        let read = self.inputs.read_range(&self.grants.files, path, offset, length);
        let read = self.noted(path, read)?;
        if read.len() > self.file_bytes_left {
            return Err(FileError::TooLarge(self.limits.file_bytes as u64));
        }
        self.file_bytes_left -= read.len();
        Ok(read)
    }

    pub(crate) fn file_entries_from(&mut self, path: &str, start: u64, most: u32) -> Result<Page, FileError> {
        let page = self.inputs.entries_from(&self.grants.files, path, start, most as usize);
        self.noted(path, page)
    }

    pub(crate) fn file_entries(&mut self, path: &str) -> Result<Vec<(String, EntryKind)>, FileError> {
        let entries = self.inputs.entries(&self.grants.files, path);
        self.noted(path, entries)
    }

    pub(crate) fn file_space(&mut self, path: &str) -> Result<Space, FileError> {
        let space = self.inputs.space(&self.grants.files, path);
        self.noted(path, space)
    }

    pub(crate) fn file_modified_ms(&mut self, path: &str) -> Result<u64, FileError> {
        let modified_ms = self.inputs.modified_ms(&self.grants.files, path);
        self.noted(path, modified_ms)
    }

    fn noted<T>(&mut self, path: &str, answer: Result<T, FileError>) -> Result<T, FileError> {
        match &answer {
            // If a grant covers the path as written, the denial has another reason: where its symlinks lead.
            Err(FileError::Denied) if !self.grants.files.may_ask(path) => {
                self.denials.deny(path, format!("{path} is not granted; add read = [{path:?}]"));
            }
            _ => self.denials.go_on(),
        }
        answer
    }

    /// Replaces the text of a denial by the host's own text.
    pub(crate) fn told(&self, failure: Failure) -> Failure {
        self.denials.told(failure)
    }

    fn begin_call(&mut self, deadline: Duration) {
        self.http.begin_call(deadline);
        self.file_bytes_left = self.limits.file_bytes;
        self.series.begin_call();
        self.denials.begin_call();
        self.log.lock().unwrap_or_else(PoisonError::into_inner).forget_last_words();
    }

    pub(crate) fn last_words(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).take_last_words()
    }

    /// Remembers why a metric was refused, to explain a plugin that fails because of it.
    pub(crate) fn refused(&self, why: NotRegistered) -> NotRegistered {
        self.remember(&format!("a metric was refused: {why}"));
        why
    }

    /// Remembers why a series was refused, to explain a plugin that fails because of it.
    pub(crate) fn not_defined(&self, why: NotDefined) -> NotDefined {
        self.remember(&format!("a series was refused: {why}"));
        why
    }

    fn remember(&self, what: &str) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).remember(what);
    }

    pub(crate) fn log(&mut self, level: Level, message: &str) {
        self.denials.go_on();
        self.log.lock().unwrap_or_else(PoisonError::into_inner).write(level, message);
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.http, table: &mut self.resources, ctx: &mut self.http_limits }
    }
}

// === impl Live ===

impl Live {
    /// Creates an instance. Start functions run under the `init` deadline, as they could loop.
    pub(crate) async fn start(sandbox: &Sandbox, plugin: &Plugin, with: &Surroundings) -> Result<Self, CallError> {
        let limits = with.limits;
        let mut store = Store::new(&sandbox.engine, Guest::new(with));
        store.limiter(|guest| &mut guest.ceiling);
        // An answer may be large. The arguments of a host function need not be, and the host may keep them.
        store.set_hostcall_fuel(limits.output);
        store.call_hook(move |mut store, hook| {
            match hook {
                CallHook::CallingHost => store.set_hostcall_fuel(ARGUMENTS),
                CallHook::ReturningFromWasm => store.set_hostcall_fuel(limits.output),
                CallHook::CallingWasm | CallHook::ReturningFromHost => {}
            }
            Ok(())
        });
        store.set_max_component_handles(limits.handles);
        let meter = Meter::new();
        let budget = meter.clone();
        store.epoch_deadline_callback(move |_| {
            Ok(if budget.exhausted() { UpdateDeadline::Interrupt } else { UpdateDeadline::Yield(1) })
        });
        store.set_epoch_deadline(1);
        let budget = Budget::of_init(&limits);
        let _running = sandbox.ticker.running();
        let exports = budget
            .spend(&meter, &mut store, async |store| {
                let instance = plugin.loaded().instance.instantiate_async(&mut *store).await?;
                Ok(Ok(plugin.loaded().indices.load(store, &instance)?))
            })
            .await?;
        Ok(Self { store, exports, meter, limits, is_over: false })
    }

    /// Calls with the budget of `init`.
    pub(crate) async fn call_init<T>(
        &mut self,
        sandbox: &Sandbox,
        call: impl AsyncFnOnce(&Exports, &mut Store<Guest>) -> wasmtime::Result<Result<T, CallError>>,
    ) -> Result<T, CallError> {
        self.call_within(sandbox, Budget::of_init(&self.limits), call).await
    }

    /// Calls with the budget of a poll.
    pub(crate) async fn call<T>(
        &mut self,
        sandbox: &Sandbox,
        call: impl AsyncFnOnce(&Exports, &mut Store<Guest>) -> wasmtime::Result<Result<T, CallError>>,
    ) -> Result<T, CallError> {
        self.call_within(sandbox, Budget::of_poll(&self.limits), call).await
    }

    /// Returns the CPU time of the last call.
    pub(crate) fn cpu_used(&self) -> Duration {
        self.meter.used()
    }

    /// Returns whether a call ended the instance, also if the error says something else.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Returns the size of its memories and tables, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.store.data().ceiling.used()
    }

    async fn call_within<T>(
        &mut self,
        sandbox: &Sandbox,
        budget: Budget,
        call: impl AsyncFnOnce(&Exports, &mut Store<Guest>) -> wasmtime::Result<Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let _running = sandbox.ticker.running();
        self.store.set_epoch_deadline(1);
        self.store.data_mut().begin_call(budget.deadline);
        let exports = &self.exports;
        let answer = budget.spend(&self.meter, &mut self.store, async |store| call(exports, store).await).await;
        answer.map_err(|error| self.told(error))
    }

    /// Replaces the text of a denial that failed or ended the call by the host's own text.
    fn told(&mut self, error: CallError) -> CallError {
        self.is_over = error.is_end();
        let guest = self.store.data();
        match error {
            CallError::Failed(failure) => CallError::Failed(guest.told(failure)),
            CallError::Trapped(trap) => guest.denials.uncaught().map_or(CallError::Trapped(trap), CallError::Failed),
            other => other,
        }
    }
}
