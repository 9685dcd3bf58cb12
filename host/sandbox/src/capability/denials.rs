//! The files that a plugin asked for in the current call and that are not granted. If the call fails because of one,
//! the host writes the error text itself, so that a missing grant reads the same in every language of a plugin.

use crate::Failure;

/// Most paths that are remembered, and most bytes of one path: a plugin may ask for many, and for long ones.
const MOST: usize = 16;
const LONGEST: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Denials {
    paths: Vec<String>,
    /// Whether the plugin's last request was one of them.
    is_last: bool,
}

// === impl Denials ===

impl Denials {
    pub(crate) fn begin_call(&mut self) {
        self.paths.clear();
        self.is_last = false;
    }

    /// Notes a path that no grant covers.
    pub(crate) fn deny(&mut self, path: &str) {
        let path = path.get(..path.floor_char_boundary(LONGEST)).unwrap_or(path);
        self.paths.retain(|other| other != path);
        if self.paths.len() == MOST {
            self.paths.remove(0);
        }
        self.paths.push(path.to_owned());
        self.is_last = true;
    }

    /// Notes that the plugin went on after a denial, if there was one.
    pub(crate) fn go_on(&mut self) {
        self.is_last = false;
    }

    /// Replaces the text of a denial by the host's own text if the plugin's text names a denied path. Any other failure
    /// stays as it is.
    pub(crate) fn told(&self, failure: Failure) -> Failure {
        let Failure::Denied(why) = &failure else { return failure };
        let named = self.paths.iter().filter(|path| why.contains(path.as_str()));
        named.max_by_key(|path| path.len()).map_or(failure, |path| not_granted(path))
    }

    /// Returns the denial that ended a call with a trap: one after which the plugin asked for nothing more. This
    /// happens when a language's runtime gives up because of an exception that nobody caught.
    pub(crate) fn uncaught(&self) -> Option<Failure> {
        self.paths.last().filter(|_| self.is_last).map(|path| not_granted(path))
    }
}

fn not_granted(path: &str) -> Failure {
    Failure::Denied(format!("{path} is not granted; add read = [{path:?}]"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(why: &str) -> Failure {
        Failure::Denied(why.to_owned())
    }

    #[test]
    fn a_denial_that_names_its_path_is_told_in_the_hosts_words() {
        let mut denials = Denials::default();
        denials.deny("/proc/stat");
        denials.deny("/proc/stat2");
        let told = denied(r#"/proc/stat2 is not granted; add read = ["/proc/stat2"]"#);
        assert_eq!(denials.told(denied("/proc/stat2: FileError_Denied()")), told);
        for other in
            [denied("https://example.com is not granted"), Failure::Gone, Failure::Unavailable("/proc/stat".to_owned())]
        {
            assert_eq!(denials.told(other.clone()), other);
        }
        denials.begin_call();
        assert_eq!(denials.told(denied("/proc/stat")), denied("/proc/stat"), "that was another call");
    }

    #[test]
    fn a_trap_is_a_denial_only_right_after_one() {
        let mut denials = Denials::default();
        assert_eq!(denials.uncaught(), None);
        denials.deny("/proc/stat");
        assert_eq!(denials.uncaught(), Some(denied(r#"/proc/stat is not granted; add read = ["/proc/stat"]"#)));
        denials.go_on();
        assert_eq!(denials.uncaught(), None);
    }

    #[test]
    fn paths_without_number_or_end_are_not_kept() {
        let mut denials = Denials::default();
        (0..1000).for_each(|nth| denials.deny(&format!("/{nth}/{}", "ä".repeat(LONGEST))));
        assert_eq!(denials.paths.len(), MOST);
        assert!(denials.paths.iter().all(|path| path.len() <= LONGEST));
    }
}
