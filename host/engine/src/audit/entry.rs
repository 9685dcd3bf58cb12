use serde::Serialize;

/// A line: who did what.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    #[serde(flatten)]
    pub by: By,
    #[serde(flatten)]
    pub what: What,
}

/// Who did it.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum By {
    /// Whoever writes to the plugins folder.
    Folder,
    Host,
    Api(Caller),
}

/// Who sent a request.
#[derive(Debug, Clone, Serialize)]
pub struct Caller {
    /// Which token it showed: `read`, `write`, `admin`. None: none of this host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<&'static str>,
    /// The subject of the certificate it showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// Where it came from: an address and a port, or `unix:uid=…`.
    pub peer: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum What {
    Plugin(PluginChange),
    Request(Request),
}

/// What became of a plugin.
#[derive(Debug, Clone, Serialize)]
pub struct PluginChange {
    pub action: Action,
    pub plugin: String,
    /// sha256 of the component it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Why it was not done, if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// What was done, or tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Upload,
    Reload,
    /// A file in the plugins folder appeared.
    Add,
    /// It changed.
    Replace,
    /// What ran well before is back.
    Restore,
    Remove,
    Quarantine,
    Release,
}

/// A request to change something, and its answer.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "action", rename = "request")]
pub struct Request {
    pub method: String,
    /// Without its query.
    pub path: String,
    /// None: who asked left before it was answered. What was begun may be done all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it was not done, if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Reload => "reload",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Restore => "restore",
            Self::Remove => "remove",
            Self::Quarantine => "quarantine",
            Self::Release => "release",
        }
    }
}

impl std::fmt::Display for By {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder => f.write_str("folder"),
            Self::Host => f.write_str("host"),
            Self::Api(Caller { token, peer, .. }) => write!(f, "{} from {peer}", token.unwrap_or("nobody known")),
        }
    }
}

impl Entry {
    /// The same for the host's own log.
    pub(super) fn log(&self) {
        let by = &self.by;
        match &self.what {
            What::Plugin(PluginChange { action, plugin, refused: None, .. }) => {
                tracing::info!(action = action.as_str(), plugin, %by, "a plugin was changed");
            }
            // The log says why a file is not taken, once for each reason.
            What::Plugin(PluginChange { action, plugin, refused: Some(reason), .. }) if matches!(by, By::Folder) => {
                tracing::debug!(action = action.as_str(), plugin, %by, reason, "a change was refused");
            }
            What::Plugin(PluginChange { action, plugin, refused: Some(reason), .. }) => {
                tracing::info!(action = action.as_str(), plugin, %by, reason, "a change was refused");
            }
            What::Request(Request { method, path, status, refused }) => {
                tracing::debug!(method, ?path, status, refused, %by, "a request to change something");
            }
        }
    }

    /// Whether it changed nothing: somebody was refused, or read.
    pub(super) fn is_no_change(&self) -> bool {
        let (path, status) = match &self.what {
            What::Plugin(change) => return change.refused.is_some(),
            What::Request(Request { path, status, .. }) => (path, status),
        };
        status.is_some_and(|status| status >= 400) || path == "/login" || path == "/logout"
    }
}
