use dropsonde_model::InvalidValue;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// `[tls]`: certificates. Without a certificate and a key, the host serves HTTP without encryption.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// A PEM file with the host's own certificate, followed by the certificates that signed it.
    pub cert: Option<PathBuf>,
    /// A PEM file with the private key of the certificate.
    pub key: Option<PathBuf>,
    /// A PEM file with certificate authorities: every client must show a certificate that one of them signed. None:
    /// clients need no certificate.
    pub client_ca: Option<PathBuf>,
    /// The oldest version of TLS that clients may speak.
    pub min_version: TlsVersion,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    V1_2,
    #[serde(rename = "1.3")]
    V1_3,
}

impl TlsConfig {
    /// Returns the files of the certificate and of the key.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        Some((self.cert.as_deref()?, self.key.as_deref()?))
    }

    pub fn check(&self) -> Result<(), InvalidValue> {
        if self.cert.is_some() != self.key.is_some() {
            return InvalidValue::of("tls", "needs a cert and a key, or neither");
        }
        if self.client_ca.is_some() && self.cert.is_none() {
            return InvalidValue::of(
                "tls.client_ca",
                "needs tls.cert and tls.key: clients can show certificates only over TLS",
            );
        }
        Ok(())
    }
}
