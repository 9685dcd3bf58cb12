//! Errors of places that nobody can write to as they are now: read-only, immutable, full, or beyond a limit of the
//! process.

use rustix::io::Errno;
use std::io;

/// Returns whether the operating system denies this user access. Others may have access, and that may change at any
/// time.
pub fn is_denied(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ACCESS.raw_os_error())
}

/// Returns whether the host goes on without writing there. If only this user may not write, [`is_denied`] tells.
pub fn is_unwritable(error: &io::Error) -> bool {
    // Writing into an immutable folder fails with EPERM, not with EACCES, because it is not a question of permissions.
    let because = [Errno::ROFS, Errno::PERM, Errno::NOSPC, Errno::DQUOT, Errno::FBIG];
    error.raw_os_error().is_some_and(|code| because.iter().any(|errno| errno.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_and_full_disks_are_unwritable_and_missing_permission_is_denied() {
        let is = |errno: Errno| is_unwritable(&errno.into());
        assert!([Errno::ROFS, Errno::PERM, Errno::NOSPC, Errno::DQUOT, Errno::FBIG].into_iter().all(is));
        assert!(![Errno::ACCESS, Errno::NOENT, Errno::NOTDIR, Errno::IO].into_iter().any(is));
        assert!(is_denied(&Errno::ACCESS.into()) && !is_denied(&Errno::PERM.into()));
    }
}
