//! What a webhook knows: the alerts that it was told of, by group. It is kept over a restart.

use crate::payload::SentAlert;
use dropsonde_model::text;
use dropsonde_sandbox::replace::{PRIVATE, replace_file};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

/// The folder in the data directory.
const FOLDER: &str = "webhooks";

/// The labels of a group.
pub(crate) type GroupLabels = BTreeMap<String, String>;

/// The groups that a webhook was told of.
#[derive(Debug, Default)]
pub(crate) struct Known {
    path: Option<PathBuf>,
    pub(crate) groups: BTreeMap<GroupLabels, KnownGroup>,
}

/// A group that a webhook was told of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct KnownGroup {
    /// The alerts that it believes to fire, by their keys.
    pub(crate) firing: BTreeMap<String, SentAlert>,
    /// When it was told last.
    pub(crate) told_ms: i64,
    /// How often it was told.
    pub(crate) notices: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptGroup {
    labels: GroupLabels,
    #[serde(flatten)]
    group: KnownGroup,
}

impl Known {
    /// Reads what a webhook knows. `identity`: a text that no other webhook has.
    pub(crate) fn open(data: Option<&Path>, name: &str, identity: &str) -> Self {
        let hash = blake3::hash(identity.as_bytes()).to_hex();
        let path = data.map(|data| data.join(FOLDER).join(format!("{}.json", hash.get(..32).unwrap_or_default())));
        let mut groups = BTreeMap::new();
        match path.as_ref().map(fs::read) {
            Some(Ok(bytes)) => match serde_json::from_slice::<Vec<KeptGroup>>(&bytes) {
                Ok(kept) => groups.extend(kept.into_iter().map(|kept| (kept.labels, kept.group))),
                Err(error) => {
                    tracing::error!(webhook = name, %error, "the file of what a webhook was told is damaged; telling all again")
                }
            },
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(webhook = name, %error, "cannot read what a webhook was told; telling all again");
            }
            _ => {}
        }
        Self { path, groups }
    }

    /// Keeps what the webhook knows now.
    pub(crate) fn keep(&self) {
        let Some(path) = &self.path else { return };
        let kept: Vec<KeptGroup> = self
            .groups
            .iter()
            .map(|(labels, group)| KeptGroup { labels: labels.clone(), group: group.clone() })
            .collect();
        let made = path.parent().map_or(Ok(()), |folder| match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        });
        let bytes = serde_json::to_vec(&kept).unwrap_or_default();
        if let Err(error) = made.and_then(|()| replace_file(path, &bytes, PRIVATE)) {
            let error = text::os_error(&error);
            tracing::error!(error, "cannot keep what a webhook was told; after a restart it may be told again");
        }
    }
}
