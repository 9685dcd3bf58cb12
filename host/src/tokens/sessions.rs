use super::file::random;
use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Browsers at a time; beyond, the session that would end first does.
const MOST: usize = 1000;

/// Browsers that have logged in, by the hash of what they show: when their sessions end.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<[u8; 32], Instant>>);

/// What a browser shows from now on.
#[derive(Debug)]
pub struct Session {
    secret: String,
    pub lifetime: Duration,
}

impl Session {
    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl Sessions {
    pub(super) fn begin(&self, lifetime: Duration, now: Instant) -> io::Result<Session> {
        let secret = random()?;
        let mut all = self.lock();
        all.retain(|_, ends| *ends > now);
        if all.len() >= MOST
            && let Some(first) = all.iter().min_by_key(|(_, ends)| **ends).map(|(key, _)| *key)
        {
            all.remove(&first);
        }
        all.insert(key(secret.as_bytes()), now + lifetime);
        Ok(Session { secret, lifetime })
    }

    pub(super) fn has(&self, secret: &[u8], now: Instant) -> bool {
        self.lock().get(&key(secret)).is_some_and(|ends| *ends > now)
    }

    pub(super) fn end(&self, secret: &[u8]) {
        self.lock().remove(&key(secret));
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(secret: &[u8]) -> [u8; 32] {
    *blake3::hash(secret).as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_session_lasts_until_it_is_ended_or_over() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let one = sessions.begin(HOUR, now).unwrap();
        let other = sessions.begin(HOUR, now).unwrap();
        assert!(sessions.has(one.secret().as_bytes(), now) && !sessions.has(b"guessed", now));
        assert!(!sessions.has(one.secret().as_bytes(), now + HOUR));
        sessions.end(one.secret().as_bytes());
        assert!(!sessions.has(one.secret().as_bytes(), now));
        assert!(sessions.has(other.secret().as_bytes(), now));
    }

    #[test]
    fn there_are_so_many_at_most() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let first = sessions.begin(HOUR, now).unwrap();
        (0..MOST).for_each(|_| drop(sessions.begin(HOUR * 2, now).unwrap()));
        assert_eq!(sessions.lock().len(), MOST);
        assert!(!sessions.has(first.secret().as_bytes(), now));
    }
}
