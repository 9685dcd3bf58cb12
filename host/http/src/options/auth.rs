use dropsonde_model::Right;
use dropsonde_model::{InvalidValue, Span};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `[auth]`: token files, and logins of browsers. The host creates a missing file, for its own user alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// The file of the read token. None: reading needs no token if only this machine can connect, or if every client
    /// shows a certificate; otherwise the file is `read.token` in the data directory.
    pub read_token_file: Option<PathBuf>,
    /// The file of the write token. None: `write.token` in the data directory.
    pub write_token_file: Option<PathBuf>,
    /// The file of the admin token. None: `admin.token` in the data directory.
    pub admin_token_file: Option<PathBuf>,
    /// The time for which a browser may read after its login.
    pub login_lifetime: Span,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            read_token_file: None,
            write_token_file: None,
            admin_token_file: None,
            // A working day.
            login_lifetime: Span::from_secs(12 * 3600),
        }
    }
}

impl AuthConfig {
    /// Returns the file that the operator named for a right.
    pub fn file(&self, right: Right) -> Option<&Path> {
        match right {
            Right::Read => self.read_token_file.as_deref(),
            Right::Write => self.write_token_file.as_deref(),
            Right::Admin => self.admin_token_file.as_deref(),
        }
    }

    /// Returns whether the operator named this file.
    pub fn file_is_named(&self, file: &Path) -> bool {
        Right::ALL.into_iter().any(|right| self.file(right) == Some(file))
    }

    pub fn check(&self) -> Result<(), InvalidValue> {
        let longest = Duration::from_secs(400 * 86_400);
        if !(Duration::from_secs(60)..=longest).contains(&self.login_lifetime.get()) {
            return InvalidValue::of("auth.login_lifetime", "must be at least 1m and at most 400d");
        }
        Ok(())
    }
}
