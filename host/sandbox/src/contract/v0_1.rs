//! `dropsonde:plugin@0.1.0`.

use super::Answer;
use crate::capability::files::{EntryKind, FileError, Space};
use crate::capability::log::Level;
use crate::capability::metrics::{Descriptor, MetricKind, NotRegistered};
use crate::capability::series::NotDefined;
use crate::instance::Guest;
use crate::vocabulary::{CacheStats, ChannelStats, EnvelopeStats, HistoryStats, PresenceStats, TokenStats};
use crate::{Aggregation, CallError, Description, Event, Failure, Field, Instance, Kind, Need, Readings, Stats, Tick};
use dropsonde::plugin::{files, log, metrics, series, state, types};
use dropsonde_model::MetricType;
use exports::dropsonde::plugin::{observer, plugin, sampler, source};
use wasmtime::component::{HasSelf, InstancePre, Linker};
use wasmtime::{Store, component};

wasmtime::component::bindgen!({
    world: "full-plugin",
    path: "../../wit",
    exports: { default: async },
});

/// The names under which a component exports its interfaces.
pub(crate) const PLUGIN: &str = "dropsonde:plugin/plugin@0.1.0";
pub(crate) const SAMPLER: &str = "dropsonde:plugin/sampler@0.1.0";
pub(crate) const SOURCE: &str = "dropsonde:plugin/source@0.1.0";
pub(crate) const OBSERVER: &str = "dropsonde:plugin/observer@0.1.0";

pub(crate) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    log::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    files::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    state::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    metrics::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    series::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    types::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
}

/// The positions of a component's functions: looked up once, and used for each instance of it.
#[derive(Clone)]
pub(crate) struct Indices {
    plugin: plugin::GuestIndices,
    sampler: Option<sampler::GuestIndices>,
    source: Option<source::GuestIndices>,
    observer: Option<observer::GuestIndices>,
}

/// The functions of one live instance.
pub(crate) struct Exports {
    plugin: plugin::Guest,
    sampler: Option<sampler::Guest>,
    source: Option<source::Guest>,
    observer: Option<observer::Guest>,
}

// === impl Indices ===

impl Indices {
    pub(crate) fn new(instance: &InstancePre<Guest>) -> wasmtime::Result<Self> {
        let sampler = instance.component().get_export_index(None, SAMPLER).is_some();
        let source = instance.component().get_export_index(None, SOURCE).is_some();
        let observer = instance.component().get_export_index(None, OBSERVER).is_some();
        Ok(Self {
            plugin: plugin::GuestIndices::new(instance)?,
            sampler: sampler.then(|| sampler::GuestIndices::new(instance)).transpose()?,
            source: source.then(|| source::GuestIndices::new(instance)).transpose()?,
            observer: observer.then(|| observer::GuestIndices::new(instance)).transpose()?,
        })
    }

    pub(crate) fn load(&self, store: &mut Store<Guest>, instance: &component::Instance) -> wasmtime::Result<Exports> {
        Ok(Exports {
            plugin: self.plugin.load(&mut *store, instance)?,
            sampler: self.sampler.as_ref().map(|indices| indices.load(&mut *store, instance)).transpose()?,
            source: self.source.as_ref().map(|indices| indices.load(&mut *store, instance)).transpose()?,
            observer: self.observer.as_ref().map(|indices| indices.load(&mut *store, instance)).transpose()?,
        })
    }
}

// === impl Exports ===

impl Exports {
    pub(crate) async fn describe(&self, store: &mut Store<Guest>) -> wasmtime::Result<Description> {
        let types::Description { name, version, about } = self.plugin.call_describe(store).await?;
        Ok(Description { name, version, about })
    }

    pub(crate) async fn needs(&self, store: &mut Store<Guest>, config: &str) -> Answer<Vec<Need>> {
        let needs = self.plugin.call_needs(store, config).await?;
        let needs = needs.map_err(|why| CallError::Failed(Failure::Invalid(why)));
        Ok(needs.map(|needs| needs.into_iter().map(Need::from).collect()))
    }

    pub(crate) async fn init(&self, store: &mut Store<Guest>, config: &str) -> Answer<()> {
        Ok(self.plugin.call_init(store, config).await?.map_err(failed))
    }

    pub(crate) async fn fields(&self, store: &mut Store<Guest>) -> Answer<Vec<Field>> {
        let Some(sampler) = &self.sampler else { return Ok(Ok(Vec::new())) };
        let fields = sampler.call_fields(store).await?;
        Ok(Ok(fields.into_iter().map(Field::from).collect()))
    }

    pub(crate) async fn discover(&self, store: &mut Store<Guest>, tick: Tick) -> Answer<Vec<Instance>> {
        let Some(sampler) = &self.sampler else { return Ok(Ok(Vec::new())) };
        let instances = sampler.call_discover(store, tick.into()).await?.map_err(failed);
        let translated = |sampler::Instance { id, labels }| Instance { id, labels };
        Ok(instances.map(|instances| instances.into_iter().map(translated).collect()))
    }

    pub(crate) async fn sample(&self, store: &mut Store<Guest>, tick: Tick, instances: &[String]) -> Answer<Readings> {
        let Some(sampler) = &self.sampler else {
            return Ok(Err(CallError::OutOfContract("it is not a sampler".to_owned())));
        };
        let readings = sampler.call_sample(&mut *store, tick.into(), instances).await?.map_err(failed);
        let series = store.data_mut().series.take();
        let guest = store.data();
        Ok(readings.map(|sampler::Readings { values, offsets_ms, failures }| Readings {
            values,
            offsets_ms,
            failures: failures.into_iter().map(|(row, failure)| (row, guest.told(failure.into()))).collect(),
            series,
        }))
    }
}

impl Exports {
    pub(crate) async fn collect(&self, store: &mut Store<Guest>, tick: Tick) -> Answer<Stats> {
        let Some(source) = &self.source else {
            return Ok(Err(CallError::OutOfContract("it is not a source".to_owned())));
        };
        Ok(source.call_collect(store, tick.into()).await?.map(Stats::from).map_err(failed))
    }
}

impl Exports {
    pub(crate) async fn observe(&self, store: &mut Store<Guest>, tick: Tick, events: Vec<Event>) -> Answer<()> {
        let Some(observer) = &self.observer else {
            return Ok(Err(CallError::OutOfContract("it is not an observer".to_owned())));
        };
        let translated = |Event { at_ms, name, subject, value, attributes }| observer::Event {
            at_ms,
            name,
            subject,
            value,
            attributes,
        };
        let events: Vec<_> = events.into_iter().map(translated).collect();
        Ok(observer.call_observe(store, tick.into(), &events).await?.map_err(failed))
    }
}

// === host functions ===

impl types::Host for Guest {}

impl log::Host for Guest {
    fn write(&mut self, level: log::Level, message: String) {
        let level = match level {
            log::Level::Trace => Level::Trace,
            log::Level::Debug => Level::Debug,
            log::Level::Info => Level::Info,
            log::Level::Warn => Level::Warn,
            log::Level::Error => Level::Error,
        };
        self.log(level, &message);
    }
}

impl files::Host for Guest {
    fn read(&mut self, path: String) -> Result<Vec<u8>, files::FileError> {
        self.read_file(&path).map_err(|error| file_error(&path, error))
    }

    fn read_range(&mut self, path: String, offset: u64, length: u32) -> Result<Vec<u8>, files::FileError> {
        self.read_file_range(&path, offset, length).map_err(|error| file_error(&path, error))
    }

    fn entries(&mut self, path: String) -> Result<Vec<files::Entry>, files::FileError> {
        let entries = self.file_entries(&path).map_err(|error| file_error(&path, error))?;
        Ok(entries.into_iter().map(files::Entry::from).collect())
    }

    fn entries_from(&mut self, path: String, start: u64, most: u32) -> Result<files::EntriesPage, files::FileError> {
        let (entries, next) = self.file_entries_from(&path, start, most).map_err(|error| file_error(&path, error))?;
        Ok(files::EntriesPage { entries: entries.into_iter().map(files::Entry::from).collect(), next })
    }

    fn space(&mut self, path: String) -> Result<files::DiskSpace, files::FileError> {
        let space = self.file_space(&path).map_err(|error| file_error(&path, error))?;
        Ok(files::DiskSpace {
            total_bytes: space.total_bytes,
            available_bytes: space.available_bytes,
            inodes: space.inodes,
            inodes_free: space.inodes_free,
        })
    }

    fn usage(&mut self, path: String) -> Result<files::DiskUsage, files::FileError> {
        let space = self.file_space(&path).map_err(|error| file_error(&path, error))?;
        let Space { total_bytes, used_bytes, available_bytes, .. } = space;
        Ok(files::DiskUsage { total_bytes, used_bytes, available_bytes })
    }

    fn modified_ms(&mut self, path: String) -> Result<u64, files::FileError> {
        self.file_modified_ms(&path).map_err(|error| file_error(&path, error))
    }
}

impl state::Host for Guest {
    fn load(&mut self) -> Option<Vec<u8>> {
        self.state.load()
    }

    fn save(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        self.state.save(bytes)
    }
}

impl metrics::Host for Guest {
    fn register(&mut self, options: metrics::Options) -> Result<metrics::Family, metrics::RegisterError> {
        let metrics::Options { name, help, kind, labels, buckets } = options;
        let kind = match kind {
            metrics::MetricKind::Counter => MetricKind::Counter,
            metrics::MetricKind::Gauge => MetricKind::Gauge,
            metrics::MetricKind::Histogram => MetricKind::Histogram,
        };
        let registered = self.metrics.register(Descriptor { name, help, kind, labels, buckets });
        Ok(registered.map_err(|why| self.refused(why))?)
    }

    fn with_labels(
        &mut self,
        family: metrics::Family,
        values: Vec<String>,
    ) -> Result<metrics::Series, metrics::RegisterError> {
        Ok(self.metrics.with_labels(family, &values).map_err(|why| self.refused(why))?)
    }

    fn record(&mut self, series: metrics::Series, value: f64) {
        self.metrics.record(series, value);
    }

    fn record_many(&mut self, points: Vec<(metrics::Series, f64)>) {
        for (series, value) in points {
            self.metrics.record(series, value);
        }
    }

    fn unregister(&mut self, name: String) -> bool {
        self.metrics.unregister(&name)
    }
}

impl series::Host for Guest {
    fn define(&mut self, definition: series::Definition) -> Result<series::Handle, series::DefineError> {
        self.define_series(definition, false)
    }

    fn define_keeping_labels(&mut self, definition: series::Definition) -> Result<series::Handle, series::DefineError> {
        self.define_series(definition, true)
    }

    fn report(&mut self, instance: String, points: Vec<(series::Handle, f64)>) {
        let ignored = self.series.report(instance, points);
        self.metrics.ignore(ignored);
    }
}

impl Guest {
    fn define_series(
        &mut self,
        definition: series::Definition,
        keeps_labels: bool,
    ) -> Result<series::Handle, series::DefineError> {
        let series::Definition { name, metric_type, help, labels } = definition;
        let metric_type = match metric_type {
            series::MetricType::Counter => MetricType::Counter,
            series::MetricType::Gauge => MetricType::Gauge,
            series::MetricType::Histogram => MetricType::Histogram,
            series::MetricType::Summary => MetricType::Summary,
            series::MetricType::Unknown => MetricType::Unknown,
        };
        let defined = self.series.define(&name, metric_type, help, labels, keeps_labels);
        Ok(defined.map_err(|why| self.not_defined(why))?)
    }
}

// === translations ===

fn failed(failure: types::Failure) -> CallError {
    CallError::Failed(failure.into())
}

impl From<types::Failure> for Failure {
    fn from(failure: types::Failure) -> Self {
        match failure {
            types::Failure::Gone => Self::Gone,
            types::Failure::Unavailable(why) => Self::Unavailable(why),
            types::Failure::Denied(why) => Self::Denied(why),
            types::Failure::Invalid(why) => Self::Invalid(why),
        }
    }
}

impl From<source::Stats> for Stats {
    fn from(stats: source::Stats) -> Self {
        let source::Stats { channels, envelopes, presence, history, tokens, cache } = stats;
        Self {
            channels: channels
                .map(|source::ChannelStats { total_active, by_pattern }| ChannelStats { total_active, by_pattern }),
            envelopes: envelopes.map(|source::EnvelopeStats { rate_per_second, by_aspect }| EnvelopeStats {
                rate_per_second,
                by_aspect,
            }),
            presence: presence.map(|stats| PresenceStats {
                total_users: stats.total_users,
                total_agents: stats.total_agents,
                average_per_channel: stats.average_per_channel,
            }),
            history: history.map(|stats| HistoryStats {
                total_envelopes_buffered: stats.total_envelopes_buffered,
                buffer_utilization_pct: stats.buffer_utilization_pct,
            }),
            tokens: tokens.map(|stats| TokenStats {
                issued_last_hour: stats.issued_last_hour,
                revoked_last_hour: stats.revoked_last_hour,
                active_count: stats.active_count,
            }),
            cache: cache.map(|stats| CacheStats {
                hit_rate_pct: stats.hit_rate_pct,
                size_bytes: stats.size_bytes,
                size_entries: stats.size_entries,
                evictions_last_hour: stats.evictions_last_hour,
            }),
        }
    }
}

impl From<types::Need> for Need {
    fn from(need: types::Need) -> Self {
        match need {
            types::Need::Read(glob) => Self::Read(glob),
            types::Need::Http(origin) => Self::Http(origin),
            types::Need::Env(name) => Self::Env(name),
            types::Need::Dir(path) => Self::Dir(path),
        }
    }
}

impl From<types::Field> for Field {
    fn from(field: types::Field) -> Self {
        let (kind, total) = match field.kind {
            types::Kind::Gauge => (Kind::Gauge, String::new()),
            types::Kind::Counter(types::Total { name, scale }) => (Kind::Counter { scale }, name),
        };
        Self {
            name: field.name,
            help: field.help,
            unit: field.unit,
            kind,
            total,
            aggregation: match field.aggregation {
                types::Aggregation::Mean => Aggregation::Mean,
                types::Aggregation::Min => Aggregation::Min,
                types::Aggregation::Max => Aggregation::Max,
                types::Aggregation::Last => Aggregation::Last,
                types::Aggregation::Sum => Aggregation::Sum,
            },
            precision: field.precision,
        }
    }
}

impl From<Tick> for types::Tick {
    fn from(tick: Tick) -> Self {
        Self {
            at_ms: tick.at_ms,
            monotonic_ns: tick.monotonic_ns,
            budget_ms: tick.budget_ms,
            interval_ms: u32::try_from(tick.interval.as_millis()).unwrap_or(u32::MAX),
        }
    }
}

impl From<(String, EntryKind)> for files::Entry {
    fn from((name, kind): (String, EntryKind)) -> Self {
        let kind = match kind {
            EntryKind::File => files::EntryKind::File,
            EntryKind::Directory => files::EntryKind::Directory,
            EntryKind::Other => files::EntryKind::Other,
        };
        Self { name, kind }
    }
}

fn file_error(path: &str, error: FileError) -> files::FileError {
    match error {
        FileError::Denied => files::FileError::Denied,
        FileError::Refused => files::FileError::Other(format!(
            "permission denied by the operating system: {path}; run the host as a user that may read it"
        )),
        FileError::NotFound => files::FileError::NotFound,
        FileError::NotAFile => files::FileError::NotAFile,
        FileError::TooLarge(limit) => files::FileError::TooLarge(limit),
        FileError::Other(why) => files::FileError::Other(why),
    }
}

impl From<NotRegistered> for metrics::RegisterError {
    fn from(error: NotRegistered) -> Self {
        match error {
            NotRegistered::InvalidName(why) => Self::InvalidName(why),
            NotRegistered::Conflict(why) => Self::Conflict(why),
            NotRegistered::TooMany(most) => Self::TooMany(u32::try_from(most).unwrap_or(u32::MAX)),
        }
    }
}

impl From<NotDefined> for series::DefineError {
    fn from(error: NotDefined) -> Self {
        match error {
            NotDefined::Invalid(why) => Self::Invalid(why),
            NotDefined::TooMany(most) => Self::TooMany(u32::try_from(most).unwrap_or(u32::MAX)),
        }
    }
}
