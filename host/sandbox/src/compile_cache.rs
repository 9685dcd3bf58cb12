use crate::error::explained;
use crate::refusal::Refused;
use crate::replace::{PRIVATE, replace_file};
use std::cmp::Reverse;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use wasmtime::Engine;
use wasmtime::component::Component;

/// A cache of compiled components, keyed by content.
///
/// Each entry has two files: `<key>.cwasm`, as wasmtime wrote it, so that it can be mapped; and `<key>.sum`, the blake3
/// checksum of the first. The key covers the component's bytes and everything that wasmtime says its output depends on:
/// version, settings, CPU. It begins with a hash of the latter, so that entries of other versions are known. The modification time of the `.sum` file is the time of the last use. When the folder grows
/// beyond its limit, the least recently used entries are evicted.
#[derive(Debug)]
pub(crate) struct Cache {
    /// None: nothing is cached.
    folder: Option<CacheFolder>,
    compatibility: u64,
    /// Held while an entry is added and others are evicted for it. Without it, two threads could evict each other's
    /// entries.
    putting: Mutex<()>,
}

/// The folder of the cache, and its size limit.
#[derive(Debug, Clone)]
pub struct CacheFolder {
    pub path: PathBuf,
    /// Size limit in bytes. The newest entry stays even if it is larger.
    pub most: u64,
}

/// Age after which a half-written file belongs to a process that was killed.
const ABANDONED: Duration = Duration::from_secs(3600);

impl Cache {
    /// Opens the cache. A folder that cannot be created, or cannot be made private to this user, is not used.
    pub(crate) fn open(folder: Option<CacheFolder>, engine: &Engine) -> Self {
        let folder = folder.filter(|CacheFolder { path, .. }| {
            let made = make_private(path);
            if let Err(error) = &made {
                tracing::warn!(folder = %path.display(), %error, "cannot use the compile cache; each start compiles all plugins");
            }
            made.is_ok()
        });
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self { folder, compatibility: hasher.finish(), putting: Mutex::default() }
    }

    /// Removes what other versions compiled.
    pub(crate) fn remove_other_versions(&self) {
        if let Some(CacheFolder { path, .. }) = &self.folder
            && let Err(error) = remove_others(path, &prefix(self.compatibility))
        {
            tracing::warn!(folder = %path.display(), %error, "cannot remove what another version compiled");
        }
    }

    /// Returns the compiled component whose blake3 hash is `digest`: from the cache if it has an intact entry,
    /// otherwise from `compile`. Returns none if `compile` does. If the cache cannot be written, the next start only
    /// takes longer.
    pub(crate) fn compiled(
        &self,
        engine: &Engine,
        digest: &blake3::Hash,
        compile: impl FnOnce() -> Result<Option<Vec<u8>>, Refused>,
    ) -> Result<Option<Component>, Refused> {
        let Some(folder) = &self.folder else {
            return compile()?.map(|compiled| adopt(engine, &compiled)).transpose();
        };
        let entry = CachedComponent::of(&folder.path, &self.key(digest));
        if let Some(found) = entry.get(engine) {
            return Ok(Some(found));
        }
        let Some(compiled) = compile()? else { return Ok(None) };
        self.keep(folder, &entry, &compiled);
        // Another process may have evicted the entry meanwhile.
        entry.get(engine).map_or_else(|| adopt(engine, &compiled), Ok).map(Some)
    }

    /// Adds an entry, and evicts others until it fits.
    fn keep(&self, folder: &CacheFolder, entry: &CachedComponent, compiled: &[u8]) {
        let _putting = self.putting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = entry.put(compiled) {
            tracing::warn!(folder = %folder.path.display(), %error, "cannot write a compiled plugin to the cache");
        } else if let Err(error) = folder.make_room(entry) {
            tracing::warn!(folder = %folder.path.display(), %error, "cannot evict old entries from the compile cache");
        }
    }

    fn key(&self, digest: &blake3::Hash) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.compatibility.to_le_bytes());
        hasher.update(digest.as_bytes());
        format!("{}{}", prefix(self.compatibility), hasher.finalize().to_hex())
    }
}

impl CacheFolder {
    /// Evicts the least recently used entries until the rest fits, and removes half-written files of hosts that were
    /// killed. A file that is mapped stays mapped.
    fn make_room(&self, newest: &CachedComponent) -> io::Result<()> {
        let mut kept = Vec::new();
        for found in fs::read_dir(&self.path)? {
            let path = found?.path();
            // Another host that shares the folder may have removed the file.
            let Ok(about) = path.metadata() else { continue };
            let is = |extension: &str| path.extension().is_some_and(|found| found == extension);
            if is("half") && about.modified()?.elapsed().is_ok_and(|age| age > ABANDONED) {
                remove(&path)?;
            } else if is("cwasm") && path != newest.code {
                let entry = CachedComponent { sum: path.with_extension("sum"), code: path };
                let used = entry.sum.metadata().and_then(|sum| sum.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                kept.push((used, about.len(), entry));
            }
        }
        kept.sort_by_key(|(used, ..)| Reverse(*used));
        let mut size = newest.code.metadata().map_or(0, |newest| newest.len());
        for (_, bytes, entry) in kept {
            size = size.saturating_add(bytes);
            if size > self.most {
                remove(&entry.sum)?;
                remove(&entry.code)?;
            }
        }
        Ok(())
    }
}

/// Returns how the keys of all entries begin that an engine can use.
fn prefix(compatibility: u64) -> String {
    format!("{compatibility:016x}-")
}

/// Removes entries whose keys do not begin so. Code that is mapped stays mapped.
fn remove_others(folder: &Path, own: &str) -> io::Result<()> {
    for found in fs::read_dir(folder)? {
        let path = found?.path();
        let is_entry = path.extension().is_some_and(|extension| extension == "cwasm" || extension == "sum");
        let is_own = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(own));
        if is_entry && !is_own {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Creates a folder that is private to this user.
fn make_private(folder: &Path) -> io::Result<()> {
    const MODE: u32 = 0o700;
    fs::DirBuilder::new().recursive(true).mode(MODE).create(folder)?;
    // The folder may exist with other permissions. If they are right, nothing is changed: the disk may be read-only.
    let has_others = fs::metadata(folder)?.permissions().mode() & 0o777 != MODE;
    if has_others { fs::set_permissions(folder, fs::Permissions::from_mode(MODE)) } else { Ok(()) }
}

/// Removes a file that may be gone already.
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// One compiled component in the folder.
struct CachedComponent {
    code: PathBuf,
    sum: PathBuf,
}

impl CachedComponent {
    fn of(folder: &Path, key: &str) -> Self {
        Self { code: folder.join(format!("{key}.cwasm")), sum: folder.join(format!("{key}.sum")) }
    }

    fn get(&self, engine: &Engine) -> Option<Component> {
        let expected = fs::read(&self.sum).ok()?;
        let mut found = blake3::Hasher::new();
        // Reads in pieces: the file may be large, and its bytes are needed only for the checksum.
        found.update_reader(fs::File::open(&self.code).ok()?).ok()?;
        if found.finalize().as_bytes() != expected.as_slice() {
            tracing::warn!(file = %self.code.display(), "corrupt entry in the compile cache; compiling it again");
            return None;
        }
        let component = map(engine, &self.code)?;
        // If this fails, the entry is only evicted sooner.
        let _ = fs::File::open(&self.sum).and_then(|sum| sum.set_modified(SystemTime::now()));
        Some(component)
    }

    fn put(&self, compiled: &[u8]) -> io::Result<()> {
        // The sum comes last: an entry without it does not exist.
        replace_file(&self.code, compiled, PRIVATE)?;
        replace_file(&self.sum, blake3::hash(compiled).as_bytes(), PRIVATE)
    }
}

#[expect(unsafe_code, reason = "trusts bytes to be compiled code: those of our own child process")]
fn adopt(engine: &Engine, compiled: &[u8]) -> Result<Component, Refused> {
    // SAFETY: a process of this binary has just made these bytes with an engine of the same configuration, and they
    // came through a pipe that no other process holds. wasmtime checks its own header in addition.
    unsafe { Component::deserialize(engine, compiled) }
        .map_err(|error| Refused::Compiler(explained(format!("{error:#}"))))
}

#[expect(unsafe_code, reason = "trusts a file to be compiled code: one of our own, checked")]
fn map(engine: &Engine, code: &Path) -> Option<Component> {
    // SAFETY: the file lies in a folder that only this user can write to. [`CachedComponent::put`] wrote it for an
    // engine with the same compatibility hash (part of its name), and its checksum was compared just before. wasmtime
    // checks its own header in addition. Only this user could still change the file, and this user could as well
    // replace the binary.
    match unsafe { Component::deserialize_file(engine, code) } {
        Ok(component) => Some(component),
        Err(error) => {
            tracing::warn!(file = %code.display(), error = format!("{error:#}"), "unusable entry in the compile cache; compiling it again");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(folder: &Path, key: &str, bytes: usize, used: u64) -> CachedComponent {
        let entry = CachedComponent::of(folder, key);
        entry.put(&vec![0; bytes]).unwrap();
        let used = SystemTime::UNIX_EPOCH + Duration::from_secs(used);
        fs::File::open(&entry.sum).unwrap().set_modified(used).unwrap();
        entry
    }

    #[test]
    fn what_was_used_longest_ago_goes_when_there_is_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let keys = ["oldest", "older", "old"];
        let old: Vec<_> = keys.iter().zip(1..).map(|(key, used)| entry(folder.path(), key, 400, used)).collect();
        let newest = entry(folder.path(), "newest", 400, 0);
        CacheFolder { path: folder.path().to_owned(), most: 1200 }.make_room(&newest).unwrap();
        let left: Vec<_> = old.iter().map(|entry| entry.code.exists() && entry.sum.exists()).collect();
        assert_eq!((left, newest.code.exists()), (vec![false, true, true], true));
    }

    #[test]
    fn what_another_version_compiled_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let bound = || Some(CacheFolder { path: folder.path().to_owned(), most: 1 << 20 });
        let key = Cache::open(bound(), &Engine::default()).key(&blake3::hash(b"component"));
        let (own, other) = (entry(folder.path(), &key, 10, 1), entry(folder.path(), "0123456789abcdef-x", 10, 2));
        fs::write(folder.path().join("notes.txt"), "of somebody").unwrap();
        Cache::open(bound(), &Engine::default()).remove_other_versions();
        assert!(own.code.exists() && own.sum.exists() && !other.code.exists() && !other.sum.exists());
        assert!(folder.path().join("notes.txt").exists(), "only entries are removed");
    }

    #[test]
    fn the_newest_stays_even_alone_and_too_large() {
        let folder = tempfile::tempdir().unwrap();
        let (old, newest) = (entry(folder.path(), "old", 10, 1), entry(folder.path(), "newest", 400, 2));
        CacheFolder { path: folder.path().to_owned(), most: 100 }.make_room(&newest).unwrap();
        assert!(newest.code.exists() && !old.code.exists() && !old.sum.exists());
    }

    #[test]
    fn of_many_that_are_put_at_once_the_last_stays() {
        let folder = tempfile::tempdir().unwrap();
        let bound = CacheFolder { path: folder.path().to_owned(), most: 1 };
        let cache = Cache::open(Some(bound.clone()), &Engine::default());
        for round in 0..20 {
            std::thread::scope(|scope| {
                for nth in 0..4 {
                    let (cache, bound) = (&cache, &bound);
                    let entry = CachedComponent::of(folder.path(), &format!("{round}-{nth}"));
                    scope.spawn(move || cache.keep(bound, &entry, &[0; 100]));
                }
            });
            let left = fs::read_dir(folder.path()).unwrap().count();
            assert_eq!(left, 2, "its code and its sum, in round {round}");
        }
    }
}
