//! What an operator says of who is served, and how.

mod auth;
mod http;
mod listen;
mod tls;

pub use auth::AuthConfig;
pub use http::{HttpConfig, OF_CONNECTION};
pub use listen::Listen;
pub use tls::{TlsConfig, TlsVersion};

use dropsonde_engine::options::{Metrics, Snapshot};
use dropsonde_model::{InvalidValue, Right};
use std::path::{Path, PathBuf};

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    pub listen: Listen,
    pub http: HttpConfig,
    pub auth: AuthConfig,
    pub tls: TlsConfig,
    /// Where tokens are made; none where nothing is kept.
    pub data_dir: Option<PathBuf>,
    /// Other machines may connect in plain, and without a token.
    pub insecure: bool,
    /// Where Prometheus scrapes.
    pub metrics_path: String,
    /// Another path of `/v1/snapshot`.
    pub snapshot_path: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            http: HttpConfig::default(),
            auth: AuthConfig::default(),
            tls: TlsConfig::default(),
            data_dir: None,
            insecure: false,
            metrics_path: Metrics::default().path,
            snapshot_path: Snapshot::default().path,
        }
    }
}

impl Options {
    /// Checks what types alone cannot.
    pub fn check(&self) -> Result<(), InvalidValue> {
        self.check_exposure()?;
        self.http.check()?;
        self.auth.check()?;
        self.tls.check()
    }

    /// What other machines can reach is encrypted, and asks who is there.
    fn check_exposure(&self) -> Result<(), InvalidValue> {
        if matches!(self.listen, Listen::Unix(_)) && self.tls.files().is_some() {
            return InvalidValue::of("tls", "is for addresses: a Unix socket is spoken to in plain");
        }
        if !self.listen.is_open() || self.insecure {
            return Ok(());
        }
        let at = format!("other machines can reach {}", self.listen);
        if self.tls.files().is_none() {
            let why = format!(
                "{at}, so it needs TLS and tokens: give [tls] a cert and a key; or listen on a loopback address, or on \
                 unix:PATH, behind a proxy; or say --insecure"
            );
            return InvalidValue::of("listen", &why);
        }
        if self.tls.client_ca.is_none() && self.token_file(Right::Read).is_none() {
            let why = format!(
                "{at}, and there is no data directory to make a token in: name one in auth.read_token_file, have \
                 clients show certificates by tls.client_ca, or say --insecure"
            );
            return InvalidValue::of("listen", &why);
        }
        Ok(())
    }

    /// Where the token that gives a right is; none where there is none: then everybody may read, and nobody else anything.
    pub fn token_file(&self, right: Right) -> Option<PathBuf> {
        let is_wanted =
            right != Right::Read || (self.listen.is_open() && !self.insecure && self.tls.client_ca.is_none());
        let made = || Some(self.data_dir.as_ref().filter(|_| is_wanted)?.join(right.file_name()));
        self.auth.file(right).map(Path::to_owned).or_else(made)
    }

    /// The files of certificates, and the key's.
    pub fn tls_files(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let TlsConfig { cert, key, client_ca, .. } = self.tls.clone();
        [cert, key, client_ca].into_iter().flatten()
    }

    /// The files of all tokens there are.
    pub fn token_files(&self) -> impl Iterator<Item = PathBuf> {
        Right::ALL.into_iter().filter_map(|right| self.token_file(right))
    }
}
