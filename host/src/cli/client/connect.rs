use super::target::Target;
use crate::cli::HostArgs;
use crate::config::Config;
use anyhow::{Context as _, Result, bail};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// The way to a host.
#[derive(Debug)]
pub(super) struct Connector {
    /// To trust beside the machine's.
    authorities: Vec<PathBuf>,
    /// To show.
    identity: Option<(PathBuf, PathBuf)>,
}

pub(super) trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Connection for S {}

impl Connector {
    pub(super) fn new(args: &HostArgs, config: &Config) -> Self {
        // Whoever can read the host's configuration knows its certificate.
        let own = config.tls.cert.iter().filter(|_| args.data.config.is_some());
        Self {
            authorities: args.ca.iter().chain(own).cloned().collect(),
            identity: args.cert.clone().zip(args.key.clone()),
        }
    }

    pub(super) async fn connect(&self, target: &Target) -> Result<Box<dyn Connection>> {
        let unreachable = |error: io::Error| match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
                anyhow::anyhow!("no host answers at {target}; start one with `dropsonde serve`, or name it with --url")
            }
            _ => anyhow::Error::from(error).context(format!("cannot reach {target}")),
        };
        match target {
            Target::Unix(path) => Ok(Box::new(UnixStream::connect(path).await.map_err(unreachable)?)),
            Target::Tcp { is_secure, host, port } => {
                let socket = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
                if !is_secure {
                    return Ok(Box::new(socket));
                }
                let name = ServerName::try_from(host.clone()).with_context(|| format!("{host:?} is no host"))?;
                match self.tls()?.connect(name, socket).await {
                    Ok(stream) => Ok(Box::new(stream)),
                    Err(error) => bail!(
                        "no TLS was agreed on with {target}: {error}; --ca names a certificate to trust, and --cert and \
                         --key one to show"
                    ),
                }
            }
        }
    }

    fn tls(&self) -> Result<TlsConnector> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for file in &self.authorities {
            for certificate in certificates(file)? {
                roots.add(certificate).with_context(|| file.display().to_string())?;
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let config = config.with_safe_default_protocol_versions()?.with_root_certificates(roots);
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

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    found.with_context(|| file.display().to_string())
}
