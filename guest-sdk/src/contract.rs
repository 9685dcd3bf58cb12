//! The types that every plugin exchanges with the host.

use serde::de::DeserializeOwned;

/// Why there is no reading, or why the plugin cannot work.
///
/// `?` turns every [`std::error::Error`] into [`Failure::Unavailable`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The instance no longer exists. The host ends it, and keeps its history until `store.retention`.
    Gone,
    /// There is no reading this time; the text says why. History gets a gap.
    Unavailable(String),
    /// A capability was refused; the text says which.
    Denied(String),
    /// The configuration cannot work; the text says why. If a call fails with it, the host stops the plugin and shows
    /// the text.
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

    /// Returns the text that says why, for a line of the log.
    pub fn reason(&self) -> &str {
        match self {
            Self::Gone => "it no longer exists",
            Self::Unavailable(why) | Self::Denied(why) | Self::Invalid(why) => why,
        }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A plugin's description of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    pub name: String,
    pub version: String,
    /// One sentence that says what the plugin does.
    pub about: String,
}

/// A capability that a plugin asks for. The operator decides whether to grant it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// A glob of absolute paths to read. `*` stays within a segment, `**` crosses segments.
    Read(String),
    /// An HTTP origin, perhaps with the methods and paths of the requests to it: `http://127.0.0.1:8080`, or
    /// `GET http://127.0.0.1:8080 /api/**`.
    Http(String),
    /// The name of an environment variable.
    Env(String),
    /// A directory to read through `wasi:filesystem`.
    Dir(String),
}

// === impl Need ===

impl Need {
    pub fn read(glob: impl Into<String>) -> Self {
        Self::Read(glob.into())
    }

    /// Asks for all requests to an HTTP origin: scheme, host and port.
    ///
    /// It is better to ask for no more than the plugin sends, as in `GET http://127.0.0.1:8080 /api/**`: methods,
    /// origin, and globs of paths. `GET unix:/run/docker.sock as docker /v1.*/containers/**` asks for a Unix socket, to
    /// which requests go as `http://docker.unix/…`.
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

    /// Parses the configuration as `T`. A configuration that does not fit becomes [`Failure::Invalid`].
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.0).map_err(|error| Failure::Invalid(format!("configuration: {error}")))
    }

    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// The host's clock, and the budget of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The scheduled time, in milliseconds since 1970 UTC.
    pub at_ms: u64,
    /// A clock that never goes back, in nanoseconds. Only differences between two ticks have a meaning.
    pub monotonic_ns: u64,
    /// The CPU time that the call may use, in milliseconds.
    pub budget_ms: u32,
    /// The time between two ticks, in milliseconds.
    pub interval_ms: u32,
}
