use super::file::random;
use std::collections::HashMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The largest number of sessions. Beyond this the session that would expire first ends.
const MOST: usize = 1000;

/// The sessions of browsers, by the hash of their secrets.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<[u8; 32], OpenSession>>);

#[derive(Debug)]
struct OpenSession {
    /// The generation of the tokens when the session began.
    generation: u64,
    ends: Instant,
}

/// The session of a browser: a secret that the browser shows from now on.
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
    pub(super) fn begin(&self, generation: u64, lifetime: Duration, now: Instant) -> io::Result<Session> {
        let secret = random()?;
        let mut all = self.lock();
        all.retain(|_, begun| begun.ends > now && begun.generation == generation);
        if all.len() >= MOST
            && let Some(first) = all.iter().min_by_key(|(_, begun)| begun.ends).map(|(key, _)| *key)
        {
            all.remove(&first);
        }
        all.insert(key(secret.as_bytes()), OpenSession { generation, ends: now + lifetime });
        Ok(Session { secret, lifetime })
    }

    pub(super) fn has(&self, secret: &[u8], generation: u64, now: Instant) -> bool {
        let all = self.lock();
        all.get(&key(secret)).is_some_and(|begun| begun.ends > now && begun.generation == generation)
    }

    pub(super) fn end(&self, secret: &[u8]) {
        self.lock().remove(&key(secret));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], OpenSession>> {
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
    fn a_session_is_valid_until_logout_expiry_or_a_change_of_tokens() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let [one, other] = [(); 2].map(|()| sessions.begin(7, HOUR, now).unwrap());
        let has = |session: &Session, generation, now| sessions.has(session.secret().as_bytes(), generation, now);
        assert!(has(&one, 7, now) && !sessions.has(b"guessed", 7, now));
        assert!(!has(&one, 7, now + HOUR) && !has(&one, 8, now));
        sessions.end(one.secret().as_bytes());
        assert!(!has(&one, 7, now) && has(&other, 7, now));
    }

    #[test]
    fn beyond_the_limit_of_sessions_the_first_to_expire_ends() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let first = sessions.begin(0, HOUR, now).unwrap();
        (0..MOST).for_each(|_| drop(sessions.begin(0, HOUR * 2, now).unwrap()));
        assert_eq!(sessions.lock().len(), MOST);
        assert!(!sessions.has(first.secret().as_bytes(), 0, now));
    }
}
