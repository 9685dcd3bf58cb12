use super::certificate_verifier::HostCertificateVerifier;
use super::host_address::HostAddress;
use crate::cli::HostArgs;
use crate::config::Config;
use anyhow::{Context as _, Result, bail};
use dropsonde_http::certificates;
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

/// Connects to a host.
#[derive(Debug)]
pub(super) struct Connector {
    /// Certificates to trust beside those that the machine trusts.
    authorities: Vec<CertificateDer<'static>>,
    /// The host's own certificate, from its configuration.
    own: Option<CertificateDer<'static>>,
    /// Files of the client's certificate and key.
    identity: Option<(PathBuf, PathBuf)>,
}

pub(super) trait ClientSocket: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> ClientSocket for S {}

impl Connector {
    pub(super) fn new(args: &HostArgs, config: &Config) -> Result<Self> {
        let authorities = args.ca.as_deref().map(certificates).transpose()?.unwrap_or_default();
        // The host's configuration names its certificate.
        let named = config.tls.cert.as_deref().filter(|_| args.data.config.is_some() && args.url.is_none());
        let own = named.map(certificates).transpose()?.and_then(|chain| chain.into_iter().next());
        Ok(Self { authorities, own, identity: args.cert.clone().zip(args.key.clone()) })
    }

    pub(super) async fn connect(&self, target: &HostAddress) -> Result<Box<dyn ClientSocket>> {
        let unreachable = |error: io::Error| match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
                anyhow::anyhow!("no host answers at {target}; start one with `dropsonde serve`, or name it with --url")
            }
            _ => anyhow::Error::from(error).context(format!("cannot reach {target}")),
        };
        match target {
            HostAddress::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(unreachable)?)),
            HostAddress::Tcp { is_secure, host, port } => {
                let socket = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
                if !is_secure {
                    return Ok(Box::new(socket));
                }
                let name =
                    ServerName::try_from(host.clone()).with_context(|| format!("{host:?} is not a host name"))?;
                match self.tls()?.connect(name, socket).await {
                    Ok(stream) => Ok(Box::new(stream)),
                    Err(error) => bail!(
                        "the TLS handshake with {target} failed: {error}; --ca names a certificate to trust, --cert \
                         and --key one to send, and --url the name that the host's certificate is for"
                    ),
                }
            }
        }
    }

    fn tls(&self) -> Result<TlsConnector> {
        let provider = Arc::new(ring::default_provider());
        let verifier = HostCertificateVerifier::new(provider.clone(), self.authorities.clone(), self.own.clone())?;
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &self.identity {
            None => config.with_no_client_auth(),
            Some((cert, key)) => {
                let private = PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?;
                config.with_client_auth_cert(certificates(cert)?, private)?
            }
        };
        Ok(TlsConnector::from(Arc::new(config)))
    }
}
