//! Records when the clock was set, so that readers of history can tell why rows lie where they do.

use crate::Store;
use crate::codec::{ByteReader, put_i64};

/// The key of the note that holds all jumps.
pub(crate) const NOTE: &str = "clock/jumps";

/// Maximum number of recorded jumps. Beyond it the oldest are dropped.
const MOST: usize = 32;

/// One time that the wall clock was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockJump {
    /// The time by the clock after it was set, in milliseconds since 1970 UTC.
    pub at_ms: i64,
    /// By how much the clock was set, in milliseconds; negative if it was set back.
    pub by_ms: i64,
}

impl Store {
    /// Records that the clock was set.
    pub fn clock_jumped(&self, jump: ClockJump) {
        let mut jumps = self.clock_jumps();
        jumps.push(jump);
        let over = jumps.len().saturating_sub(MOST);
        let mut value = Vec::new();
        for ClockJump { at_ms, by_ms } in jumps.into_iter().skip(over) {
            put_i64(&mut value, at_ms);
            put_i64(&mut value, by_ms);
        }
        // A few bytes always fit.
        let _ = self.note(NOTE, Some(value));
    }

    /// Returns the last times that the clock was set, the oldest first.
    pub fn clock_jumps(&self) -> Vec<ClockJump> {
        self.notes(NOTE).first().map(|(_, value)| read(value)).unwrap_or_default()
    }
}

pub(crate) fn read(value: &[u8]) -> Vec<ClockJump> {
    let mut reader = ByteReader(value);
    let next = || Some(ClockJump { at_ms: reader.i64().ok()?, by_ms: reader.i64().ok()? });
    std::iter::from_fn(next).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreLimits;

    #[test]
    fn the_last_32_clock_jumps_are_kept_oldest_first() {
        let store = Store::in_memory(&StoreLimits::default());
        assert_eq!(store.clock_jumps(), []);
        for nth in 0..40 {
            store.clock_jumped(ClockJump { at_ms: nth, by_ms: -nth });
        }
        let jumps = store.clock_jumps();
        assert_eq!((jumps.len(), jumps[0].at_ms, jumps[31].by_ms), (MOST, 8, -39));
        assert_eq!(read(b"\xff"), []);
    }
}
