use dropsonde_sandbox::replace::{PRIVATE, create_file};
use rustix::fs::OFlags;
use rustix::process::geteuid;
use rustix::rand::{GetRandomFlags, getrandom};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Of randomness; each is two characters of a token.
const BYTES: usize = 32;

/// Bytes of a token that cannot be guessed; shorter ones are warned of.
const SHORT: usize = 16;

/// Longest token that is one.
const LONGEST: u64 = 4096;

/// The token in a file; made where there is none.
pub(super) fn open(path: &Path) -> io::Result<String> {
    let token = match create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read(path)?,
        // A folder that is read-only may hold one all the same.
        Err(error) => read(path).map_err(|_| error)?,
        made => return made,
    };
    if fs::metadata(path)?.mode() & 0o044 != 0 {
        tracing::warn!(file = %path.display(), "others can read this token: chmod go-r it");
    }
    if token.len() < SHORT {
        let file = path.display();
        tracing::warn!(%file, "this token is short, and might be guessed; `openssl rand -hex 32` makes one");
    }
    Ok(token)
}

/// The token in a file.
pub fn read(path: &Path) -> io::Result<String> {
    // What is no file might have nothing to say for ever.
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    let mut options = OpenOptions::new();
    let found = options.read(true).custom_flags(nonblocking).open(path)?;
    let about = found.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other("it is no file"));
    }
    if ![0, geteuid().as_raw()].contains(&about.uid()) {
        return Err(io::Error::other("it is another user's, who could change what it allows: chown it"));
    }
    if about.mode() & 0o022 != 0 {
        return Err(io::Error::other("others can change it, and so give themselves what it allows: chmod go-w it"));
    }
    let mut token = String::new();
    found.take(LONGEST + 1).read_to_string(&mut token)?;
    let token = token.trim();
    if token.is_empty() {
        return Err(io::Error::other("there is no token in it; delete it, and a new one is made"));
    }
    if token.len() as u64 > LONGEST || !token.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Err(io::Error::other("a token is one line of printable ASCII, and no longer than 4096 bytes"));
    }
    Ok(token.to_owned())
}

/// Whole, or not at all.
fn create(path: &Path) -> io::Result<String> {
    if path.exists() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let token = random()?;
    create_file(path, format!("{token}\n").as_bytes(), PRIVATE)?;
    Ok(token)
}

/// What nobody can guess, in hex.
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
    fn a_file_without_a_token_or_that_others_can_change_is_none() {
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
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        assert_eq!(open(&pipe).unwrap_err().to_string(), "it is no file");
    }
}
