//! Who may change something: whoever shows the admin token, which only this user can read.

use rustix::rand::{GetRandomFlags, getrandom};
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// In the data directory.
const FILE: &str = "admin.token";

/// Of randomness; each is two characters of the token.
const BYTES: usize = 32;

/// The token of a host, by its hash; none where nothing is kept.
#[derive(Debug)]
pub struct Admin(Option<blake3::Hash>);

/// Why something is not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// This host has no token anyone could show.
    Never,
    Missing,
    Wrong,
}

impl Admin {
    /// The token there is in a data directory; made if there is none.
    pub fn open(data: Option<&Path>) -> io::Result<Self> {
        let Some(data) = data else { return Ok(Self(None)) };
        let made = create(&data.join(FILE));
        let token = match made {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => read(data)?,
            made => made?,
        };
        Ok(Self(Some(blake3::hash(token.as_bytes()))))
    }

    /// Whether the `Authorization` of a request may change something.
    pub fn check(&self, authorization: Option<&[u8]>) -> Result<(), Refusal> {
        let expected = self.0.ok_or(Refusal::Never)?;
        let shown = authorization.and_then(|value| value.strip_prefix(b"Bearer ")).ok_or(Refusal::Missing)?;
        // Hashes compare in constant time.
        if blake3::hash(shown) == expected { Ok(()) } else { Err(Refusal::Wrong) }
    }
}

/// Where a host with this data directory has its token.
pub fn file(data: &Path) -> PathBuf {
    data.join(FILE)
}

/// The token of the host with this data directory.
pub fn read(data: &Path) -> io::Result<String> {
    let mut found = std::fs::File::open(file(data))?;
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
    fn the_token_is_made_once_and_for_this_user_alone() {
        let data = tempfile::tempdir().unwrap();
        let admin = Admin::open(Some(data.path())).unwrap();
        let token = read(data.path()).unwrap();
        assert_eq!((token.len(), admin.check(Some(format!("Bearer {token}").as_bytes()))), (64, Ok(())));
        let mode = file(data.path()).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Admin::open(Some(data.path())).unwrap();
        assert_eq!(again.check(Some(format!("Bearer {token}").as_bytes())), Ok(()));
    }

    #[test]
    fn whoever_shows_none_or_another_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let admin = Admin::open(Some(data.path())).unwrap();
        assert_eq!(admin.check(None), Err(Refusal::Missing));
        assert_eq!(admin.check(Some(b"Basic abc")), Err(Refusal::Missing));
        assert_eq!(admin.check(Some(b"Bearer ")), Err(Refusal::Wrong));
        assert_eq!(Admin::open(None).unwrap().check(Some(b"Bearer x")), Err(Refusal::Never));
    }

    #[test]
    fn a_file_that_is_cut_or_that_others_can_change_is_no_token() {
        let data = tempfile::tempdir().unwrap();
        Admin::open(Some(data.path())).unwrap();
        let (path, token) = (file(data.path()), read(data.path()).unwrap());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Admin::open(Some(data.path())).unwrap_err().to_string().contains("chmod 600"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(Admin::open(Some(data.path())).is_ok());
        for cut in ["", &token[..63]] {
            std::fs::write(&path, cut).unwrap();
            assert!(Admin::open(Some(data.path())).is_err(), "{cut:?}");
        }
    }
}
