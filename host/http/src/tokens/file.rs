use dropsonde_sandbox::replace::{PRIVATE, create_file};
use rustix::fs::OFlags;
use rustix::process::geteuid;
use rustix::rand::{GetRandomFlags, getrandom};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Random bytes of a token; each becomes two characters.
const BYTES: usize = 32;

/// Bytes of a token that cannot be guessed; the host warns of shorter ones.
const SHORT: usize = 16;

/// Bytes of the longest token.
const LONGEST: u64 = 4096;

/// Returns the token in a file. Creates the file if it is missing.
pub(super) fn open(path: &Path) -> io::Result<String> {
    let token = match create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read(path)?,
        // A read-only folder may still hold a token.
        Err(error) => read(path).map_err(|_| error)?,
        made => return made,
    };
    if fs::metadata(path)?.mode() & 0o044 != 0 {
        tracing::warn!(file = %path.display(), "other users can read this token; run chmod go-r on the file");
    }
    if token.len() < SHORT {
        let file = path.display();
        tracing::warn!(%file, "this token is short and could be guessed; make one with `openssl rand -hex 32`");
    }
    Ok(token)
}

/// Reads the token in a file.
pub fn read(path: &Path) -> io::Result<String> {
    // Something else, like a pipe, could block for ever.
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    let mut options = OpenOptions::new();
    let found = options.read(true).custom_flags(nonblocking).open(path)?;
    let about = found.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if ![0, geteuid().as_raw()].contains(&about.uid()) {
        return Err(io::Error::other("the file belongs to another user, who could change the token; run chown on it"));
    }
    if about.mode() & 0o022 != 0 {
        return Err(io::Error::other(
            "other users can change the token, and so could get its right; run chmod go-w on the file",
        ));
    }
    let mut token = String::new();
    found.take(LONGEST + 1).read_to_string(&mut token)?;
    let token = token.trim();
    if token.is_empty() {
        return Err(io::Error::other("the file contains no token; delete it, and the host creates a new one"));
    }
    if token.len() as u64 > LONGEST || !token.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Err(io::Error::other(
            "the file contains no valid token: a token is one line of printable ASCII, at most 4096 bytes long",
        ));
    }
    Ok(token.to_owned())
}

/// Creates a file with a new token: all of it, or nothing.
fn create(path: &Path) -> io::Result<String> {
    if path.exists() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let token = random()?;
    create_file(path, format!("{token}\n").as_bytes(), PRIVATE)?;
    Ok(token)
}

/// Returns a secret that nobody can guess, in hex.
pub(super) fn random() -> io::Result<String> {
    let mut random = [0; BYTES];
    let mut filled = 0;
    while let Some(rest) = random.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += getrandom(rest, GetRandomFlags::empty())?;
    }
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_token_file_that_is_invalid_or_writable_by_others_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let token = open(&path).unwrap();
        assert_eq!(open(&path).unwrap(), token);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o662);
        assert!(open(&path).unwrap_err().to_string().contains("chmod go-w"));
        mode(0o644);
        assert_eq!(open(&path).unwrap(), token, "an operator's own may be in a group's keeping");
        for none in ["", "\n", "two\nlines", "é", &"x".repeat(5000)] {
            std::fs::write(&path, none).unwrap();
            assert!(open(&path).is_err(), "{none:?}");
        }
    }

    #[test]
    fn a_named_pipe_as_token_file_is_refused_without_blocking() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(open(&pipe).unwrap_err().to_string(), "it is not a regular file");
    }
}
