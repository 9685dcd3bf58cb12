//! An index of the fields of samples by the names of their metrics and by their instances. It is made anew when
//! instances, frames or plugins have changed.

use crate::Engine;
use crate::plugins::{FieldMetric, Fields};
use crate::tracked::PluginName;
use dropsonde_model::Labels;
use dropsonde_model::labels::NAME;
use dropsonde_promql::{Matcher, ValuePattern};
use dropsonde_store::{Frame, InstanceId, Schema};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The index that was made last.
#[derive(Debug, Default)]
pub(crate) struct FieldIndexes(Mutex<Option<Arc<FieldIndex>>>);

/// The fields of all samples.
#[derive(Debug)]
pub(super) struct FieldIndex {
    made_of: Revisions,
    fields: Vec<Arc<IndexedField>>,
    /// The numbers of fields.
    by_name: BTreeMap<String, Vec<u32>>,
    by_instance: HashMap<InstanceId, Vec<u32>>,
}

/// A field in the frame of an instance.
#[derive(Debug)]
pub(super) struct IndexedField {
    pub(super) instance: InstanceId,
    /// The labels of the instance.
    pub(super) labels: Labels,
    pub(super) frame: Arc<Frame>,
    pub(super) column: usize,
    /// Whether the sampler has several frames of the instance, with other fields or another interval.
    pub(super) has_several_frames: bool,
    metrics: Arc<[FieldMetric]>,
    /// The labels that other servers get, once they are known: they are the same in later indexes.
    exported: OnceLock<Labels>,
}

/// The versions of the data in an index. The numbers of plugins are the addresses of their fields, which the index
/// keeps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Revisions {
    tracked: u64,
    store: u64,
    plugins: Vec<(PluginName, usize)>,
    external_name: Arc<str>,
}

impl FieldIndexes {
    /// Returns the index of the fields as they are now.
    pub(super) fn current(&self, engine: &Engine) -> Arc<FieldIndex> {
        let fields = declared(engine);
        let now = Revisions::of(engine, &fields);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = known.as_ref().filter(|index| index.made_of == now) {
            return index.clone();
        }
        let index = Arc::new(FieldIndex::new(engine, &fields, now, known.as_deref()));
        *known = Some(index.clone());
        index
    }

    /// Drops an index that is no longer true: it holds history that may be gone.
    pub(crate) fn drop_stale(&self, engine: &Engine) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|index| index.made_of != Revisions::of(engine, &declared(engine))) {
            *known = None;
        }
    }
}

impl Revisions {
    pub(super) fn now(engine: &Engine) -> Self {
        Self::of(engine, &declared(engine))
    }

    fn of(engine: &Engine, declared: &[(PluginName, Fields)]) -> Self {
        let address = |fields: &Fields| fields.metrics.as_ptr() as usize;
        Self {
            tracked: engine.tracked.revision(),
            store: engine.store.revision(),
            plugins: declared.iter().map(|(name, fields)| (name.clone(), address(fields))).collect(),
            external_name: engine.options.load().external_name().into(),
        }
    }
}

/// Returns the fields of all plugins.
pub(super) fn declared(engine: &Engine) -> Vec<(PluginName, Fields)> {
    let plugins = engine.plugins.list();
    plugins.iter().filter_map(|plugin| Some((plugin.name.clone(), plugin.fields()?))).collect()
}

impl FieldIndex {
    /// Indexes the fields as they are now. What has not changed since `before` is taken over.
    fn new(engine: &Engine, declared: &[(PluginName, Fields)], made_of: Revisions, before: Option<&Self>) -> Self {
        let before = before.filter(|before| before.made_of.external_name == made_of.external_name);
        let declared: BTreeMap<&str, &Fields> = declared.iter().map(|(name, fields)| (&**name, fields)).collect();
        let mut by_custom: Vec<(Schema, Arc<[FieldMetric]>)> = Vec::new();
        let mut index = Self { made_of, fields: Vec::new(), by_name: BTreeMap::new(), by_instance: HashMap::new() };
        for instance in engine.tracked.list() {
            let frames = engine.store.frames(&instance.id);
            let numbers = before.and_then(|before| before.by_instance.get(&instance.id));
            let mut known = numbers.into_iter().flatten().filter_map(|number| before?.fields.get(*number as usize));
            let mut own = Vec::new();
            for frame in &frames {
                let schema = frame.schema();
                let is_of_sampler = |other: &&Arc<Frame>| other.schema().sampler() == schema.sampler();
                let has_several_frames = frames.iter().filter(is_of_sampler).nth(1).is_some();
                // The plugin may have gone, or have other fields by now.
                let of_plugin = declared.get(&**schema.sampler()).filter(|fields| fields.schema == *schema);
                let metrics = match of_plugin {
                    Some(fields) => fields.metrics.clone(),
                    None => match by_custom.iter().find(|(known, _)| known == schema) {
                        Some((_, metrics)) => metrics.clone(),
                        None => {
                            let metrics = customary(schema);
                            by_custom.push((schema.clone(), metrics.clone()));
                            metrics
                        }
                    },
                };
                for column in 0..metrics.len() {
                    let is_same = |known: &&Arc<IndexedField>| {
                        Arc::ptr_eq(&known.frame, frame)
                            && Arc::ptr_eq(&known.metrics, &metrics)
                            && known.column == column
                            && known.has_several_frames == has_several_frames
                            && known.labels == instance.labels
                    };
                    // Fields come in the same order each time.
                    let field = known.next().filter(is_same).cloned().unwrap_or_else(|| {
                        let (instance, labels) = (instance.id.clone(), instance.labels.clone());
                        let (frame, metrics, exported) = (frame.clone(), metrics.clone(), OnceLock::new());
                        Arc::new(IndexedField {
                            instance,
                            labels,
                            frame,
                            column,
                            has_several_frames,
                            metrics,
                            exported,
                        })
                    });
                    own.push(index.add(field));
                }
            }
            if !own.is_empty() {
                index.by_instance.insert(instance.id.clone(), own);
            }
        }
        index
    }

    fn add(&mut self, field: Arc<IndexedField>) -> u32 {
        let number = self.fields.len() as u32;
        let name = field.metric().map_or("", |metric| &metric.name);
        match self.by_name.get_mut(name) {
            Some(numbers) => numbers.push(number),
            None => drop(self.by_name.insert(name.to_owned(), vec![number])),
        }
        self.fields.push(field);
        number
    }

    /// Passes the fields that matchers select to `take`, with their metrics.
    pub(super) fn select<'a>(&'a self, matchers: &[Matcher], mut take: impl FnMut(&'a IndexedField, &'a FieldMetric)) {
        let (of_name, others): (Vec<&Matcher>, Vec<&Matcher>) =
            matchers.iter().partition(|matcher| matcher.name == NAME);
        let has_name = |name: &str| of_name.iter().all(|matcher| matcher.matches(name));
        let mut visit = |number: &u32| {
            let field = self.fields.get(*number as usize);
            let Some((field, metric)) = field.and_then(|field| Some((field, field.metric()?))) else { return };
            let value = |name: &str| match name {
                "id" => field.instance.as_str(),
                "sampler" => &**field.frame.schema().sampler(),
                name => field.labels.get(name).unwrap_or_default(),
            };
            if has_name(&metric.name) && others.iter().all(|matcher| matcher.matches(value(&matcher.name))) {
                take(field, metric);
            }
        };
        let exact = |matchers: &[&Matcher], name: &str| {
            let of = |matcher: &&&Matcher| matcher.name == name && !matcher.is_negated();
            matchers.iter().filter(of).find_map(|matcher| match matcher.pattern() {
                ValuePattern::AnyOf(values) => Some(values.clone()),
                _ => None,
            })
        };
        if matchers.is_empty() {
            (0..self.fields.len() as u32).for_each(|number| visit(&number));
        } else if let Some(ids) = exact(&others, "id") {
            let known = ids.iter().filter_map(|id| self.by_instance.get(id.as_str()));
            known.flatten().for_each(&mut visit);
        } else if let Some(names) = exact(&of_name, NAME) {
            let known = names.iter().filter_map(|name| self.by_name.get(name));
            known.flatten().for_each(&mut visit);
        } else {
            let known = self.by_name.iter().filter(|(name, _)| has_name(name)).map(|(_, numbers)| numbers);
            known.flatten().for_each(&mut visit);
        }
    }
}

impl IndexedField {
    /// Returns the labels of the field as a series on `/metrics`.
    pub(super) fn series_labels(&self, metric: &FieldMetric) -> Labels {
        let own = [("id", self.instance.as_str()), ("sampler", self.frame.schema().sampler()), (NAME, &metric.name)];
        self.labels.iter().chain(own).collect()
    }

    /// Returns the labels that other servers get, which `make` makes of those on `/metrics`.
    pub(super) fn exported_labels(&self, metric: &FieldMetric, make: impl FnOnce(Labels) -> Labels) -> Labels {
        self.exported.get_or_init(|| make(self.series_labels(metric))).clone()
    }

    fn metric(&self) -> Option<&FieldMetric> {
        self.metrics.get(self.column)
    }
}

/// Returns the metrics that fields have by custom.
pub(super) fn customary(schema: &Schema) -> Arc<[FieldMetric]> {
    let metric = |field| {
        let [customary, _] = FieldMetric::of_kept(field);
        customary
    };
    schema.fields().iter().map(metric).collect()
}
