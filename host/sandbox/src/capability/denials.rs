//! Files and HTTP requests that a plugin asked for in the current call and is not granted. If the call fails because
//! of one, the host writes the error text itself, so that a missing grant reads the same in every language of a plugin.

use crate::Failure;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most denials that are remembered, and most bytes of what was denied: a plugin may ask for many things, with long
/// names.
const MOST: usize = 16;
const LONGEST: usize = 4096;

/// The denials of one call. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Denials(Arc<Mutex<CallDenials>>);

#[derive(Debug, Default)]
struct CallDenials {
    denials: Vec<Denial>,
    /// Whether the plugin's last request was one of them.
    is_last: bool,
}

#[derive(Debug)]
struct Denial {
    /// The path or the origin, as the plugin wrote it.
    what: String,
    /// The host's text, which says what to grant.
    why: String,
}

// === impl Denials ===

impl Denials {
    pub(crate) fn begin_call(&self) {
        *self.lock() = CallDenials::default();
    }

    /// Notes a path or an origin that no grant covers. `why`: the text that says so, and what to grant.
    pub(crate) fn deny(&self, what: &str, why: String) {
        let (what, why) = (cut(what, LONGEST), cut(&why, 2 * LONGEST));
        let mut call = self.lock();
        call.denials.retain(|other| other.what != what);
        if call.denials.len() == MOST {
            call.denials.remove(0);
        }
        call.denials.push(Denial { what, why });
        call.is_last = true;
    }

    /// Notes that the plugin went on after a denial, if there was one.
    pub(crate) fn go_on(&self) {
        self.lock().is_last = false;
    }

    /// Replaces the text of a denial by the host's own text if the plugin's text names what was denied. Any other
    /// failure stays as it is.
    pub(crate) fn told(&self, failure: Failure) -> Failure {
        let Failure::Denied(text) = &failure else { return failure };
        let call = self.lock();
        let named = call.denials.iter().filter(|denial| text.contains(&denial.what));
        match named.max_by_key(|denial| denial.what.len()) {
            Some(denial) => Failure::Denied(denial.why.clone()),
            None => failure,
        }
    }

    /// Returns the denial that ended a call with a trap: one after which the plugin asked for nothing more. This
    /// happens when a language's runtime gives up because of an exception that nobody caught.
    pub(crate) fn uncaught(&self) -> Option<Failure> {
        let call = self.lock();
        call.denials.last().filter(|_| call.is_last).map(|denial| Failure::Denied(denial.why.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, CallDenials> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn cut(text: &str, longest: usize) -> String {
    text.get(..text.floor_char_boundary(longest)).unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(why: &str) -> Failure {
        Failure::Denied(why.to_owned())
    }

    fn not_granted(path: &str) -> String {
        format!("{path} is not granted; add read = [{path:?}]")
    }

    #[test]
    fn a_denial_that_names_its_path_is_told_in_the_hosts_words() {
        let denials = Denials::default();
        denials.deny("/proc/stat", not_granted("/proc/stat"));
        denials.deny("/proc/stat2", not_granted("/proc/stat2"));
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
        let denials = Denials::default();
        assert_eq!(denials.uncaught(), None);
        denials.deny("/proc/stat", not_granted("/proc/stat"));
        assert_eq!(denials.uncaught(), Some(denied(r#"/proc/stat is not granted; add read = ["/proc/stat"]"#)));
        denials.go_on();
        assert_eq!(denials.uncaught(), None);
    }

    #[test]
    fn paths_without_number_or_end_are_not_kept() {
        let denials = Denials::default();
        (0..1000).for_each(|nth| denials.deny(&format!("/{nth}/{}", "ä".repeat(LONGEST)), "x".repeat(1 << 20)));
        let call = denials.lock();
        assert_eq!(call.denials.len(), MOST);
        assert!(call.denials.iter().all(|denial| denial.what.len() <= LONGEST && denial.why.len() <= 2 * LONGEST));
    }
}
