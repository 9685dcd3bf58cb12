//! TLS, with a certificate and a key from files. Both sides agree on HTTP/2 or HTTP/1.1.

use crate::options::{TlsConfig, TlsVersion};
use anyhow::{Context, Result, anyhow};
use dropsonde_model::text;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::time_provider::TimeProvider;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The protocols that the host offers, best first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

const V1_2_AND_LATER: &[&SupportedProtocolVersion] = &[&version::TLS13, &version::TLS12];
const V1_3: &[&SupportedProtocolVersion] = &[&version::TLS13];

/// Accepts TLS connections. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    certificate: CertificateDer<'static>,
    /// A hash of what clients have to show and speak.
    demands: blake3::Hash,
}

impl Tls {
    /// Reads the certificates and the key. Returns none if the configuration names no certificate.
    pub fn read(config: &TlsConfig) -> Result<Option<Self>> {
        let Some((cert, key)) = config.files() else { return Ok(None) };
        let mut demands = blake3::Hasher::new();
        demands.update(format!("{:?} {}", config.min_version, config.client_ca.is_some()).as_bytes());
        let provider = Arc::new(ring::default_provider());
        let chain = certificates(cert)?;
        let certificate =
            chain.first().context("the file contains no certificate").with_context(|| cannot_use(cert))?.clone();
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(error, key, "private key"))?;
        let versions = match config.min_version {
            TlsVersion::V1_2 => V1_2_AND_LATER,
            TlsVersion::V1_3 => V1_3,
        };
        let builder = ServerConfig::builder_with_details(provider.clone(), Arc::new(TlsClock));
        let builder = builder.with_protocol_versions(versions)?;
        let builder = match &config.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                for root in certificates(ca)? {
                    demands.update(&root);
                    roots.add(root).with_context(|| cannot_use(ca))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
                builder.with_client_cert_verifier(verifier.with_context(|| cannot_use(ca))?)
            }
        };
        let mut tls = builder.with_single_cert(chain, private).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                anyhow!("{}: the key does not belong to the certificate in {}", cannot_use(key), cert.display())
            }
            error => anyhow::Error::from(error).context(cannot_use(key)),
        })?;
        tls.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
        Ok(Some(Self { acceptor: TlsAcceptor::from(Arc::new(tls)), certificate, demands: demands.finalize() }))
    }

    /// Returns a hash that changes if clients have to show another certificate, or none any more, or speak another
    /// version.
    pub(super) fn demands(&self) -> blake3::Hash {
        self.demands
    }

    /// Returns whether the certificate is valid for this host name.
    pub(super) fn is_for(&self, name: &str) -> bool {
        let certificate = ParsedCertificate::try_from(&self.certificate);
        let (Ok(certificate), Ok(name)) = (certificate, ServerName::try_from(name)) else { return false };
        verify_server_name(&certificate, &name).is_ok()
    }

    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, socket: S) -> io::Result<TlsStream<S>> {
        self.acceptor.accept(socket).await
    }
}

/// The wall clock. The one of rustls panics before 1970.
#[derive(Debug)]
struct TlsClock;

impl TimeProvider for TlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(UnixTime::since_unix_epoch(since))
    }
}

/// Returns the subject of the certificate that the client showed, like `CN=ops`.
pub(super) fn subject<S>(stream: &TlsStream<S>) -> Option<Arc<str>> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.subject().to_string().into())
}

/// Reads all certificates in a PEM file, at least one.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|error| unreadable(error, file, "certificate"))?;
    if found.is_empty() {
        return Err(anyhow!("the file contains no certificate")).with_context(|| cannot_use(file));
    }
    Ok(found)
}

/// Returns an error that says why a PEM file cannot be used.
fn unreadable(error: pem::Error, file: &Path, wanted: &str) -> anyhow::Error {
    let why = match error {
        pem::Error::Io(error) => text::os_error(&error),
        pem::Error::NoItemsFound => format!("the file contains no {wanted}"),
        _ => format!("the file is damaged: its text is not a valid {wanted}"),
    };
    anyhow!("{}: {why}", cannot_use(file))
}

fn cannot_use(file: &Path) -> String {
    format!("tls: cannot use {}", file.display())
}
