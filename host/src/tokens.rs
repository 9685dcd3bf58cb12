//! Who may change something: whoever shows a token, which only this user can read.

use rustix::rand::{GetRandomFlags, getrandom};
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Of randomness; each is two characters of a token.
const BYTES: usize = 32;

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// To say what happened.
    Write,
    /// To change plugins, and all else.
    Admin,
}

/// The tokens of a host, by their hashes; none where nothing is kept.
#[derive(Debug)]
pub struct Tokens(Option<Hashes>);

#[derive(Debug)]
struct Hashes {
    write: blake3::Hash,
    admin: blake3::Hash,
}

/// Why something is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// This host has no token anyone could show.
    Never,
    Missing,
    Wrong,
}

impl Right {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl Tokens {
    /// Those there are in a data directory; made where there are none.
    pub fn open(data: Option<&Path>) -> io::Result<Self> {
        let Some(data) = data else { return Ok(Self(None)) };
        let hash = |right| {
            let token = match create(&file(data, right)) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => read(data, right)?,
                made => made?,
            };
            Ok::<_, io::Error>(blake3::hash(token.as_bytes()))
        };
        let named = |right: Right| {
            hash(right)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file(data, right).display())))
        };
        Ok(Self(Some(Hashes { write: named(Right::Write)?, admin: named(Right::Admin)? })))
    }

    /// Whether the `Authorization` of a request gives it a right.
    pub fn check(&self, right: Right, authorization: Option<&[u8]>) -> Result<(), Refusal> {
        let Hashes { write, admin } = self.0.as_ref().ok_or(Refusal::Never)?;
        let shown = authorization.and_then(bearer).ok_or(Refusal::Missing)?;
        // Hashes compare in constant time.
        let shown = blake3::hash(shown);
        let is_enough = shown == *admin || (right == Right::Write && shown == *write);
        if is_enough { Ok(()) } else { Err(Refusal::Wrong) }
    }
}

/// The scheme's name is of either case (RFC 9110).
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// Where a host with this data directory has a token.
pub fn file(data: &Path, right: Right) -> PathBuf {
    data.join(format!("{}.token", right.as_str()))
}

/// A token of the host with this data directory.
pub fn read(data: &Path, right: Right) -> io::Result<String> {
    let mut found = std::fs::File::open(file(data, right))?;
    let known = found.metadata()?;
    if known.mode() & 0o077 != 0 {
        return Err(io::Error::other(
            "others can read or change it: chmod 600 it, or delete it, and a new one is made",
        ));
    }
    let mut token = String::new();
    found.read_to_string(&mut token)?;
    // Half a token is none, and an empty one would let everybody in.
    if token.trim().len() < 2 * BYTES {
        return Err(io::Error::other("there is no whole token in it; delete it, and a new one is made"));
    }
    Ok(token.trim().to_owned())
}

fn create(path: &Path) -> io::Result<String> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut random = [0; BYTES];
    let mut filled = 0;
    while let Some(rest) = random.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += getrandom(rest, GetRandomFlags::empty())?;
    }
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(file, "{token}")?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn tokens_are_made_once_and_for_this_user_alone() {
        let data = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(Some(data.path())).unwrap();
        for right in [Right::Write, Right::Admin] {
            let token = read(data.path(), right).unwrap();
            let shown = format!("bearer {token}");
            assert_eq!((token.len(), tokens.check(right, Some(shown.as_bytes()))), (64, Ok(())));
            let mode = file(data.path(), right).metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let again = Tokens::open(Some(data.path())).unwrap();
            assert_eq!(again.check(right, Some(shown.as_bytes())), Ok(()));
        }
    }

    #[test]
    fn the_admins_token_allows_to_write_and_not_the_other_way_round() {
        let data = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(Some(data.path())).unwrap();
        let shown = |right| format!("Bearer {}", read(data.path(), right).unwrap());
        assert_eq!(tokens.check(Right::Write, Some(shown(Right::Admin).as_bytes())), Ok(()));
        assert_eq!(tokens.check(Right::Admin, Some(shown(Right::Write).as_bytes())), Err(Refusal::Wrong));
    }

    #[test]
    fn whoever_shows_none_or_another_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(Some(data.path())).unwrap();
        for right in [Right::Write, Right::Admin] {
            assert_eq!(tokens.check(right, None), Err(Refusal::Missing));
            assert_eq!(tokens.check(right, Some(b"Basic abc")), Err(Refusal::Missing));
            assert_eq!(tokens.check(right, Some(b"Bearer ")), Err(Refusal::Wrong));
            assert_eq!(Tokens::open(None).unwrap().check(right, Some(b"Bearer x")), Err(Refusal::Never));
        }
    }

    #[test]
    fn a_file_that_is_cut_or_that_others_can_change_is_no_token() {
        let data = tempfile::tempdir().unwrap();
        Tokens::open(Some(data.path())).unwrap();
        let (path, token) = (file(data.path(), Right::Admin), read(data.path(), Right::Admin).unwrap());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = Tokens::open(Some(data.path())).unwrap_err().to_string();
        assert!(refused.contains("admin.token") && refused.contains("chmod 600"), "{refused}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Tokens::open(Some(data.path())).is_ok());
        for cut in ["", &token[..63]] {
            std::fs::write(&path, cut).unwrap();
            assert!(Tokens::open(Some(data.path())).is_err(), "{cut:?}");
        }
    }
}
