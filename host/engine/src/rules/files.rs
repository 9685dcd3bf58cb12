//! Reads rule files, and the rules that come with the program.

use super::{GroupId, RuleFileFailure};
use crate::options::RuleOptions;
use crate::plugins::FileSignature;
use dropsonde_rules::{RuleFile, RuleGroup};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The rules that come with the program, with the names that they have in place of a file.
const DEFAULT_RULES: [(&str, &str); 2] = [
    ("default rules: measured", include_str!("../../../monitoring/measured.yml")),
    ("default rules: self", include_str!("../../../monitoring/self.yml")),
];

/// The longest rule file, in bytes.
const LONGEST: u64 = 32 << 20;

/// The groups of the files that could be read, and the files that could not.
#[derive(Debug, Default)]
pub(super) struct LoadedRules {
    pub(super) groups: BTreeMap<GroupId, LoadedGroup>,
    pub(super) failures: Vec<RuleFileFailure>,
}

/// A group, with what tells whether its file has changed.
#[derive(Debug, Clone)]
pub(super) struct LoadedGroup {
    pub(super) group: RuleGroup,
    pub(super) file_hash: blake3::Hash,
}

/// The files that globs match, with what tells that one has changed.
pub(super) type RuleFiles = BTreeMap<PathBuf, Option<FileSignature>>;

/// Returns the rule files as they are now. May take long: a disk may answer late.
pub(super) fn current(options: &RuleOptions) -> RuleFiles {
    let signature = |path: &Path| Some(FileSignature::of(&fs::metadata(path).ok()?));
    options.files.iter().flat_map(|glob| matches(glob)).map(|path| (path.clone(), signature(&path))).collect()
}

/// Returns the files that a glob matches.
fn matches(pattern: &str) -> Vec<PathBuf> {
    glob::glob(pattern).into_iter().flatten().filter_map(Result::ok).collect()
}

impl LoadedRules {
    /// Reads all files. May take long: a disk may answer late.
    pub(super) fn read(options: &RuleOptions) -> Self {
        let mut loaded = Self::default();
        let mut names = BTreeSet::new();
        for pattern in &options.files {
            let found = matches(pattern);
            if found.is_empty() && !pattern.contains(['*', '?', '[']) {
                let why = "there is no such file".to_owned();
                loaded.failures.push(RuleFileFailure { file: pattern.clone(), why });
            }
            names.extend(found);
        }
        let mut seen = BTreeSet::new();
        for path in names {
            // Two globs can name one file in different ways.
            if fs::canonicalize(&path).is_ok_and(|real| !seen.insert(real)) {
                continue;
            }
            let file = path.to_string_lossy().into_owned();
            match text_of(&path) {
                Ok(text) => loaded.add(&file, &text),
                Err(why) => loaded.failures.push(RuleFileFailure { file, why }),
            }
        }
        if options.has_default_rules {
            DEFAULT_RULES.iter().for_each(|(name, text)| loaded.add(name, text));
        }
        loaded
    }

    fn add(&mut self, file: &str, text: &str) {
        match RuleFile::parse(text) {
            Ok(rules) => {
                let file: Arc<str> = file.into();
                let file_hash = blake3::hash(text.as_bytes());
                for group in rules.groups {
                    let id = GroupId { file: file.clone(), name: group.name.as_str().into() };
                    self.groups.insert(id, LoadedGroup { group, file_hash });
                }
            }
            Err(error) => self.failures.push(RuleFileFailure { file: file.to_owned(), why: error.to_string() }),
        }
    }
}

/// Reads a regular file: reading a named pipe, for example, could block forever.
fn text_of(path: &Path) -> Result<String, String> {
    let about = fs::metadata(path).map_err(|error| dropsonde_model::text::os_error(&error))?;
    if !about.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    if about.len() > LONGEST {
        return Err(format!("it has {} bytes; at most {LONGEST} are read", about.len()));
    }
    fs::read_to_string(path).map_err(|error| dropsonde_model::text::os_error(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_a_mistake_does_not_keep_others_from_being_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.yml"), "groups: [{name: a, rules: [{record: x, expr: up}]}]").unwrap();
        fs::write(folder.path().join("b.yml"), "groups:\n- name: b\n  rules:\n  - {record: x, expr: sum(}\n").unwrap();
        let files = vec![folder.path().join("*.yml").display().to_string(), "/nowhere/x.yml".to_owned()];
        let loaded = LoadedRules::read(&RuleOptions { files, ..RuleOptions::default() });
        assert_eq!(loaded.groups.keys().map(|id| &*id.name).collect::<Vec<_>>(), ["a"]);
        let failed: Vec<_> = loaded.failures.iter().map(|failure| (&*failure.file, &*failure.why)).collect();
        let bad = folder.path().join("b.yml").display().to_string();
        assert_eq!(failed[0], ("/nowhere/x.yml", "there is no such file"));
        assert_eq!(failed[1].0, bad);
        assert!(failed[1].1.starts_with("4:"), "{failed:?}");
    }

    #[test]
    fn the_default_rules_can_be_read() {
        let loaded = LoadedRules::read(&RuleOptions { has_default_rules: true, ..RuleOptions::default() });
        assert!(loaded.failures.is_empty(), "{:?}", loaded.failures);
        assert_eq!(loaded.groups.len(), 2);
    }
}
