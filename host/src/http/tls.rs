//! TLS: by a certificate and a key in files; HTTP/2 or HTTP/1.1, as both sides agree.

use crate::config::TlsConfig;
use anyhow::{Context, Result, anyhow};
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

/// What both sides can speak, best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Takes connections over. Cheap to clone.
#[derive(Clone)]
pub struct Tls(TlsAcceptor);

impl Tls {
    /// None: the configuration names no certificate.
    pub fn read(config: &TlsConfig) -> Result<Option<Self>> {
        let Some((certificate, key)) = config.files() else { return Ok(None) };
        let of = |path: &Path| format!("tls: cannot use {}", path.display());
        let certificates = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = certificates.with_context(|| of(certificate))?;
        if certificates.is_empty() {
            return Err(anyhow!("there is no certificate in it")).with_context(|| of(certificate));
        }
        let private = PrivateKeyDer::from_pem_file(key).with_context(|| of(key))?;
        let mut tls = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certificates, private)
            .with_context(|| of(key))?;
        tls.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        Ok(Some(Self(TlsAcceptor::from(Arc::new(tls)))))
    }

    pub(super) async fn accept(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.0.accept(socket).await
    }
}
