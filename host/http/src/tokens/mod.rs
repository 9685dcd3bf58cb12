//! Authentication: a client shows a token. A browser that has shown one gets a session, which may read.
//!
//! # Layout
//!
//! * `file`: a token on disk; `sessions`: browsers that have logged in; `login_limit`: the limit of wrong attempts.

mod file;
mod login_limit;
mod sessions;

pub use file::read;
pub(crate) use login_limit::TooManyWrong;
pub use sessions::Session;

use crate::ServerOptions;
use arc_swap::ArcSwap;
use dropsonde_engine::disk_errors::{is_denied, is_unwritable};
use dropsonde_engine::quota::ClientId;
use dropsonde_model::Right;
use login_limit::AttemptLimiter;
use sessions::Sessions;
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Instant;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The tokens of a host, as hashes.
#[derive(Debug)]
pub struct Tokens {
    known: ArcSwap<TokenHashes>,
    sessions: Sessions,
    attempts: AttemptLimiter,
    /// Wrong tokens of requests. They are counted apart from logins: a client that sends wrong tokens may still log in.
    wrong: AttemptLimiter,
    /// The reason why the tokens could not be read again.
    complaint: std::sync::Mutex<Option<String>>,
    /// Locked while tokens are read and taken over: older tokens never replace newer ones.
    changing: Arc<Mutex<()>>,
    /// The hash of a token that nobody knows.
    nobody: blake3::Hash,
}

/// The tokens that are in force, as hashes. None: there is no token for this right.
#[derive(Debug)]
pub struct TokenHashes {
    /// Changes with the tokens.
    generation: u64,
    /// Whether clients must show a certificate. It is enough to read if there is no read token.
    wants_certificate: bool,
    read: Option<blake3::Hash>,
    write: Option<blake3::Hash>,
    admin: Option<blake3::Hash>,
    /// The tokens that could not be created, and the reasons.
    trouble: Vec<String>,
}

/// The token that a client showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownToken {
    Nothing,
    /// A token that is not one of this host's.
    Unknown,
    Token(Right),
}

/// The reason to refuse a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessRefusal {
    /// This host has no token that would be enough.
    Never,
    /// The request needs no token, but a certificate.
    NoCertificate,
    Missing,
    Wrong,
    /// The token is one of this host's, but does not allow this.
    TooLittle(Right),
}

// === impl Tokens ===

impl Tokens {
    /// Reads the tokens and creates missing ones. If a token cannot be created, nobody has its right.
    pub fn open(options: &ServerOptions) -> io::Result<Self> {
        let nobody = blake3::hash(file::random()?.as_bytes());
        let known = TokenHashes::open(options, nobody, true)?;
        known.trouble.iter().for_each(|why| tracing::error!("{why}"));
        Ok(Self {
            known: ArcSwap::from_pointee(known),
            sessions: Sessions::default(),
            attempts: AttemptLimiter::default(),
            wrong: AttemptLimiter::default(),
            complaint: std::sync::Mutex::default(),
            changing: Arc::default(),
            nobody,
        })
    }

    /// Returns which tokens could not be created or read again, and why.
    pub(crate) fn trouble(&self) -> Vec<String> {
        let mut trouble = self.known.load().trouble.clone();
        trouble.extend(self.complaint.lock().unwrap_or_else(PoisonError::into_inner).clone());
        trouble
    }

    /// Returns whether the last try to read or create the tokens failed.
    pub fn has_read_failure(&self) -> bool {
        !self.trouble().is_empty()
    }

    /// Notes why the tokens could not be read again; none if they could. Returns whether this has changed.
    pub fn set_read_failure(&self, why: Option<String>) -> bool {
        let mut complaint = self.complaint.lock().unwrap_or_else(PoisonError::into_inner);
        let is_other = *complaint != why;
        *complaint = why;
        is_other
    }

    /// Locks the tokens for a change. Hold the guard from [`read_again`](Self::read_again) until
    /// [`take_over`](Self::take_over).
    pub async fn change(&self) -> OwnedMutexGuard<()> {
        self.changing.clone().lock_owned().await
    }

    /// Reads the tokens again, for [`take_over`](Self::take_over). May have to wait for a disk.
    pub fn read_again(&self, options: &ServerOptions) -> io::Result<TokenHashes> {
        let now = self.known.load();
        // Tokens that were read once stay in force if they can no longer be read.
        let known = TokenHashes::open(options, self.nobody, !now.trouble.is_empty())?;
        let is_same = Right::ALL.into_iter().all(|right| now.of(right) == known.of(right))
            && now.wants_certificate == known.wants_certificate;
        Ok(TokenHashes { generation: now.generation + u64::from(!is_same), ..known })
    }

    /// Puts tokens in force. If they are other ones, all sessions end. Returns whether they are.
    pub fn take_over(&self, known: TokenHashes) -> bool {
        let generation = known.generation;
        let are_others = self.known.swap(known.into()).generation != generation;
        if are_others {
            // A wrong token may be one of the new ones, or may have been right a moment ago.
            self.wrong.forget();
        }
        are_others
    }

    /// Returns whether a token is one of this host's, and its right.
    pub fn recognize(&self, token: &[u8]) -> ShownToken {
        self.known.load().recognize(token)
    }

    /// Checks whether the token or the certificate is enough.
    pub fn check(&self, needed: Right, shown: ShownToken, has_certificate: bool) -> Result<(), AccessRefusal> {
        let known = self.known.load();
        match shown {
            ShownToken::Token(right) if right >= needed => Ok(()),
            _ if needed == Right::Read && known.read.is_none() => {
                if has_certificate || !known.wants_certificate {
                    Ok(())
                } else {
                    Err(AccessRefusal::NoCertificate)
                }
            }
            _ if !known.allow(needed) => Err(AccessRefusal::Never),
            ShownToken::Token(right) => Err(AccessRefusal::TooLittle(right)),
            ShownToken::Unknown => Err(AccessRefusal::Wrong),
            ShownToken::Nothing => Err(AccessRefusal::Missing),
        }
    }

    /// Counts a wrong token of a request. Fails if the client has shown too many. Right tokens are never refused for
    /// that.
    pub(crate) fn count_wrong(&self, peer: ClientId) -> Result<(), TooManyWrong> {
        self.wrong.attempt(peer, Instant::now(), || None::<()>).map(drop)
    }

    /// Returns the right of a token that a client logs in with; none if the token is wrong. Fails if the client has
    /// tried too many wrong ones.
    pub(crate) fn attempt(&self, peer: ClientId, token: &[u8]) -> Result<Option<Right>, TooManyWrong> {
        self.attempts.attempt(peer, Instant::now(), || match self.recognize(token) {
            ShownToken::Token(right) => Some(right),
            ShownToken::Nothing | ShownToken::Unknown => None,
        })
    }

    /// Begins a session for a client that shows a token, and returns it with the token's right; none if the token is
    /// wrong.
    pub fn begin_session(&self, token: &[u8], options: &ServerOptions) -> io::Result<Option<(Session, Right)>> {
        let known = self.known.load();
        let ShownToken::Token(right) = known.recognize(token) else { return Ok(None) };
        let session = self.sessions.begin(known.generation, options.auth.login_lifetime.get(), Instant::now())?;
        Ok(Some((session, right)))
    }

    /// Returns whether a session with this secret is open: it has not ended or expired, and the tokens are still the
    /// same.
    pub fn is_session(&self, secret: &[u8]) -> bool {
        self.sessions.has(secret, self.known.load().generation, Instant::now())
    }

    pub fn end_session(&self, secret: &[u8]) {
        self.sessions.end(secret);
    }
}

// === impl TokenHashes ===

impl TokenHashes {
    /// Reads and creates tokens. `without`: the host goes on without a token that its user may not read.
    fn open(options: &ServerOptions, nobody: blake3::Hash, without: bool) -> io::Result<Self> {
        let mut trouble = Vec::new();
        let mut hash = |right: Right| {
            let Some(path) = options.token_file(right) else { return Ok(None) };
            match file::open(&path) {
                Ok(token) => Ok(Some(blake3::hash(token.as_bytes()))),
                Err(error) if is_unwritable(&error) || (without && is_denied(&error)) => {
                    let (right, path) = (right.as_str(), path.display());
                    let what = if is_denied(&error) { "read or make" } else { "make" };
                    trouble.push(format!(
                        "there is no {right} token, and nobody has its right: cannot {what} {path}: {error}"
                    ));
                    // Without a read token everybody could read, so there is one that nobody knows.
                    Ok((right == Right::Read.as_str()).then_some(nobody))
                }
                Err(error) => Err(named(&path, &error)),
            }
        };
        let [read, write, admin] = Right::ALL.map(&mut hash);
        let (read, write, admin) = (read?, write?, admin?);
        let wants_certificate = options.tls.client_ca.is_some();
        Ok(Self { generation: 0, wants_certificate, read, write, admin, trouble })
    }

    fn recognize(&self, token: &[u8]) -> ShownToken {
        // Hashes compare in constant time.
        let shown = blake3::hash(token);
        let is = |right: &Right| self.of(*right).is_some_and(|hash| hash == shown);
        Right::ALL.into_iter().rev().find(is).map_or(ShownToken::Unknown, ShownToken::Token)
    }

    fn of(&self, right: Right) -> Option<blake3::Hash> {
        match right {
            Right::Read => self.read,
            Right::Write => self.write,
            Right::Admin => self.admin,
        }
    }

    /// Returns whether there is a token that gives this right.
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
    use crate::options::AuthConfig;
    use std::os::unix::fs::PermissionsExt as _;
    use tempfile::TempDir;

    /// A host that only this machine reaches.
    fn local(data: &TempDir) -> ServerOptions {
        ServerOptions { data_dir: Some(data.path().to_owned()), ..ServerOptions::default() }
    }

    /// A host that needs a token for reading, too.
    fn guarded(data: &TempDir) -> ServerOptions {
        let auth = AuthConfig { read_token_file: Some(data.path().join("read.token")), ..AuthConfig::default() };
        ServerOptions { auth, ..local(data) }
    }

    fn token(data: &TempDir, right: Right) -> String {
        read(&data.path().join(right.file_name())).unwrap()
    }

    #[test]
    fn missing_tokens_are_created_once_and_readable_by_their_user_alone() {
        let data = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(&guarded(&data)).unwrap();
        for right in Right::ALL {
            let token = token(&data, right);
            assert_eq!((token.len(), tokens.recognize(token.as_bytes())), (64, ShownToken::Token(right)));
            let mode = data.path().join(right.file_name()).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let again = Tokens::open(&guarded(&data)).unwrap();
            assert_eq!(again.recognize(token.as_bytes()), ShownToken::Token(right));
        }
    }

    #[test]
    fn a_token_includes_the_lower_rights_but_not_the_higher_ones() {
        let data = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(&guarded(&data)).unwrap();
        for shown in Right::ALL {
            for needed in Right::ALL {
                let expected = if shown >= needed { Ok(()) } else { Err(AccessRefusal::TooLittle(shown)) };
                assert_eq!(tokens.check(needed, ShownToken::Token(shown), false), expected);
            }
        }
    }

    #[test]
    fn a_missing_or_unknown_token_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(&guarded(&data)).unwrap();
        for other in [&b""[..], b"guessed", &[0xff]] {
            assert_eq!(tokens.recognize(other), ShownToken::Unknown);
        }
        for right in Right::ALL {
            assert_eq!(tokens.check(right, ShownToken::Nothing, false), Err(AccessRefusal::Missing));
            assert_eq!(tokens.check(right, ShownToken::Unknown, false), Err(AccessRefusal::Wrong));
        }
    }

    #[test]
    fn without_tokens_everybody_may_read_and_nobody_may_write() {
        let data = tempfile::tempdir().unwrap();
        assert_eq!(Tokens::open(&local(&data)).unwrap().check(Right::Read, ShownToken::Nothing, false), Ok(()));
        let mut nothing = local(&data);
        nothing.data_dir = None;
        let tokens = Tokens::open(&nothing).unwrap();
        assert_eq!(tokens.check(Right::Read, ShownToken::Unknown, false), Ok(()));
        assert_eq!(tokens.check(Right::Write, ShownToken::Unknown, false), Err(AccessRefusal::Never));
        nothing.auth.admin_token_file = Some(data.path().join("mine"));
        let tokens = Tokens::open(&nothing).unwrap();
        assert_eq!(tokens.check(Right::Write, ShownToken::Nothing, false), Err(AccessRefusal::Missing), "an admin may");
    }

    #[test]
    fn a_required_client_certificate_allows_reading_and_nothing_else() {
        let data = tempfile::tempdir().unwrap();
        let mut options = local(&data);
        options.tls.client_ca = Some("ca.pem".into());
        let tokens = Tokens::open(&options).unwrap();
        let check = |needed, has_certificate| tokens.check(needed, ShownToken::Nothing, has_certificate);
        assert_eq!((check(Right::Read, true), check(Right::Read, false)), (Ok(()), Err(AccessRefusal::NoCertificate)));
        assert_eq!(check(Right::Write, true), Err(AccessRefusal::Missing));
        let tokens = Tokens::open(&ServerOptions { tls: options.tls, ..guarded(&data) }).unwrap();
        assert_eq!(
            tokens.check(Right::Read, ShownToken::Nothing, true),
            Err(AccessRefusal::Missing),
            "both, where both are said"
        );
    }

    #[test]
    fn new_tokens_end_all_sessions_and_an_invalid_token_file_changes_nothing() {
        let data = tempfile::tempdir().unwrap();
        let options = guarded(&data);
        let tokens = Tokens::open(&options).unwrap();
        let before = token(&data, Right::Read);
        let (session, right) = tokens.begin_session(before.as_bytes(), &options).unwrap().unwrap();
        assert_eq!(right, Right::Read);
        assert!(tokens.begin_session(b"guessed", &options).unwrap().is_none());
        let reload = || tokens.read_again(&options).map(|known| tokens.take_over(known));
        assert!(!reload().unwrap());
        assert!(tokens.is_session(session.secret().as_bytes()), "nothing is other");
        let path = data.path().join("read.token");
        std::fs::write(&path, "").unwrap();
        assert!(reload().is_err());
        assert_eq!(tokens.recognize(before.as_bytes()), ShownToken::Token(Right::Read));
        std::fs::write(&path, "an operator's own token").unwrap();
        let wrong = || tokens.count_wrong(ClientId::Unix).is_ok();
        assert_eq!((0..11).filter(|_| wrong()).count(), 10);
        assert!(reload().unwrap() && wrong(), "wrong ones are counted anew");
        assert_eq!(tokens.recognize(before.as_bytes()), ShownToken::Unknown);
        assert_eq!(tokens.recognize(b"an operator's own token"), ShownToken::Token(Right::Read));
        assert!(!tokens.is_session(session.secret().as_bytes()));
    }
}
