use dropsonde_model::InvalidValue;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// `[tls]`: without a certificate and a key, HTTP is in plain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM: the host's own certificate first, then those it is signed by.
    pub cert: Option<PathBuf>,
    /// PEM: its private key.
    pub key: Option<PathBuf>,
    /// PEM: who connects shows a certificate that one of these has signed. None: nobody has to.
    pub client_ca: Option<PathBuf>,
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
    /// The certificate's and the key's.
    pub fn files(&self) -> Option<(&Path, &Path)> {
        Some((self.cert.as_deref()?, self.key.as_deref()?))
    }

    pub fn check(&self) -> Result<(), InvalidValue> {
        if self.cert.is_some() != self.key.is_some() {
            return InvalidValue::of("tls", "has a cert and a key, or neither");
        }
        if self.client_ca.is_some() && self.cert.is_none() {
            return InvalidValue::of("tls.client_ca", "needs a cert and a key: certificates are shown over TLS alone");
        }
        Ok(())
    }
}
