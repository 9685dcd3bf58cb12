//! Keeps a copy of the component that last ran well. The host restores it if the one in the plugins folder does not
//! run.

use super::prepare::ComponentBytes;
use crate::options::TrustedKeys;
use dropsonde_sandbox::replace::make_inside;
use dropsonde_sandbox::replace::{PRIVATE, replace_file};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The folder of copies in the data directory.
const FOLDER: &str = "good";

/// The copies of one plugin: files `NAME@SHA256.wasm`, with `.trial` appended until the component has run well. A copy has
/// the signature that the plugin's file had beside it.
#[derive(Debug, Clone)]
pub(super) struct LastGood {
    folder: PathBuf,
    name: String,
}

impl LastGood {
    pub(super) fn of(plugin: &str, data_dir: &Path) -> Self {
        Self { folder: data_dir.join(FOLDER), name: plugin.to_owned() }
    }

    /// Keeps a copy of a component that is about to be tried. Removes earlier trials, except that of the `current`
    /// component.
    pub(super) fn try_out(
        &self,
        ComponentBytes { bytes, digest }: &ComponentBytes,
        signature: Option<&str>,
        current: Option<&str>,
    ) -> io::Result<()> {
        let current = current.map(|current| self.trial(current));
        let trials = self.all()?.into_iter().filter(|path| path.extension().is_some_and(|found| found == "trial"));
        trials.filter(|path| Some(path) != current.as_ref()).try_for_each(fs::remove_file)?;
        if self.copy(digest).exists() {
            return Ok(());
        }
        make_inside(&self.folder)?;
        if let Some(signature) = signature {
            replace_file(&TrustedKeys::signature_of(&self.copy(digest)), signature.as_bytes(), PRIVATE)?;
        }
        replace_file(&self.trial(digest), bytes, PRIVATE)
    }

    /// Makes the copy of a component that runs well the one to restore, and removes all others.
    pub(super) fn has_run_well(&self, digest: &str) -> io::Result<()> {
        let copy = self.copy(digest);
        if !copy.exists() {
            fs::rename(self.trial(digest), &copy)?;
        }
        let signature = TrustedKeys::signature_of(&copy);
        let others = self.all()?.into_iter().filter(|path| *path != copy && *path != signature);
        others.into_iter().try_for_each(fs::remove_file)
    }

    /// Returns whether a component has run well, and its copy is kept.
    pub(super) fn is_kept(&self, digest: Option<&str>) -> bool {
        digest.is_some_and(|digest| self.copy(digest).exists())
    }

    /// Returns the copy to restore, if there is one and it is intact.
    pub(super) fn get(&self) -> Option<(PathBuf, ComponentBytes)> {
        self.all().ok()?.into_iter().find_map(|path| {
            let kept =
                path.file_name()?.to_str()?.strip_prefix(&self.name)?.strip_prefix('@')?.strip_suffix(".wasm")?;
            let bytes = ComponentBytes::of(fs::read(&path).ok()?.into());
            (bytes.digest == kept).then_some((path, bytes))
        })
    }

    /// Removes all copies, so that none is restored.
    pub(super) fn forget(&self) -> io::Result<()> {
        self.all()?.into_iter().try_for_each(fs::remove_file)
    }

    fn copy(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{}@{digest}.wasm", self.name))
    }

    fn trial(&self, digest: &str) -> PathBuf {
        self.folder.join(format!("{}@{digest}.wasm.trial", self.name))
    }

    /// Returns the paths of all copies of this plugin.
    fn all(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
        // A plugin's name contains no `@`.
        let name = |path: &Path| Some(path.file_name()?.to_str()?.split_once('@')?.0.to_owned());
        Ok(paths.into_iter().filter(|path| name(path).as_deref() == Some(&self.name)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(text: &'static str) -> ComponentBytes {
        ComponentBytes::of(bytes::Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_copy_keeps_its_signature_until_another_one_replaces_it() {
        let data = tempfile::tempdir().unwrap();
        let good = LastGood::of("p", data.path());
        let (first, second) = (component("1"), component("2"));
        good.try_out(&first, Some("signed"), None).unwrap();
        good.has_run_well(&first.digest).unwrap();
        let (copy, _) = good.get().unwrap();
        assert_eq!(fs::read_to_string(TrustedKeys::signature_of(&copy)).unwrap(), "signed");
        good.try_out(&second, None, Some(&first.digest)).unwrap();
        good.has_run_well(&second.digest).unwrap();
        assert!(!TrustedKeys::signature_of(&copy).exists() && good.all().unwrap().len() == 1);
    }

    #[test]
    fn only_a_version_that_ran_well_is_restored() {
        let data = tempfile::tempdir().unwrap();
        let good = LastGood::of("p", data.path());
        let (first, second) = (component("first"), component("second"));
        good.try_out(&first, None, None).unwrap();
        assert!(good.get().is_none());
        good.has_run_well(&first.digest).unwrap();
        good.try_out(&second, None, Some(&first.digest)).unwrap();
        assert_eq!(good.get().unwrap().1.bytes, first.bytes);
        assert!(good.is_kept(Some(&first.digest)) && !good.is_kept(Some(&second.digest)));
        good.has_run_well(&second.digest).unwrap();
        assert_eq!(good.get().unwrap().1.bytes, second.bytes);
        assert_eq!(good.all().unwrap().len(), 1);
    }

    #[test]
    fn only_the_current_and_the_newest_trial_copies_are_kept() {
        let data = tempfile::tempdir().unwrap();
        let good = LastGood::of("p", data.path());
        let tried = ["a", "b", "c", "d"].map(component);
        for pair in tried.windows(2) {
            good.try_out(&pair[0], None, None).unwrap();
            good.try_out(&pair[1], None, Some(&pair[0].digest)).unwrap();
        }
        assert_eq!(good.all().unwrap().len(), 2);
        good.has_run_well(&tried[2].digest).unwrap();
    }

    #[test]
    fn an_altered_copy_is_not_restored_and_forget_leaves_copies_of_similarly_named_plugins() {
        let data = tempfile::tempdir().unwrap();
        let (good, other) = (LastGood::of("p", data.path()), LastGood::of("p-2", data.path()));
        for good in [&good, &other] {
            good.try_out(&component("x"), None, None).unwrap();
            good.has_run_well(&component("x").digest).unwrap();
        }
        fs::write(good.copy(&component("x").digest), "y").unwrap();
        assert!(good.get().is_none());
        good.forget().unwrap();
        assert!(other.get().is_some());
    }
}
