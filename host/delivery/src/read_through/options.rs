//! `[read_through]`: a database that has longer history.

use crate::access::{AccessConfig, access_of, check_headers, check_url, host_of};
use crate::samples::relabel::is_label;
use dropsonde_model::{InvalidValue, Span};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `[read_through]`: a database that is asked for what is older than history here, or was measured elsewhere.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadThroughConfig {
    /// The URL before `/api/v1/query_range`.
    pub url: String,
    /// Its name in answers. None: the host of the URL.
    pub name: Option<String>,
    /// Labels that the series of this host have there, and have not here.
    #[serde(default)]
    pub external_labels: BTreeMap<String, String>,
    /// Further headers of requests, such as `X-Scope-OrgID`.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    pub bearer_token_file: Option<PathBuf>,
    pub username: Option<String>,
    pub password_file: Option<PathBuf>,
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// The HTTP proxy between, possibly with a user.
    pub proxy_url: Option<String>,
    pub proxy_password_file: Option<PathBuf>,
    /// The longest time of a request.
    #[serde(default = "timeout")]
    pub timeout: Span,
}

fn timeout() -> Span {
    Span::from_secs(10)
}

impl ReadThroughConfig {
    pub(crate) fn check(&self) -> Result<(), InvalidValue> {
        let key = "read_through";
        check_url(&format!("{key}.url"), &self.url)?;
        check_headers(&format!("{key}.headers"), &self.headers)?;
        if let Some(name) = self.external_labels.keys().find(|name| !is_label(name)) {
            let why = format!("has {name:?}, which is no name of a label");
            return InvalidValue::of(&format!("{key}.external_labels"), &why);
        }
        self.access().check(key)
    }

    /// Returns its name in answers.
    pub fn name(&self) -> String {
        self.name.clone().or_else(|| host_of(&self.url)).unwrap_or_default()
    }

    pub(crate) fn access(&self) -> AccessConfig {
        access_of!(self)
    }
}
