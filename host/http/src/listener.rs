//! Where connections come in.

use super::peer::Address;
use crate::options::Listen;
use anyhow::{Context as _, Result, bail};
use socket2::SockRef;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};

/// Connections that may wait to be accepted: beyond, the kernel resets some when many clients come at once. It has a bound
/// of its own, net.core.somaxconn.
const BACKLOG: u32 = 4096;

/// An open one.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// One end of a connection.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Bytes that the kernel takes of a connection beside what it is sending. More would be memory, and work, that a client which does
/// not read costs everybody else, and no faster.
const UNSENT: u32 = 128 << 10;

/// A socket in the file system. It goes with this, unless it is another's by then.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

// === impl Listener ===

impl Listener {
    /// `mode`: permissions of a socket in the file system.
    pub fn bind(listen: &Listen, mode: u32) -> Result<Self> {
        match listen {
            Listen::Tcp(address) => bind_tcp(*address),
            Listen::Unix(path) => bind_unix(path, mode),
        }
    }

    /// Where it is; tells the port when that was left open.
    pub fn address(&self) -> io::Result<Listen> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.into()),
            Self::Unix(_, file) => Ok(Listen::Unix(file.path.clone())),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<(Socket, Address)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, address) = listener.accept().await?;
                // A live sample is one small write, and waiting for more would delay it.
                let _ = socket.set_nodelay(true);
                let _ = SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT);
                Ok((Socket::Tcp(socket), Address::Tcp(address)))
            }
            Self::Unix(listener, _) => {
                let (socket, _) = listener.accept().await?;
                let uid = socket.peer_cred().ok().map(|cred| cred.uid());
                Ok((Socket::Unix(socket), Address::Unix { uid }))
            }
        }
    }
}

/// Whether a start could listen there; nothing listens, and nothing is made or removed.
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
                    "port {address} is in use; stop what listens there, or choose another with --listen, like --listen \
                     127.0.0.1:9191"
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
        // A port that was in use just before is free.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    match bound() {
        Ok(listener) => Ok(Listener::Tcp(listener)),
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            bail!("{address} is taken by another program; choose another with --listen, like --listen 127.0.0.1:9191")
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
        // Nobody can connect before it listens.
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        let file = SocketFile { path: path.to_owned(), inode: fs::symlink_metadata(path)?.ino() };
        Ok::<_, io::Error>(Listener::Unix(socket.listen(BACKLOG)?, file))
    };
    bound().with_context(what)
}

/// Removes what a host left there that ended without being able to.
fn clear(path: &Path) -> Result<()> {
    if left_behind(path)? {
        let what = || format!("cannot remove the socket a host left at {}", path.display());
        fs::remove_file(path).with_context(what)?;
    }
    Ok(())
}

/// Whether a socket is there that nobody listens on. Fails when something else is.
fn left_behind(path: &Path) -> Result<bool> {
    let Ok(found) = fs::symlink_metadata(path) else { return Ok(false) };
    if !found.file_type().is_socket() {
        bail!("{} is there, and is no socket; choose another path with --listen unix:PATH", path.display());
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => bail!("unix:{} is taken by another program; choose another path with --listen", path.display()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(true),
        Err(error) => Err(error).with_context(|| format!("{} is there, and cannot be looked into", path.display())),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
