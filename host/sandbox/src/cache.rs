use crate::compiler::Compiler;
use crate::refusal::Refused;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use wasmtime::Engine;
use wasmtime::component::Component;

/// Compiled components, by content.
///
/// Two files per entry: `<key>.cwasm` as wasmtime wrote it, so that it can be mapped, and `<key>.sum`, its blake3. The key
/// covers the component's bytes and what wasmtime says its output depends on: version, settings, CPU.
#[derive(Debug)]
pub(crate) struct Cache {
    /// None: nothing is kept.
    folder: Option<PathBuf>,
    compatibility: u64,
    compiler: Compiler,
    slots: Slots,
}

/// How many compile at a time: each may need gigabytes. Two at least, so that one that takes long holds up nobody.
#[derive(Debug)]
struct Slots {
    free: Mutex<usize>,
    freed: Condvar,
}

struct Slot<'a> {
    slots: &'a Slots,
    has_waited: bool,
}

impl Cache {
    pub(crate) fn open(folder: Option<PathBuf>, engine: &Engine, compiler: Compiler) -> io::Result<Self> {
        if let Some(folder) = &folder {
            let describe = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(describe)?;
            // It may have existed before, with other rights.
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(describe)?;
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { folder, compatibility: hasher.finish(), compiler, slots: Slots::default() })
    }

    /// The compiled component; from the cache when an intact entry is there. A cache that cannot be written only costs
    /// the next start its time.
    pub(crate) fn compiled(&self, engine: &Engine, component: &[u8]) -> Result<Component, Refused> {
        let Some(folder) = &self.folder else {
            let _slot = self.slots.take();
            return adopt(engine, &self.compiler.compile(component)?);
        };
        let entry = Entry::of(folder, &self.key(component));
        if let Some(found) = entry.get(engine) {
            return Ok(found);
        }
        let slot = self.slots.take();
        // Someone else may have compiled the same meanwhile.
        if slot.has_waited
            && let Some(found) = entry.get(engine)
        {
            return Ok(found);
        }
        let compiled = self.compiler.compile(component)?;
        if let Err(error) = entry.put(&compiled) {
            tracing::warn!(folder = %folder.display(), %error, "cannot keep a compiled plugin");
            return adopt(engine, &compiled);
        }
        drop(compiled);
        entry.get(engine).ok_or_else(|| Refused::Compiler("what was compiled cannot be read back".to_owned()))
    }

    fn key(&self, component: &[u8]) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.compatibility.to_le_bytes());
        hasher.update(component);
        hasher.finalize().to_hex().to_string()
    }
}

/// One compiled component in the folder.
struct Entry {
    code: PathBuf,
    sum: PathBuf,
}

impl Entry {
    fn of(folder: &Path, key: &str) -> Self {
        Self { code: folder.join(format!("{key}.cwasm")), sum: folder.join(format!("{key}.sum")) }
    }

    fn get(&self, engine: &Engine) -> Option<Component> {
        let expected = fs::read(&self.sum).ok()?;
        let mut found = blake3::Hasher::new();
        // In pieces: it may be large, and it is not kept.
        found.update_reader(fs::File::open(&self.code).ok()?).ok()?;
        if found.finalize().as_bytes() != expected.as_slice() {
            tracing::warn!(file = %self.code.display(), "a compiled plugin was damaged; compiling it again");
            return None;
        }
        map(engine, &self.code)
    }

    fn put(&self, compiled: &[u8]) -> io::Result<()> {
        // The sum comes last: an entry without it does not exist.
        write(&self.code, compiled)?;
        write(&self.sum, blake3::hash(compiled).as_bytes())
    }
}

impl Default for Slots {
    fn default() -> Self {
        let slots = thread::available_parallelism().map_or(1, usize::from).max(2);
        Self { free: Mutex::new(slots), freed: Condvar::new() }
    }
}

impl Slots {
    fn take(&self) -> Slot<'_> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let has_waited = *free == 0;
        while *free == 0 {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Slot { slots: self, has_waited }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        *self.slots.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.slots.freed.notify_one();
    }
}

#[expect(unsafe_code, reason = "trusts bytes to be compiled code: those of our own child process")]
fn adopt(engine: &Engine, compiled: &[u8]) -> Result<Component, Refused> {
    // SAFETY: a process of our own binary has just made these bytes with an engine of the same configuration, and they
    // came through a pipe that nobody else holds. wasmtime checks its own header on top.
    unsafe { Component::deserialize(engine, compiled) }.map_err(|error| Refused::Compiler(format!("{error:#}")))
}

#[expect(unsafe_code, reason = "trusts a file to be compiled code: one of our own, checked")]
fn map(engine: &Engine, code: &Path) -> Option<Component> {
    // SAFETY: the file lies in a folder only this user can write, was written by [`Entry::put`] for an engine with the same
    // compatibility hash (part of its name), and its checksum was compared just before. wasmtime checks its own header
    // on top. Whoever can still change it is this user, and could as well replace the binary.
    match unsafe { Component::deserialize_file(engine, code) } {
        Ok(component) => Some(component),
        Err(error) => {
            tracing::warn!(file = %code.display(), "a compiled plugin cannot be used: {error:#}");
            None
        }
    }
}

/// Puts a file in place whole, readable by this user alone.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    // Plugins with the same bytes are compiled at the same time, and hosts may share a folder.
    let unique = format!("{}.{}.half", std::process::id(), WRITES.fetch_add(1, Relaxed));
    let mut half = path.as_os_str().to_owned();
    half.push(unique);
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
    file.write_all(bytes)?;
    fs::rename(&half, path)
}
