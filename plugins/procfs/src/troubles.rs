//! Lasting problems: the log gets a line when a problem begins, changes or ends.

use dropsonde_guest::log;
use std::collections::BTreeMap;

/// The current problems, by the thing that they concern.
#[derive(Debug, Default)]
pub(crate) struct Troubles(BTreeMap<&'static str, String>);

// === impl Troubles ===

impl Troubles {
    /// Reports that something is wrong, or no longer wrong.
    pub(crate) fn report(&mut self, what: &'static str, wrong: Option<String>) {
        if self.is_news(what, wrong.as_deref()) {
            match wrong {
                Some(why) => log::warn(format!("{what}: {why}")),
                None => log::info(format!("{what}: works again")),
            }
        }
    }

    fn is_news(&mut self, what: &'static str, wrong: Option<&str>) -> bool {
        let before = match wrong {
            Some(why) => self.0.insert(what, why.to_owned()),
            None => self.0.remove(what),
        };
        before.as_deref() != wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_when_it_begins_changes_and_ends() {
        let mut troubles = Troubles::default();
        let mut tell = |wrong| troubles.is_news("mounts", wrong);
        let told = [tell(None), tell(Some("a")), tell(Some("a")), tell(Some("b")), tell(None), tell(None)];
        assert_eq!(told, [false, true, false, true, true, false]);
    }
}
