use crate::compiler::Compiler;
use crate::refusal::Refused;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wasmtime::Engine;
use wasmtime::component::Component;

/// Compiled components, by content.
///
/// Two files per entry: `<key>.cwasm` as wasmtime wrote it, so that it can be mapped, and `<key>.sum`, its blake3. The key
/// covers the component's bytes and what wasmtime says its output depends on: version, settings, CPU.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    compatibility: u64,
    compiler: Compiler,
}

impl Cache {
    pub(crate) fn open(folder: PathBuf, engine: &Engine, compiler: Compiler) -> io::Result<Self> {
        let describe = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", folder.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(describe)?;
        // It may have existed before, with other rights.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).map_err(describe)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self { folder, compatibility: hasher.finish(), compiler })
    }

    /// The compiled component; from the cache when an intact entry is there. A cache that cannot be written only costs
    /// the next start its time.
    pub(crate) fn compiled(&self, engine: &Engine, component: &[u8]) -> Result<Component, Refused> {
        let key = self.key(component);
        if let Some(found) = self.get(engine, &key) {
            return Ok(found);
        }
        let compiled = self.compiler.compile(component)?;
        match self.put(&key, &compiled) {
            Ok(()) => {}
            Err(error) => tracing::warn!(folder = %self.folder.display(), %error, "cannot keep a compiled plugin"),
        }
        drop(compiled);
        match self.get(engine, &key) {
            Some(mapped) => Ok(mapped),
            None => Component::new(engine, component).map_err(|error| Refused::Invalid(format!("{error:#}"))),
        }
    }

    fn get(&self, engine: &Engine, key: &str) -> Option<Component> {
        let code = self.code(key);
        let expected = fs::read(self.sum(key)).ok()?;
        let found = blake3::hash(&fs::read(&code).ok()?);
        if found.as_bytes() != expected.as_slice() {
            tracing::warn!(file = %code.display(), "a compiled plugin was damaged; compiling it again");
            return None;
        }
        map(engine, &code)
    }

    fn put(&self, key: &str, compiled: &[u8]) -> io::Result<()> {
        // The sum comes last: an entry without it does not exist.
        write(&self.code(key), compiled)?;
        write(&self.sum(key), blake3::hash(compiled).as_bytes())
    }

    fn key(&self, component: &[u8]) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.compatibility.to_le_bytes());
        hasher.update(component);
        hasher.finalize().to_hex().to_string()
    }

    fn code(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.cwasm"))
    }

    fn sum(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.sum"))
    }
}

#[expect(unsafe_code, reason = "the one place that trusts bytes to be compiled code")]
fn map(engine: &Engine, code: &Path) -> Option<Component> {
    // SAFETY: the file lies in a folder only this user can write, was written by `put` for an engine with the same
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
