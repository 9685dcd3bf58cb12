use dropsonde_sandbox::{BadDescriptor, Descriptor, MetricClaim, MetricConflict, MetricKind, MetricNames, family};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, Opts, Registry};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Registers metrics of named services. [`MetricRegistry`] is the real implementation; a test may have another.
///
/// Every metric has the label `service`, so that two services may have metrics of the same name, if their kind, help,
/// labels and buckets agree. Registering the same metric again returns it.
pub trait Registrar: Send + Sync {
    /// Registers counters. `name` ends in `_total`.
    fn counter_vec(
        &self,
        service: &str,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<CounterVec, RegistrationError>;

    /// Registers gauges.
    fn gauge_vec(&self, service: &str, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, RegistrationError>;

    /// Registers histograms. `buckets`: upper bounds, ascending; none: from 5 ms to 10 s.
    fn histogram_vec(
        &self,
        service: &str,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, RegistrationError>;

    /// Removes a metric with all its series. Returns whether it was there.
    fn unregister(&self, service: &str, name: &str) -> bool;

    fn counter(&self, service: &str, name: &str, help: &str) -> Result<Counter, RegistrationError> {
        Ok(self.counter_vec(service, name, help, &[])?.with_label_values::<&str>(&[]))
    }

    fn gauge(&self, service: &str, name: &str, help: &str) -> Result<Gauge, RegistrationError> {
        Ok(self.gauge_vec(service, name, help, &[])?.with_label_values::<&str>(&[]))
    }

    fn histogram(
        &self,
        service: &str,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, RegistrationError> {
        Ok(self.histogram_vec(service, name, help, &[], buckets)?.with_label_values::<&str>(&[]))
    }
}

/// The metrics of a host's native services. Cheap to clone; two registries share nothing.
#[derive(Debug, Clone)]
pub struct MetricRegistry {
    prometheus: Registry,
    names: MetricNames,
    metrics: ServiceMetrics,
}

/// The reason why a metric was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    /// The metric cannot be exposed.
    #[error(transparent)]
    Invalid(#[from] BadDescriptor),
    #[error("invalid service name {0:?}; use 1 to {LONGEST_SERVICE} bytes without control characters")]
    Service(String),
    #[error("the label `service` is reserved for the registry; use another name")]
    ServiceLabel,
    /// The name already means something else: another kind, or other labels, help or buckets.
    #[error(transparent)]
    Conflict(#[from] MetricConflict),
    #[error(transparent)]
    Library(#[from] prometheus::Error),
}

/// The longest name of a service, in bytes.
const LONGEST_SERVICE: usize = 128;

/// The label every metric of a service has.
const SERVICE: &str = "service";

/// Metrics by service and family. Names that differ only by `_total` are of one family.
#[derive(Debug, Clone, Default)]
struct ServiceMetrics(Arc<RwLock<BTreeMap<(String, String), RegisteredMetric>>>);

#[derive(Debug)]
struct RegisteredMetric {
    claim: MetricClaim,
    metric: MetricVec,
}

#[derive(Debug, Clone)]
enum MetricVec {
    Counter(CounterVec),
    Gauge(GaugeVec),
    Histogram(HistogramVec),
}

// === impl MetricRegistry ===

impl MetricRegistry {
    pub fn new() -> Result<Self, RegistrationError> {
        let (prometheus, metrics) = (Registry::new(), ServiceMetrics::default());
        prometheus.register(Box::new(metrics.clone()))?;
        Ok(Self { prometheus, names: MetricNames::default(), metrics })
    }

    /// Returns the registry underneath. Metrics that are registered there directly are exposed as they are.
    pub fn prometheus(&self) -> &Registry {
        &self.prometheus
    }

    /// Returns the meanings of metric names, which are shared with the host's plugins.
    pub(crate) fn names(&self) -> &MetricNames {
        &self.names
    }

    fn register(
        &self,
        service: &str,
        descriptor: Descriptor,
        make: impl FnOnce(&Descriptor, Opts) -> Result<MetricVec, prometheus::Error>,
    ) -> Result<MetricVec, RegistrationError> {
        if service.is_empty() || service.len() > LONGEST_SERVICE || service.chars().any(char::is_control) {
            return Err(RegistrationError::Service(service.chars().take(LONGEST_SERVICE).collect()));
        }
        if descriptor.labels.iter().any(|label| label == SERVICE) {
            return Err(RegistrationError::ServiceLabel);
        }
        let descriptor = descriptor.checked()?;
        let key = (service.to_owned(), descriptor.family().to_owned());
        let mut metrics = self.metrics.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = metrics.get(&key) {
            MetricConflict::check(&format!("service {service}"), known.claim.descriptor(), &descriptor)?;
            return Ok(known.metric.clone());
        }
        let options = Opts::new(&descriptor.name, &descriptor.help).const_label(SERVICE, service);
        let metric = make(&descriptor, options)?;
        // This is never a plugin's name, because those have no space.
        let claim = self.names.claim(&format!("service {service}").into(), descriptor)?;
        metrics.insert(key, RegisteredMetric { claim, metric: metric.clone() });
        Ok(metric)
    }
}

impl Registrar for MetricRegistry {
    fn counter_vec(
        &self,
        service: &str,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<CounterVec, RegistrationError> {
        let descriptor = descriptor(name, help, MetricKind::Counter, labels, &[]);
        let made =
            self.register(service, descriptor, |_, options| CounterVec::new(options, labels).map(MetricVec::Counter));
        match made? {
            MetricVec::Counter(counters) => Ok(counters),
            MetricVec::Gauge(_) | MetricVec::Histogram(_) => Err(other_kind(name)),
        }
    }

    fn gauge_vec(&self, service: &str, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, RegistrationError> {
        let descriptor = descriptor(name, help, MetricKind::Gauge, labels, &[]);
        let made =
            self.register(service, descriptor, |_, options| GaugeVec::new(options, labels).map(MetricVec::Gauge));
        match made? {
            MetricVec::Gauge(gauges) => Ok(gauges),
            MetricVec::Counter(_) | MetricVec::Histogram(_) => Err(other_kind(name)),
        }
    }

    fn histogram_vec(
        &self,
        service: &str,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, RegistrationError> {
        let descriptor = descriptor(name, help, MetricKind::Histogram, labels, buckets);
        let made = self.register(service, descriptor, |descriptor, options| {
            let options = HistogramOpts::from(options).buckets(descriptor.buckets.clone());
            HistogramVec::new(options, labels).map(MetricVec::Histogram)
        });
        match made? {
            MetricVec::Histogram(histograms) => Ok(histograms),
            MetricVec::Counter(_) | MetricVec::Gauge(_) => Err(other_kind(name)),
        }
    }

    fn unregister(&self, service: &str, name: &str) -> bool {
        let mut metrics = self.metrics.0.write().unwrap_or_else(PoisonError::into_inner);
        let key = (service.to_owned(), family(name).to_owned());
        let is_there = metrics.get(&key).is_some_and(|known| known.claim.descriptor().name == name);
        is_there && metrics.remove(&key).is_some()
    }
}

fn descriptor(name: &str, help: &str, kind: MetricKind, labels: &[&str], buckets: &[f64]) -> Descriptor {
    let labels = labels.iter().map(|&label| label.to_owned()).collect();
    Descriptor { name: name.to_owned(), help: help.to_owned(), kind, labels, buckets: buckets.to_vec() }
}

/// Returns an error that never occurs: the kind was compared with the registered one before.
fn other_kind(name: &str) -> RegistrationError {
    RegistrationError::Library(prometheus::Error::Msg(format!("{name} is registered as another kind")))
}

// === impl ServiceMetrics ===

/// One collector for all metrics. The library itself would never forget the meaning that a name once had.
impl Collector for ServiceMetrics {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let metrics = self.0.read().unwrap_or_else(PoisonError::into_inner);
        metrics.values().flat_map(|registered| registered.metric.collect()).collect()
    }
}

impl MetricVec {
    fn collect(&self) -> Vec<MetricFamily> {
        match self {
            Self::Counter(counters) => counters.collect(),
            Self::Gauge(gauges) => gauges.collect(),
            Self::Histogram(histograms) => histograms.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> MetricRegistry {
        MetricRegistry::new().unwrap()
    }

    fn series(registry: &MetricRegistry) -> Vec<(String, usize)> {
        let families = registry.prometheus().gather();
        families.iter().map(|family| (family.name().to_owned(), family.get_metric().len())).collect()
    }

    #[test]
    fn registering_the_same_metric_again_returns_it() {
        let registry = registry();
        let first = registry.counter_vec("shop", "orders_total", "Orders.", &["page"]).unwrap();
        let second = registry.counter_vec("shop", "orders_total", "Orders.", &["page"]).unwrap();
        first.with_label_values(&["/"]).inc();
        second.with_label_values(&["/"]).inc_by(2.0);
        assert_eq!(first.with_label_values(&["/"]).get(), 3.0);
        registry.gauge("shop", "stock", "Stock.").unwrap().set(4.0);
        assert_eq!(registry.gauge("shop", "stock", "Stock.").unwrap().get(), 4.0);
    }

    #[test]
    fn registering_another_metric_under_a_used_name_returns_the_kind_of_conflict() {
        let registry = registry();
        registry.histogram_vec("shop", "took_seconds", "Times.", &["page"], &[1.0]).unwrap();
        let conflict = |made: Result<HistogramVec, RegistrationError>| match made {
            Err(RegistrationError::Conflict(conflict)) => conflict,
            other => panic!("{other:?}"),
        };
        let again = |help, labels: &[&str], buckets: &[f64]| {
            conflict(registry.histogram_vec("shop", "took_seconds", help, labels, buckets))
        };
        assert!(matches!(again("Other.", &["page"], &[1.0]), MetricConflict::Help { .. }));
        assert!(matches!(again("Times.", &[], &[1.0]), MetricConflict::Labels { .. }));
        assert!(matches!(again("Times.", &["page"], &[2.0]), MetricConflict::Buckets { .. }));
        let gauge = registry.gauge_vec("shop", "took_seconds", "Times.", &["page"]);
        assert!(matches!(gauge, Err(RegistrationError::Conflict(MetricConflict::Kind { .. }))));
        let total = registry.counter("shop", "took_seconds_total", "Times.");
        assert!(matches!(total, Err(RegistrationError::Conflict(_))), "it would be the same family in OpenMetrics");
    }

    #[test]
    fn services_share_a_metric_name_if_kind_help_and_labels_agree() {
        let registry = registry();
        registry.counter("a", "x_total", "Help.").unwrap().inc();
        registry.counter("b", "x_total", "Help.").unwrap().inc_by(5.0);
        assert!(matches!(registry.counter("c", "x_total", "Other."), Err(RegistrationError::Conflict(_))));
        assert_eq!(series(&registry), [("x_total".to_owned(), 2)]);
        assert!(registry.unregister("a", "x_total"), "which leaves the other's");
        assert_eq!(series(&registry), [("x_total".to_owned(), 1)]);
    }

    #[test]
    fn an_unregistered_name_can_be_registered_as_another_metric() {
        let registry = registry();
        registry.gauge("a", "x", "Help.").unwrap();
        assert!(!registry.unregister("a", "x_total"), "which it is not called");
        assert!(registry.unregister("a", "x"));
        assert!(!registry.unregister("a", "x"));
        assert_eq!(series(&registry), []);
        registry.gauge_vec("a", "x", "Other.", &["l"]).unwrap().with_label_values(&["v"]).set(1.0);
        assert_eq!(series(&registry), [("x".to_owned(), 1)]);
    }

    #[test]
    fn invalid_metric_service_and_label_names_are_refused() {
        let registry = registry();
        assert!(matches!(registry.gauge("a", "a b", "Help."), Err(RegistrationError::Invalid(_))));
        assert!(matches!(registry.gauge("a", "dropsonde_x", "Help."), Err(RegistrationError::Invalid(_))));
        assert!(matches!(registry.counter("a", "x", "Help."), Err(RegistrationError::Invalid(_))));
        assert!(matches!(registry.gauge("a\n", "x", "Help."), Err(RegistrationError::Service(_))));
        assert!(matches!(registry.gauge_vec("a", "x", "Help.", &["service"]), Err(RegistrationError::ServiceLabel)));
    }

    #[test]
    fn registries_share_nothing() {
        let (a, b) = (registry(), registry());
        a.gauge("s", "x", "Help.").unwrap();
        b.counter("s", "x_total", "Other.").unwrap();
        assert_eq!((series(&a).len(), series(&b).len()), (1, 1));
    }

    #[test]
    fn concurrent_registrations_and_recordings_lose_nothing() {
        let registry = registry();
        std::thread::scope(|scope| {
            for thread in 0..100 {
                let registry = &registry;
                scope.spawn(move || {
                    for nth in 0..100 {
                        let service = format!("service-{}", (thread + nth) % 10);
                        let label = (nth % 5).to_string();
                        let counters = registry.counter_vec(&service, "x_total", "Help.", &["l"]).unwrap();
                        counters.with_label_values(&[&label]).inc();
                    }
                });
            }
        });
        let families = registry.prometheus().gather();
        let all: f64 = families[0].get_metric().iter().map(|metric| metric.get_counter().get_value()).sum();
        assert_eq!((series(&registry), all), (vec![("x_total".to_owned(), 50)], 10_000.0));
    }

    #[test]
    fn a_registrar_can_be_mocked() {
        struct Mock;
        impl Registrar for Mock {
            fn counter_vec(
                &self,
                _: &str,
                name: &str,
                help: &str,
                l: &[&str],
            ) -> Result<CounterVec, RegistrationError> {
                Ok(CounterVec::new(Opts::new(name, help), l)?)
            }
            fn gauge_vec(&self, _: &str, name: &str, help: &str, l: &[&str]) -> Result<GaugeVec, RegistrationError> {
                Ok(GaugeVec::new(Opts::new(name, help), l)?)
            }
            fn histogram_vec(
                &self,
                _: &str,
                name: &str,
                help: &str,
                l: &[&str],
                _: &[f64],
            ) -> Result<HistogramVec, RegistrationError> {
                Ok(HistogramVec::new(HistogramOpts::new(name, help), l)?)
            }
            fn unregister(&self, _: &str, _: &str) -> bool {
                false
            }
        }
        let registrar: &dyn Registrar = &Mock;
        registrar.counter("s", "x_total", "Help.").unwrap().inc();
    }
}
