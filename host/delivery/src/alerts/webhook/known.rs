//! Keeps the alerts that a webhook knows over a restart.

use super::Alerts;
use crate::alerts::payload::SentAlert;
use dropsonde_model::text;
use dropsonde_sandbox::replace::{PRIVATE, make_inside, replace_file};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct KnownGroup {
    /// The alerts that it believes to fire.
    pub(crate) firing: Alerts,
    /// The time of the last message.
    pub(crate) told_ms: i64,
    /// The number of messages.
    pub(crate) notices: u64,
}

/// A group in the file.
#[derive(Debug, Serialize, Deserialize)]
struct KeptGroup<'a> {
    labels: Cow<'a, GroupLabels>,
    firing: Vec<Cow<'a, SentAlert>>,
    told_ms: i64,
    notices: u64,
}

impl Known {
    /// Reads the alerts that a webhook knows. `identity`: a text that no other webhook has.
    pub(crate) fn open(data: Option<&Path>, name: &str, identity: &str) -> Self {
        let hash = blake3::hash(identity.as_bytes()).to_hex();
        let path = data.map(|data| data.join(FOLDER).join(format!("{}.json", hash.get(..32).unwrap_or_default())));
        let mut groups = BTreeMap::new();
        match path.as_ref().map(fs::read) {
            Some(Ok(bytes)) => match serde_json::from_slice::<Vec<KeptGroup>>(&bytes) {
                Ok(kept) => groups.extend(kept.into_iter().map(KeptGroup::into_group)),
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

    /// Writes the alerts that the webhook knows.
    pub(crate) fn keep(&self) {
        let Some(path) = &self.path else { return };
        let kept: Vec<KeptGroup<'_>> = self.groups.iter().map(|(labels, group)| KeptGroup::of(labels, group)).collect();
        let made = path.parent().map_or(Ok(()), make_inside);
        let bytes = serde_json::to_vec(&kept).unwrap_or_default();
        if let Err(error) = made.and_then(|()| replace_file(path, &bytes, PRIVATE)) {
            let error = text::os_error(&error);
            tracing::error!(error, "cannot keep what a webhook was told; after a restart it may be told again");
        }
    }
}

impl<'a> KeptGroup<'a> {
    fn of(labels: &'a GroupLabels, group: &'a KnownGroup) -> Self {
        let firing = group.firing.values().map(|alert| Cow::Borrowed(&**alert)).collect();
        Self { labels: Cow::Borrowed(labels), firing, told_ms: group.told_ms, notices: group.notices }
    }

    fn into_group(self) -> (GroupLabels, KnownGroup) {
        let firing = self.firing.into_iter().map(|alert| (alert.key().into(), Arc::new(alert.into_owned()))).collect();
        (self.labels.into_owned(), KnownGroup { firing, told_ms: self.told_ms, notices: self.notices })
    }
}
