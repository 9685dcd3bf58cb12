use serde::Serialize;

/// An entry of the audit log: an action and who did it.
#[derive(Debug, Clone, Serialize)]
pub struct AuditEntry {
    #[serde(flatten)]
    pub by: Actor,
    #[serde(flatten)]
    pub what: AuditedAction,
}

/// The origin of an action.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "by", rename_all = "lowercase")]
pub enum Actor {
    /// Someone who writes to the plugins folder.
    Folder,
    /// The host itself.
    Host,
    Api(ApiCaller),
}

/// The sender of a request.
#[derive(Debug, Clone, Serialize)]
pub struct ApiCaller {
    /// The kind of the token it showed: `read`, `write` or `admin`. None: no token of this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<&'static str>,
    /// The subject of the client certificate it showed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    /// The sender's address and port, or `unix:uid=…`.
    pub peer: String,
}

/// The action of an entry.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum AuditedAction {
    Plugin(PluginChange),
    Request(AuditedRequest),
}

/// A change of a plugin, made or refused.
#[derive(Debug, Clone, Serialize)]
pub struct PluginChange {
    pub action: PluginAction,
    pub plugin: String,
    /// sha256 of the component, in hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The reason why the change was refused; none if it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The kind of a plugin's change, made or tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PluginAction {
    Upload,
    Reload,
    /// A file in the plugins folder appeared.
    Add,
    /// A file in the plugins folder changed.
    Replace,
    /// The plugin's last good version runs again.
    Restore,
    Remove,
    Quarantine,
    Release,
}

/// A request to change something, and its answer.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "action", rename = "request")]
pub struct AuditedRequest {
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The HTTP status. None: the client left before the answer; the change may have been made all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The reason why the request was refused; none if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl PluginAction {
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

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder => f.write_str("folder"),
            Self::Host => f.write_str("host"),
            Self::Api(ApiCaller { token, peer, .. }) => write!(f, "{} from {peer}", token.unwrap_or("unknown caller")),
        }
    }
}

impl AuditEntry {
    /// Writes the entry to the host's own log.
    pub(super) fn log(&self) {
        let by = &self.by;
        match &self.what {
            AuditedAction::Plugin(PluginChange { action, plugin, refused: None, .. }) => {
                tracing::info!(action = action.as_str(), plugin, %by, "a plugin was changed");
            }
            // The host logs elsewhere why it refuses a file, once for each reason.
            AuditedAction::Plugin(PluginChange { action, plugin, refused: Some(reason), .. })
                if matches!(by, Actor::Folder) =>
            {
                tracing::debug!(action = action.as_str(), plugin, %by, reason, "a change was refused");
            }
            AuditedAction::Plugin(PluginChange { action, plugin, refused: Some(reason), .. }) => {
                tracing::info!(action = action.as_str(), plugin, %by, reason, "a change was refused");
            }
            AuditedAction::Request(AuditedRequest { method, path, status, refused }) => {
                tracing::debug!(method, ?path, status, refused, %by, "a client sent a request to change something");
            }
        }
    }

    /// Returns whether the action is a request that needed no more than the right to write, or of nobody known.
    pub(super) fn is_of_writer(&self) -> bool {
        let is_admin = |caller: &ApiCaller| caller.token == Some("admin");
        matches!((&self.by, &self.what), (Actor::Api(caller), AuditedAction::Request(_)) if !is_admin(caller))
    }

    /// Returns whether the action changed nothing: it was refused, or was a login or logout.
    pub(super) fn is_no_change(&self) -> bool {
        let (path, status) = match &self.what {
            AuditedAction::Plugin(change) => return change.refused.is_some(),
            AuditedAction::Request(AuditedRequest { path, status, .. }) => (path, status),
        };
        status.is_some_and(|status| status >= 400) || path == "/login" || path == "/logout"
    }
}
