use super::descriptor::{Descriptor, MetricKind};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The metric names of one host, with their meaning: every plugin that registers a name must give it the same meaning.
///
/// A counter and a gauge whose names differ only by `_total` share a name here, because they are one family in
/// OpenMetrics.
#[derive(Debug, Clone, Default)]
pub struct MetricNames(Arc<Mutex<HashMap<String, Vec<Held>>>>);

#[derive(Debug)]
struct Held {
    owner: Arc<str>,
    descriptor: Arc<Descriptor>,
}

/// A claim to a name; dropping it gives the name up.
#[derive(Debug)]
pub struct MetricClaim {
    names: MetricNames,
    descriptor: Arc<Descriptor>,
}

/// The name has another meaning already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricConflict {
    #[error("{name} is already a {is} of {owner}, not a {wanted}")]
    Kind { name: String, owner: String, is: MetricKind, wanted: MetricKind },
    #[error("{name} of {owner} already has the labels {is:?}, not {wanted:?}")]
    Labels { name: String, owner: String, is: Vec<String>, wanted: Vec<String> },
    #[error("{name} of {owner} already has another help text: {is:?}")]
    Help { name: String, owner: String, is: String },
    #[error("{name} of {owner} already has other buckets")]
    Buckets { name: String, owner: String },
}

impl MetricConflict {
    /// Checks that two descriptors of one name are the same.
    pub fn check(owner: &str, is: &Descriptor, wanted: &Descriptor) -> Result<(), Self> {
        let (name, owner) = (is.name.clone(), owner.to_owned());
        if is.kind != wanted.kind || is.name != wanted.name {
            return Err(Self::Kind { name, owner, is: is.kind, wanted: wanted.kind });
        }
        if is.labels != wanted.labels {
            return Err(Self::Labels { name, owner, is: is.labels.clone(), wanted: wanted.labels.clone() });
        }
        if is.help != wanted.help {
            return Err(Self::Help { name, owner, is: is.help.clone() });
        }
        if is.buckets != wanted.buckets {
            return Err(Self::Buckets { name, owner });
        }
        Ok(())
    }
}

impl MetricNames {
    /// Claims a name, if it has the same meaning for all other owners. Two versions of one owner may differ.
    pub fn claim(&self, owner: &Arc<str>, descriptor: Descriptor) -> Result<MetricClaim, MetricConflict> {
        let mut names = self.lock();
        let held = names.entry(descriptor.family().to_owned()).or_default();
        for other in held.iter().filter(|held| held.owner != *owner) {
            MetricConflict::check(&other.owner, &other.descriptor, &descriptor)?;
        }
        let descriptor = Arc::new(descriptor);
        held.push(Held { owner: owner.clone(), descriptor: descriptor.clone() });
        Ok(MetricClaim { names: self.clone(), descriptor })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Held>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl MetricClaim ===

impl MetricClaim {
    pub fn descriptor(&self) -> &Arc<Descriptor> {
        &self.descriptor
    }
}

impl Drop for MetricClaim {
    fn drop(&mut self) {
        let mut names = self.names.lock();
        let Some(held) = names.get_mut(self.descriptor.family()) else { return };
        held.retain(|held| !Arc::ptr_eq(&held.descriptor, &self.descriptor));
        if held.is_empty() {
            names.remove(self.descriptor.family());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(name: &str, kind: MetricKind, help: &str, labels: &[&str]) -> Descriptor {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        Descriptor { name: name.to_owned(), help: help.to_owned(), kind, labels, buckets: Vec::new() }
    }

    #[test]
    fn a_name_means_the_same_for_everyone_who_has_it() {
        let names = MetricNames::default();
        let (a, b) = ("a".into(), "b".into());
        let gauge = |help, labels: &[&str]| descriptor("x", MetricKind::Gauge, help, labels);
        let _kept = names.claim(&a, gauge("Help.", &["l"])).unwrap();
        assert!(names.claim(&b, gauge("Help.", &["l"])).is_ok());
        assert!(matches!(names.claim(&b, gauge("Other.", &["l"])), Err(MetricConflict::Help { .. })));
        assert!(matches!(names.claim(&b, gauge("Help.", &[])), Err(MetricConflict::Labels { .. })));
        let total = descriptor("x_total", MetricKind::Counter, "Help.", &["l"]);
        assert!(matches!(names.claim(&b, total), Err(MetricConflict::Kind { .. })), "one family in OpenMetrics");
    }

    #[test]
    fn a_newer_version_may_say_something_else_unless_others_have_it_too() {
        let names = MetricNames::default();
        let (a, b) = ("a".into(), "b".into());
        let gauge = |help| descriptor("x", MetricKind::Gauge, help, &[]);
        let _old = names.claim(&a, gauge("Help.")).unwrap();
        assert!(names.claim(&a, gauge("Other.")).is_ok());
        let _shared = names.claim(&b, gauge("Help.")).unwrap();
        assert!(names.claim(&a, gauge("Other.")).is_err());
    }

    #[test]
    fn a_name_is_free_once_nobody_has_it() {
        let names = MetricNames::default();
        let claim = names.claim(&"a".into(), descriptor("x", MetricKind::Gauge, "Help.", &[])).unwrap();
        drop(claim);
        assert!(names.lock().is_empty());
        assert!(names.claim(&"b".into(), descriptor("x", MetricKind::Gauge, "Other.", &[])).is_ok());
    }
}
