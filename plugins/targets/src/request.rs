//! How a target is asked.

use crate::url::{PRIVATE_NETWORKS, Url};
use dropsonde_guest::files;
use dropsonde_guest::http::Request;
use dropsonde_guest::{Failure, Need};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest request, if a target has no other.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The keys of a target that say how it is asked. It is flattened into a target's own keys, and finds unknown ones.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct RequestConfig {
    /// The time between two requests. None: each poll.
    interval: Option<String>,
    timeout: Option<String>,
    /// A file with a bearer token.
    bearer_file: Option<String>,
    basic: Option<BasicConfig>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Whatever other keys there are: mistakes.
    #[serde(flatten)]
    unknown: BTreeMap<String, serde_json::Value>,
}

/// A user, and a file with the password.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct BasicConfig {
    user: String,
    password_file: String,
}

/// How a target is asked, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestSettings {
    pub interval: Option<Duration>,
    pub timeout: Duration,
    credentials: Credentials,
    headers: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Credentials {
    None,
    /// A file with the token.
    Bearer(String),
    /// The user, and a file with the password.
    Basic(String, String),
}

/// The files of credentials that were read in a call.
#[derive(Debug, Default)]
pub(crate) struct Secrets(BTreeMap<String, String>);

/// Returns the grants that requests to targets need. Of each target: its id, URL, method and configuration.
pub fn grants<'a>(
    targets: impl Iterator<Item = (&'a str, &'a str, &'a str, &'a RequestConfig)>,
) -> Result<Vec<Need>, Failure> {
    let (mut needs, mut has_names) = (Vec::new(), false);
    for (id, url, method, request) in targets {
        let url = Url::parse(url).map_err(|why| Failure::invalid(format!("the target {id}: {why}")))?;
        needs.push(Need::http(url.rule(method)));
        needs.extend(request.files().map(Need::read));
        has_names |= url.has_name();
    }
    if has_names {
        needs.extend(PRIVATE_NETWORKS.map(Need::http));
    }
    Ok(needs)
}

// === impl RequestConfig ===

impl RequestConfig {
    /// Returns the files that requests need.
    pub fn files(&self) -> impl Iterator<Item = String> {
        let password = self.basic.as_ref().map(|basic| basic.password_file.clone());
        self.bearer_file.clone().into_iter().chain(password)
    }

    pub fn settings(&self) -> Result<RequestSettings, String> {
        if let Some(key) = self.unknown.keys().next() {
            return Err(format!("there is no key `{key}`"));
        }
        let duration = |name: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => {
                let wrong = || format!("{name} = {text:?} is not a time such as \"30s\"");
                duration(text).map(Some).ok_or_else(wrong)
            }
        };
        let credentials = match (&self.bearer_file, &self.basic) {
            (None, None) => Credentials::None,
            (Some(file), None) => Credentials::Bearer(file.clone()),
            (None, Some(basic)) => Credentials::Basic(basic.user.clone(), basic.password_file.clone()),
            (Some(_), Some(_)) => return Err("`bearer_file` and `basic` exclude each other".to_owned()),
        };
        Ok(RequestSettings {
            interval: duration("interval", &self.interval)?,
            timeout: duration("timeout", &self.timeout)?.unwrap_or(TIMEOUT),
            credentials,
            headers: self.headers.clone(),
        })
    }
}

// === impl RequestSettings ===

impl RequestSettings {
    /// Makes a GET request of its own, outside a [`Round`](crate::Round).
    pub fn get(&self, url: &str) -> Result<Request, String> {
        self.complete(Request::get(url), &mut Secrets::default())
    }

    /// Adds the timeout, the headers and the credentials to a request.
    pub(crate) fn complete(&self, request: Request, secrets: &mut Secrets) -> Result<Request, String> {
        let request = self.headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        let request = request.timeout(self.timeout);
        let authorization = match &self.credentials {
            Credentials::None => return Ok(request),
            Credentials::Bearer(file) => format!("Bearer {}", secrets.read(file)?),
            Credentials::Basic(user, file) => {
                format!("Basic {}", base64(format!("{user}:{}", secrets.read(file)?).as_bytes()))
            }
        };
        Ok(request.header("authorization", authorization))
    }
}

// === impl Secrets ===

impl Secrets {
    fn read(&mut self, file: &str) -> Result<String, String> {
        if let Some(secret) = self.0.get(file) {
            return Ok(secret.clone());
        }
        let secret = files::read_to_string(file).map_err(|error| error.to_string())?;
        self.0.insert(file.to_owned(), secret.trim().to_owned());
        Ok(secret.trim().to_owned())
    }
}

/// Parses a time such as `500ms`, `30s` or `1m`.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.find(|char: char| char.is_ascii_alphabetic())?)?;
    let seconds = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let number: f64 = number.trim().parse().ok()?;
    Duration::try_from_secs_f64(number * seconds).ok().filter(|duration| !duration.is_zero())
}

/// Encodes bytes as base64.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |bytes: &[u8]| {
        let byte = |nth: usize| u32::from(bytes.get(nth).copied().unwrap_or(0));
        let group = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        let digit = |nth: usize| DIGITS.get((group >> (18 - 6 * nth)) as usize & 63).copied();
        (0..4).map(|nth| digit(nth).filter(|_| nth <= bytes.len()).map_or('=', char::from)).collect::<String>()
    };
    bytes.chunks(3).map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> Result<RequestSettings, String> {
        serde_json::from_str::<RequestConfig>(json).unwrap().settings()
    }

    #[test]
    fn base64_is_that_of_basic_authentication() {
        for (text, encoded) in
            [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("abc", "YWJj"), ("user:pässword", "dXNlcjpww6Rzc3dvcmQ=")]
        {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
    }

    #[test]
    fn times_have_units() {
        let times = ["500ms", "1.5s", "2m", "1h", "10", "s", "0s", "-1s", "1d"].map(duration);
        let millis = times.map(|time| time.map(|time| time.as_millis()));
        assert_eq!(millis, [Some(500), Some(1500), Some(120_000), Some(3_600_000), None, None, None, None, None]);
    }

    #[test]
    fn a_setting_with_a_mistake_is_refused_with_the_mistake() {
        for (json, why) in [
            (r#"{"intervall": "1s"}"#, "no key `intervall`"),
            (r#"{"timeout": "soon"}"#, "timeout = \"soon\" is not a time"),
            (r#"{"bearer_file": "/a", "basic": {"user": "a", "password_file": "/b"}}"#, "exclude each other"),
        ] {
            let error = settings(json).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn credentials_come_from_files() {
        let file = std::env::temp_dir().join(format!("dropsonde-targets-{}", std::process::id()));
        std::fs::write(&file, "secret\n").unwrap();
        let path = file.to_str().unwrap();
        let complete = |json: String| {
            settings(&json).unwrap().complete(Request::get("http://a"), &mut Secrets::default()).unwrap()
        };
        let with = |value: &str| Request::get("http://a").timeout(TIMEOUT).header("authorization", value);
        assert_eq!(complete(format!(r#"{{"bearer_file": {path:?}}}"#)), with("Bearer secret"));
        let basic = format!(r#"{{"basic": {{"user": "me", "password_file": {path:?}}}}}"#);
        assert_eq!(complete(basic), with("Basic bWU6c2VjcmV0"));
        std::fs::remove_file(&file).unwrap();
        let gone = settings(&format!(r#"{{"bearer_file": {path:?}}}"#)).unwrap();
        assert!(gone.complete(Request::get("http://a"), &mut Secrets::default()).unwrap_err().contains(path));
    }
}
