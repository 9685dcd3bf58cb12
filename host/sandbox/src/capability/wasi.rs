//! WASI 0.2, so that components of any language's toolchain load. It offers only what is granted: no sockets, no
//! arguments; environment variables and directories as the operator allows. Clocks and random numbers work. Standard
//! output and standard error go to the log.

use super::inputs::Inputs;
use super::log::{Level, Log};
use crate::Grants;
use crate::limits::RANDOM;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder};

/// Bytes of a line without an end, after which the line is logged anyway.
const LONGEST_LINE: usize = 4096;

pub(crate) fn context(plugin: &str, grants: &Grants, inputs: &Inputs, log: &Arc<Mutex<Log>>) -> WasiCtx {
    let lines = |level| Lines { log: log.clone(), level, partial: Arc::default() };
    let mut wasi = WasiCtxBuilder::new();
    match inputs {
        Inputs::Recorded(recording) => recording.show(&grants.env, &mut wasi),
        Inputs::Live | Inputs::RecordedBy(_) => {
            grants.env.show(&mut wasi);
            grants.dirs.show(plugin, &grants.files, &mut wasi);
        }
    }
    wasi.stdout(lines(Level::Info))
        .stderr(lines(Level::Warn))
        .max_random_size(RANDOM)
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .build()
}

pub(crate) fn table(handles: usize) -> ResourceTable {
    let mut table = ResourceTable::new();
    table.set_max_capacity(handles);
    table
}

/// An output stream that writes its bytes to the log, line by line.
#[derive(Clone)]
struct Lines {
    log: Arc<Mutex<Log>>,
    level: Level,
    partial: Arc<Mutex<Vec<u8>>>,
}

impl Lines {
    fn take(&self, bytes: &[u8]) {
        let mut partial = self.partial.lock().unwrap_or_else(PoisonError::into_inner);
        for &byte in bytes {
            if byte != b'\n' {
                partial.push(byte);
            }
            if byte == b'\n' || partial.len() >= LONGEST_LINE {
                let line = std::mem::take(&mut *partial);
                let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
                log.write(self.level, &String::from_utf8_lossy(&line));
            }
        }
    }
}

impl IsTerminal for Lines {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Lines {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for Lines {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.take(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
