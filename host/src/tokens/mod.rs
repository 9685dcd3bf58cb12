//! Who may do what: whoever shows a token. A browser that showed one is given a session, which may read.
//!
//! # Layout
//!
//! * `file`: a token on disk; `sessions`: browsers that have logged in.

mod file;
mod sessions;

pub use file::read;
pub use sessions::Session;

use crate::config::Config;
use arc_swap::ArcSwap;
use sessions::Sessions;
use std::io;
use std::path::Path;
use std::time::Instant;

/// What a token allows; one that allows more allows less, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    Read,
    /// To say what happened.
    Write,
    /// To change plugins, and all else.
    Admin,
}

/// The tokens of a host, by their hashes.
#[derive(Debug)]
pub struct Tokens {
    known: ArcSwap<Known>,
    sessions: Sessions,
}

/// None: there is no token for this.
#[derive(Debug, PartialEq)]
struct Known {
    read: Option<blake3::Hash>,
    write: Option<blake3::Hash>,
    admin: Option<blake3::Hash>,
}

/// What someone showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    Nothing,
    /// No token of this host's.
    Unknown,
    Token(Right),
}

/// Why something is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// This host has no token anyone could show.
    Never,
    Missing,
    Wrong,
    /// It is one of this host's, for less.
    TooLittle(Right),
}

// === impl Right ===

impl Right {
    /// From least to most.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    /// Of its token, in the data directory.
    pub fn file_name(self) -> String {
        format!("{}.token", self.as_str())
    }
}

// === impl Tokens ===

impl Tokens {
    /// Those there are; made where there are none.
    pub fn open(config: &Config) -> io::Result<Self> {
        Ok(Self { known: ArcSwap::from_pointee(Known::open(config)?), sessions: Sessions::default() })
    }

    /// Takes over those there are now; sessions of others end. Without all of them everything stays as it is.
    pub fn reload(&self, config: &Config) -> io::Result<()> {
        let known = Known::open(config)?;
        if known != **self.known.load() {
            self.known.store(known.into());
            self.sessions.clear();
        }
        Ok(())
    }

    /// Whether reading needs a token.
    pub fn guard_reads(&self) -> bool {
        self.known.load().read.is_some()
    }

    /// What a token allows, if it is one of this host's.
    pub fn recognize(&self, token: &[u8]) -> Shown {
        // Hashes compare in constant time.
        let (shown, known) = (blake3::hash(token), self.known.load());
        let is = |right: &Right| known.of(*right).is_some_and(|hash| hash == shown);
        Right::ALL.into_iter().rev().find(is).map_or(Shown::Unknown, Shown::Token)
    }

    /// Whether what was shown is enough.
    pub fn check(&self, needed: Right, shown: Shown) -> Result<(), Refusal> {
        match shown {
            Shown::Token(right) if right >= needed => Ok(()),
            _ if needed == Right::Read && !self.guard_reads() => Ok(()),
            _ if !self.known.load().allow(needed) => Err(Refusal::Never),
            Shown::Token(right) => Err(Refusal::TooLittle(right)),
            Shown::Unknown => Err(Refusal::Wrong),
            Shown::Nothing => Err(Refusal::Missing),
        }
    }

    /// A session for whoever has shown a token.
    pub fn begin_session(&self, config: &Config) -> io::Result<Session> {
        self.sessions.begin(config.auth.login_lifetime.get(), Instant::now())
    }

    /// Whether a session with this secret has begun, and neither ended nor expired.
    pub fn is_session(&self, secret: &[u8]) -> bool {
        self.sessions.has(secret, Instant::now())
    }

    pub fn end_session(&self, secret: &[u8]) {
        self.sessions.end(secret);
    }
}

// === impl Known ===

impl Known {
    fn open(config: &Config) -> io::Result<Self> {
        let hash = |right| {
            let Some(path) = config.token_file(right) else { return Ok(None) };
            let token = file::open(&path).map_err(|error| named(&path, &error))?;
            Ok::<_, io::Error>(Some(blake3::hash(token.as_bytes())))
        };
        Ok(Self { read: hash(Right::Read)?, write: hash(Right::Write)?, admin: hash(Right::Admin)? })
    }

    fn of(&self, right: Right) -> Option<blake3::Hash> {
        match right {
            Right::Read => self.read,
            Right::Write => self.write,
            Right::Admin => self.admin,
        }
    }

    /// Whether there is any token that would do.
    fn allow(&self, right: Right) -> bool {
        Right::ALL.into_iter().any(|other| other >= right && self.of(other).is_some())
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AuthConfig;
    use std::os::unix::fs::PermissionsExt as _;
    use tempfile::TempDir;

    /// A host that only this machine reaches.
    fn local(data: &TempDir) -> Config {
        Config { data_dir: Some(data.path().to_owned()), ..Config::default() }
    }

    /// One that wants a token from readers, too.
    fn guarded(data: &TempDir) -> Config {
        let auth = AuthConfig { read_token_file: Some(data.path().join("read.token")), ..AuthConfig::default() };
        Config { auth, ..local(data) }
    }

    fn token(data: &TempDir, right: Right) -> String {
        read(&data.path().join(right.file_name())).unwrap()
    }

    #[test]
    fn tokens_are_made_once_and_for_this_user_alone() {
        let data = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(&guarded(&data)).unwrap();
        for right in Right::ALL {
            let token = token(&data, right);
            assert_eq!((token.len(), tokens.recognize(token.as_bytes())), (64, Shown::Token(right)));
            let mode = data.path().join(right.file_name()).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let again = Tokens::open(&guarded(&data)).unwrap();
            assert_eq!(again.recognize(token.as_bytes()), Shown::Token(right));
        }
    }

    #[test]
    fn a_token_that_allows_more_allows_less_and_not_the_other_way_round() {
        let data = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(&guarded(&data)).unwrap();
        for shown in Right::ALL {
            for needed in Right::ALL {
                let expected = if shown >= needed { Ok(()) } else { Err(Refusal::TooLittle(shown)) };
                assert_eq!(tokens.check(needed, Shown::Token(shown)), expected);
            }
        }
    }

    #[test]
    fn whoever_shows_none_or_another_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(&guarded(&data)).unwrap();
        for other in [&b""[..], b"guessed", &[0xff]] {
            assert_eq!(tokens.recognize(other), Shown::Unknown);
        }
        for right in Right::ALL {
            assert_eq!(tokens.check(right, Shown::Nothing), Err(Refusal::Missing));
            assert_eq!(tokens.check(right, Shown::Unknown), Err(Refusal::Wrong));
        }
    }

    #[test]
    fn without_a_token_of_their_own_everybody_may_read_and_nobody_write() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(Tokens::open(&local(&data)).unwrap().check(Right::Read, Shown::Nothing), Ok(()));
        let mut nothing = local(&data);
        nothing.store.memory_only = true;
        let tokens = Tokens::open(&nothing).unwrap();
        assert_eq!(tokens.check(Right::Read, Shown::Unknown), Ok(()));
        assert_eq!(tokens.check(Right::Write, Shown::Unknown), Err(Refusal::Never));
        nothing.auth.admin_token_file = Some(data.path().join("mine"));
        let tokens = Tokens::open(&nothing).unwrap();
        assert_eq!(tokens.check(Right::Write, Shown::Nothing), Err(Refusal::Missing), "an admin may");
    }

    #[test]
    fn other_tokens_take_over_and_end_sessions_and_a_bad_file_changes_nothing() {
        let data = tempfile::tempdir().unwrap();
        let config = guarded(&data);
        let tokens = Tokens::open(&config).unwrap();
        let before = token(&data, Right::Read);
        let session = tokens.begin_session(&config).unwrap();
        tokens.reload(&config).unwrap();
        assert!(tokens.is_session(session.secret().as_bytes()), "nothing is other");
        let path = data.path().join("read.token");
        std::fs::write(&path, "").unwrap();
        assert!(tokens.reload(&config).is_err());
        assert_eq!(tokens.recognize(before.as_bytes()), Shown::Token(Right::Read));
        std::fs::write(&path, "an operator's own token").unwrap();
        tokens.reload(&config).unwrap();
        assert_eq!(tokens.recognize(before.as_bytes()), Shown::Unknown);
        assert_eq!(tokens.recognize(b"an operator's own token"), Shown::Token(Right::Read));
        assert!(!tokens.is_session(session.secret().as_bytes()));
    }
}
