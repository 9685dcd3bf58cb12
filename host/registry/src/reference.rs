use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// The name of an artifact: `registry.example/plugins/redis:1`, perhaps with the digest of its manifest behind `@`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Host name and perhaps a port.
    pub registry: String,
    pub repository: String,
    pub tag: Option<String>,
    pub digest: Option<Digest>,
}

/// A sha256 in the form `sha256:…`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

/// Why a text names no artifact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no reference such as registry.example/plugins/redis:1: {why}")]
pub struct BadReference {
    text: String,
    why: &'static str,
}

/// Longest reference, in bytes.
const LONGEST: usize = 512;

// === impl Reference ===

impl Reference {
    /// Returns the part of the name that a registry serves it under: the digest, else the tag, else `latest`.
    pub(crate) fn version(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }

    /// Returns whether the registry is on this machine, where traffic needs no TLS.
    pub(crate) fn is_local(&self) -> bool {
        let host = self.registry.rsplit_once(':').map_or(&*self.registry, |(host, _)| host);
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    /// Returns the same name with the digest of a manifest.
    pub(crate) fn pinned(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(text: &str) -> Result<Self, BadReference> {
        let bad = |why| BadReference { text: text.chars().take(LONGEST).collect(), why };
        if text.len() > LONGEST {
            return Err(bad("it is too long"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                (name, Some(digest.parse().map_err(|()| bad("behind @ must stand sha256: and 64 digits"))?))
            }
            None => (text, None),
        };
        let (registry, rest) = name.split_once('/').ok_or(bad("the registry is missing"))?;
        let is_host = registry == "localhost" || registry.contains(['.', ':']);
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        if !is_host || !registry.bytes().all(plain) {
            return Err(bad("it must begin with the name of a registry, such as ghcr.io or localhost:5000"));
        }
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.to_owned())),
            None => (rest, None),
        };
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        let is_part = |part: &str| {
            !part.is_empty() && part.bytes().all(lower) && part.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        if !repository.split('/').all(is_part) {
            return Err(bad("a repository has lower-case letters, digits and `._-`, and `/` between its parts"));
        }
        let is_tag = |tag: &String| {
            let word = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
            (1..=128).contains(&tag.len()) && tag.bytes().all(word) && !tag.starts_with(['.', '-'])
        };
        if !tag.as_ref().is_none_or(is_tag) {
            return Err(bad("a tag has letters, digits and `._-`"));
        }
        Ok(Self { registry: registry.to_owned(), repository: repository.to_owned(), tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match &self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

// === impl Digest ===

impl Digest {
    /// Returns the digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the 64 digits alone, as `sha256sum` prints them.
    pub fn hex(&self) -> &str {
        self.0.trim_start_matches("sha256:")
    }
}

impl FromStr for Digest {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let hex = text.strip_prefix("sha256:").ok_or(())?;
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if hex.len() == 64 && hex.bytes().all(is_digit) { Ok(Self(text.to_owned())) } else { Err(()) }
    }
}

impl TryFrom<String> for Digest {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        text.parse().map_err(|()| "not sha256: and 64 hexadecimal digits")
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reference_has_a_registry_a_repository_and_perhaps_a_tag_and_a_digest() {
        let digest = Digest::of(b"x");
        for text in [
            "registry.example/plugins/redis:1".to_owned(),
            "localhost:5000/redis".to_owned(),
            format!("ghcr.io/a/b-c/d_e:v1.2-x@{digest}"),
            format!("127.0.0.1:1/a@{digest}"),
        ] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        let local = |text: &str| text.parse::<Reference>().unwrap().is_local();
        assert!(local("localhost:5000/a") && local("127.0.0.1:1/a") && local("[::1]:1/a"));
        assert!(!local("localhost.example:1/a") && !local("127.0.0.1.example/a"));
    }

    #[test]
    fn what_names_no_artifact_is_refused_with_the_reason() {
        for (text, why) in [
            ("redis", "the registry is missing"),
            ("plugins/redis:1", "the name of a registry"),
            ("user@registry.example/a", "behind @"),
            ("registry.example/Plugins/a", "a repository has"),
            ("registry.example/../a", "a repository has"),
            ("registry.example/a:", "a tag has"),
            ("registry.example/a@sha256:12", "behind @"),
        ] {
            let error = text.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_reference_that_prints_as_it_was_or_is_refused(text in "[ -~]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string(), text);
            }
        }
    }
}
