//! The words every plugin exchanges with the host.

use serde::de::DeserializeOwned;

/// Why there is no reading, or why the plugin cannot work.
///
/// Every [`std::error::Error`] turns into [`Failure::Unavailable`] with `?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The instance exists no more: it ends, its history stays until retention.
    Gone,
    /// No reading this time, and why: a gap.
    Unavailable(String),
    /// A capability was refused.
    Denied(String),
    /// The configuration cannot work: the plugin is set aside with this message.
    Invalid(String),
}

// === impl Failure ===

impl Failure {
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self::Unavailable(why.into())
    }

    pub fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid(why.into())
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// What a plugin says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    pub version: String,
    /// One sentence.
    pub about: String,
}

/// A capability a plugin asks for. The operator grants, or does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// A glob of absolute paths; `*` stays within a segment, `**` crosses segments.
    Read(String),
    /// `http://127.0.0.1:8080`
    Http(String),
    /// The name of an environment variable.
    Env(String),
    /// A directory to see through `wasi:filesystem`, read-only.
    Dir(String),
}

// === impl Need ===

impl Need {
    pub fn read(glob: impl Into<String>) -> Self {
        Self::Read(glob.into())
    }

    /// Scheme, host and port.
    pub fn http(origin: impl Into<String>) -> Self {
        Self::Http(origin.into())
    }

    pub fn env(name: impl Into<String>) -> Self {
        Self::Env(name.into())
    }

    pub fn dir(path: impl Into<String>) -> Self {
        Self::Dir(path.into())
    }
}

/// The operator's configuration of this plugin: a JSON object.
///
/// ```
/// # use dropsonde_guest::{Config, Failure};
/// #[derive(serde::Deserialize, Default)]
/// #[serde(default, deny_unknown_fields)]
/// struct Settings { top: usize }
///
/// let config = Config::from_json(r#"{"top": 3}"#);
/// assert_eq!(config.parse::<Settings>().unwrap().top, 3);
/// ```
#[derive(Debug, Clone)]
pub struct Config(String);

// === impl Config ===

impl Config {
    pub fn from_json(json: impl Into<String>) -> Self {
        Self(json.into())
    }

    /// Reads the configuration as `T`; what does not fit becomes [`Failure::Invalid`].
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.0).map_err(|error| Failure::Invalid(format!("configuration: {error}")))
    }

    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// The host's clock and the budget of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The scheduled time, milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// A clock that never goes back; only differences mean something.
    pub monotonic_ns: u64,
    /// CPU time the call may use.
    pub budget_ms: u32,
    /// Time between two ticks.
    pub interval_ms: u32,
}
