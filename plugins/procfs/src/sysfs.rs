//! The properties of devices in /sys, remembered between ticks.

use dropsonde_guest::files;
use std::collections::{BTreeMap, BTreeSet};

/// Most known devices to read again in one call. Most machines have fewer, so each call sees the current state of all.
const ASKED_AGAIN: usize = 32;

/// Most new devices to read in one call: a machine may have thousands of container ends, and reading one takes about
/// 100 µs. The others are unknown until the next call.
const ASKED_FIRST: usize = 128;

/// The known properties of devices, by name. `None`: /sys does not have the device.
#[derive(Debug, Default)]
pub(crate) struct Known<T> {
    by_name: BTreeMap<String, Option<T>>,
    /// The name after which the next call continues.
    turn: String,
}

/// The file names in one device's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Folder(BTreeSet<String>);

// === impl Known ===

impl<T> Known<T> {
    /// Forgets devices that are gone, reads some of the new ones, and reads some of the others again in turn.
    pub(crate) fn refresh(&mut self, names: &BTreeSet<&str>, mut ask: impl FnMut(&str) -> Option<T>) {
        self.by_name.retain(|name, _| names.contains(name.as_str()));
        let turn = self.turn.clone();
        let later = names.iter().filter(|name| **name > turn.as_str());
        let earlier = names.iter().filter(|name| **name <= turn.as_str());
        let (mut first, mut again) = (0..ASKED_FIRST, 0..ASKED_AGAIN);
        for name in later.chain(earlier) {
            let is_known = self.by_name.contains_key(*name);
            let turn = if is_known { &mut again } else { &mut first };
            if turn.next().is_none() {
                continue;
            }
            if is_known {
                self.turn = (*name).to_owned();
            }
            self.by_name.insert((*name).to_owned(), ask(name));
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&T> {
        self.by_name.get(name)?.as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.by_name.iter().filter_map(|(name, known)| Some((name.as_str(), known.as_ref()?)))
    }
}

// === impl Folder ===

impl Folder {
    /// Lists a device's folder. `None` if it does not exist or cannot be read.
    pub(crate) fn list(path: &str) -> Option<Self> {
        let entries = files::entries(path).ok()?;
        Some(Self(entries.into_iter().map(|entry| entry.name).collect()))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names that begin with a prefix, without the prefix.
    pub(crate) fn with_prefix(&self, prefix: &str) -> BTreeSet<String> {
        self.0.iter().filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect()
    }
}

#[cfg(test)]
impl Folder {
    pub(crate) fn of(names: &[&str]) -> Self {
        Self(names.iter().map(|name| (*name).to_owned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_new_devices_are_asked_for_in_one_call() {
        let names: Vec<String> = (0..300).map(|nth| format!("veth{nth:03}")).collect();
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut known = Known::default();
        let mut known_after = || {
            known.refresh(&names, |_| Some(()));
            known.iter().count()
        };
        assert_eq!([known_after(), known_after(), known_after()], [128, 256, 300]);
    }

    #[test]
    fn new_devices_are_asked_for_at_once_and_known_ones_in_turn() {
        let names: Vec<String> = (0..100).map(|nth| format!("veth{nth:03}")).collect();
        let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut known = Known::default();
        let mut asked = Vec::new();
        known.refresh(&names, |name| {
            asked.push(name.to_owned());
            Some(())
        });
        assert_eq!(asked.len(), 100);
        let mut again = BTreeSet::new();
        for _ in 0..4 {
            let mut count = 0;
            known.refresh(&names, |name| {
                count += 1;
                again.insert(name.to_owned());
                Some(())
            });
            assert_eq!(count, ASKED_AGAIN);
        }
        assert_eq!(again.len(), 100, "all had their turn");
        known.refresh(&BTreeSet::from(["veth001"]), |_| None);
        assert_eq!((known.iter().count(), known.by_name.len()), (0, 1), "the others are forgotten");
    }
}
