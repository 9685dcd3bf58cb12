use dropsonde_model::Right;
use dropsonde_model::{InvalidValue, Span};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `[auth]`: where tokens are. A file that is not there is made, for this user alone.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// None: reading needs no token where only this machine can connect, or whoever connects has shown a certificate; else
    /// it is `read.token` in the data directory.
    pub read_token_file: Option<PathBuf>,
    /// None: `write.token` in the data directory.
    pub write_token_file: Option<PathBuf>,
    /// None: `admin.token` in the data directory.
    pub admin_token_file: Option<PathBuf>,
    /// How long a browser that has logged in may read.
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
    /// The operator's own file.
    pub fn file(&self, right: Right) -> Option<&Path> {
        match right {
            Right::Read => self.read_token_file.as_deref(),
            Right::Write => self.write_token_file.as_deref(),
            Right::Admin => self.admin_token_file.as_deref(),
        }
    }

    /// Whether the operator names this one.
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
