//! Listening sockets: TCP and Unix.

use super::peer::PeerAddress;
use crate::options::Listen;
use anyhow::{Context as _, Result, bail};
use socket2::SockRef;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};

/// Connections that can wait to be accepted. Beyond this the kernel resets some when many clients come at once. The
/// kernel has a limit of its own, net.core.somaxconn.
const BACKLOG: u32 = 4096;

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// The socket of an accepted connection.
pub(super) enum AcceptedSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Bytes of a connection that the kernel buffers beside those that it is sending. With a larger buffer, a client that
/// does not read would cost all others more memory and work, and answers would not be faster.
const UNSENT: u32 = 128 << 10;

/// The file of a Unix socket. Dropping this removes the file, unless another socket has taken its path by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

// === impl Listener ===

impl Listener {
    /// Starts to listen. `mode` is the permissions of a Unix socket.
    pub fn bind(listen: &Listen, mode: u32) -> Result<Self> {
        match listen {
            Listen::Tcp(address) => bind_tcp(*address),
            Listen::Unix(path) => bind_unix(path, mode),
        }
    }

    /// Returns the address, with the port that the kernel chose if the configured one is 0.
    pub fn address(&self) -> io::Result<Listen> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.into()),
            Self::Unix(_, file) => Ok(Listen::Unix(file.path.clone())),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(AcceptedSocket, PeerAddress)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, address) = listener.accept().await?;
                // A live sample is one small write, and waiting for more would delay it.
                let _ = socket.set_nodelay(true);
                let _ = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT);
                Ok((AcceptedSocket::Tcp(socket), PeerAddress::Tcp(address)))
            }
            Self::Unix(listener, _) => {
                let (socket, _) = listener.accept().await?;
                let uid = socket.peer_cred().ok().map(|cred| cred.uid());
                Ok((AcceptedSocket::Unix(socket), PeerAddress::Unix { uid }))
            }
        }
    }
}

/// Checks whether a host could listen there. It does not listen, and neither creates nor removes a file.
pub fn probe(listen: &Listen) -> Result<()> {
    match listen {
        Listen::Tcp(address) => {
            let bound = || {
                let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                socket.set_reuseaddr(true)?;
                socket.bind(*address)
            };
            match bound() {
                Ok(()) => Ok(()),
                Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
                    "port {address} is in use; stop the program that listens there, or choose another address with \
                     --listen, like --listen 127.0.0.1:9191"
                ),
                Err(error) => Err(error).with_context(|| format!("cannot listen on {address}")),
            }
        }
        Listen::Unix(path) => left_behind(path).map(drop),
    }
}

fn bind_tcp(address: SocketAddr) -> Result<Listener> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Allows a port whose last connections have just closed.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    match bound() {
        Ok(listener) => Ok(Listener::Tcp(listener)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            bail!(
                "{address} is taken by another program; stop it, or choose another address with --listen, like \
                 --listen 127.0.0.1:9191"
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address}")),
    }
}

fn bind_unix(path: &Path, mode: u32) -> Result<Listener> {
    let what = || format!("cannot listen on unix:{}", path.display());
    clear(path)?;
    let bound = || {
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        // Nobody can connect before the socket listens.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        let file = SocketFile { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() };
        Ok::<_, io::Error>(Listener::Unix(socket.listen(BACKLOG)?, file))
    };
    bound().with_context(what)
}

/// Removes a socket that a host left there because it could not clean up.
fn clear(path: &Path) -> Result<()> {
    if left_behind(path)? {
        let what = || format!("cannot remove the socket that an earlier host left at {}", path.display());
        fs::remove_file(path).with_context(what)?;
    }
    Ok(())
}

/// Returns whether a socket is there that nobody listens on. Fails if something else is there.
fn left_behind(path: &Path) -> Result<bool> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(false) };
    if !found.file_type().is_socket() {
        bail!("{} exists and is not a socket; choose another path with --listen unix:PATH", path.display());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!("unix:{} is taken by another program; choose another path with --listen", path.display()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Err(error) => Err(error).with_context(|| format!("{} exists, but connecting to it fails", path.display())),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
