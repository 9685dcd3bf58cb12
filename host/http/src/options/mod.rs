//! The configuration of the HTTP server.

mod auth;
mod http;
mod listen;
mod tls;

pub use auth::AuthConfig;
pub use http::{HttpConfig, OF_CONNECTION};
pub use listen::Listen;
pub use tls::{TlsConfig, TlsVersion};

use dropsonde_engine::options::{MetricsConfig, SnapshotConfig};
use dropsonde_model::{InvalidValue, Right};
use std::path::{Path, PathBuf};

/// The configuration of the HTTP server.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerOptions {
    pub listen: Listen,
    pub http: HttpConfig,
    pub auth: AuthConfig,
    pub tls: TlsConfig,
    /// The directory where tokens are created; none if the host keeps nothing.
    pub data_dir: Option<PathBuf>,
    /// Whether other machines may connect without TLS and without a token.
    pub insecure: bool,
    /// The path that Prometheus scrapes.
    pub metrics_path: String,
    /// A second path for `/v1/snapshot`.
    pub snapshot_path: String,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            http: HttpConfig::default(),
            auth: AuthConfig::default(),
            tls: TlsConfig::default(),
            data_dir: None,
            insecure: false,
            metrics_path: MetricsConfig::default().path,
            snapshot_path: SnapshotConfig::default().path,
        }
    }
}

impl ServerOptions {
    /// Checks what types alone cannot.
    pub fn check(&self) -> Result<(), InvalidValue> {
        self.check_exposure()?;
        self.http.check()?;
        self.auth.check()?;
        self.tls.check()
    }

    /// Refuses a host that other machines can reach without TLS, or without a token or a client certificate.
    fn check_exposure(&self) -> Result<(), InvalidValue> {
        if matches!(self.listen, Listen::Unix(_)) && self.tls.files().is_some() {
            return InvalidValue::of("tls", "cannot be used with a Unix socket; remove it, or listen on an address");
        }
        if !self.listen.is_open() || self.insecure {
            return Ok(());
        }
        let at = format!("other machines can reach {}", self.listen);
        if self.tls.files().is_none() {
            let why = format!(
                "{at}, so it needs TLS and tokens: set tls.cert and tls.key; or listen on a loopback address, or on \
                 unix:PATH, behind a proxy; or use --insecure"
            );
            return InvalidValue::of("listen", &why);
        }
        if self.tls.client_ca.is_none() && self.token_file(Right::Read).is_none() {
            let why = format!(
                "{at}, and there is no data directory for a read token: set auth.read_token_file, require client \
                 certificates with tls.client_ca, or use --insecure"
            );
            return InvalidValue::of("listen", &why);
        }
        Ok(())
    }

    /// Returns the file of the token for a right; none if there is no such token. Without a read token everybody may
    /// read. Without another token, only a token that allows more gives its right.
    pub fn token_file(&self, right: Right) -> Option<PathBuf> {
        let is_wanted =
            right != Right::Read || (self.listen.is_open() && !self.insecure && self.tls.client_ca.is_none());
        let made = || Some(self.data_dir.as_ref().filter(|_| is_wanted)?.join(right.file_name()));
        self.auth.file(right).map(Path::to_owned).or_else(made)
    }

    /// Returns the files of the certificates and of the key.
    pub fn tls_files(&self) -> impl Iterator<Item = PathBuf> + use<> {
        let TlsConfig { cert, key, client_ca, .. } = self.tls.clone();
        [cert, key, client_ca].into_iter().flatten()
    }

    /// Returns the files of all tokens.
    pub fn token_files(&self) -> impl Iterator<Item = PathBuf> {
        Right::ALL.into_iter().filter_map(|right| self.token_file(right))
    }
}
