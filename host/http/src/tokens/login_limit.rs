//! The limit of wrong logins, or wrong tokens, of each client: after ten within a minute, the client waits until the
//! minute is over.

use dropsonde_engine::quota::ClientId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong attempts of one client within a window.
const MOST_WRONG: u32 = 10;

/// The length of a window. It begins with the first wrong attempt.
const WINDOW: Duration = Duration::from_secs(60);

/// Clients that are remembered. Beyond this the client whose window ends first is forgotten.
const MOST_PEERS: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct AttemptLimiter(Mutex<HashMap<ClientId, WrongAttempts>>);

#[derive(Debug)]
struct WrongAttempts {
    wrong: u32,
    since: Instant,
}

/// The client has had too many wrong attempts, and may try again after this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooManyWrong(pub(crate) Duration);

impl AttemptLimiter {
    /// Forgets the wrong attempts of all clients.
    pub(super) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Makes one attempt of a client, unless the client has had too many wrong ones. If `attempt` returns none, it was
    /// wrong, too.
    pub(super) fn attempt<T>(
        &self,
        peer: ClientId,
        now: Instant,
        attempt: impl FnOnce() -> Option<T>,
    ) -> Result<Option<T>, TooManyWrong> {
        // Locked until the result is known: attempts at the same time count, too.
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = |tried: &WrongAttempts| now.saturating_duration_since(tried.since);
        if let Some(tried) = all.get(&peer) {
            if passed(tried) >= WINDOW {
                all.remove(&peer);
            } else if tried.wrong >= MOST_WRONG {
                return Err(TooManyWrong(WINDOW - passed(tried)));
            }
        }
        let right = attempt();
        if right.is_none() {
            if all.len() >= MOST_PEERS && !all.contains_key(&peer) {
                all.retain(|_, tried| passed(tried) < WINDOW);
                let oldest = all.iter().min_by_key(|(_, tried)| tried.since).map(|(peer, _)| *peer);
                if let Some(oldest) = oldest.filter(|_| all.len() >= MOST_PEERS) {
                    all.remove(&oldest);
                }
            }
            all.entry(peer).or_insert(WrongAttempts { wrong: 0, since: now }).wrong += 1;
        }
        Ok(right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn peer(nth: u32) -> ClientId {
        ClientId::Ip(Ipv4Addr::from_bits(nth).into())
    }

    #[test]
    fn a_client_with_too_many_wrong_attempts_waits_and_other_clients_do_not() {
        let (attempts, now) = (AttemptLimiter::default(), Instant::now());
        let [wrong, right] = [None, Some(())];
        for nth in 0..MOST_WRONG {
            assert_eq!(attempts.attempt(peer(1), now, || right), Ok(Some(())), "right ones are never counted");
            assert_eq!(attempts.attempt(peer(1), now + Duration::from_secs(nth.into()), || wrong), Ok(None));
        }
        let later = now + Duration::from_secs(20);
        let refused = attempts.attempt(peer(1), later, || -> Option<()> { unreachable!("it is not tried") });
        assert_eq!(refused, Err(TooManyWrong(Duration::from_secs(40))));
        assert_eq!(attempts.attempt(peer(2), later, || right), Ok(Some(())));
        assert_eq!(attempts.attempt(peer(1), now + WINDOW, || right), Ok(Some(())));
        assert!(!attempts.0.lock().unwrap().contains_key(&peer(1)), "it is forgotten");
    }

    #[test]
    fn beyond_the_limit_of_clients_the_oldest_attempts_are_forgotten() {
        let (attempts, now) = (AttemptLimiter::default(), Instant::now());
        for nth in 0..=MOST_PEERS as u32 {
            let at = now + Duration::from_micros(nth.into());
            assert_eq!(attempts.attempt(peer(nth), at, || None::<()>), Ok(None));
        }
        let all = attempts.0.lock().unwrap();
        assert_eq!((all.len(), all.contains_key(&peer(0))), (MOST_PEERS, false));
    }
}
