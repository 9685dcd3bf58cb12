use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Users and passwords by registry, as `docker login`, `podman login` and `skopeo login` keep them.
#[derive(Clone, Default)]
pub struct Credentials(BTreeMap<String, String>);

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Deserialize)]
struct Auth {
    /// `user:password` in Base64.
    auth: Option<String>,
}

impl Credentials {
    /// Reads the file in REGISTRY_AUTH_FILE; else those that `podman login`, `skopeo login` and `docker login` write, of
    /// which the first that knows a registry counts. A file that is missing or not understood has none.
    pub fn of_user() -> Self {
        let folder = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        if let Some(file) = folder("REGISTRY_AUTH_FILE") {
            return Self::read(&file);
        }
        let home = folder("HOME");
        let below_home = |path: &str| home.as_ref().map(|home| home.join(path));
        let files = [
            folder("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")),
            folder("XDG_CONFIG_HOME")
                .or_else(|| below_home(".config"))
                .map(|folder| folder.join("containers/auth.json")),
            folder("DOCKER_CONFIG").or_else(|| below_home(".docker")).map(|folder| folder.join("config.json")),
        ];
        let mut all = Self::default();
        for Self(known) in files.into_iter().flatten().map(|file| Self::read(&file)) {
            for (registry, auth) in known {
                all.0.entry(registry).or_insert(auth);
            }
        }
        all
    }

    fn read(file: &Path) -> Self {
        Self::parse(&std::fs::read_to_string(file).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let Ok(DockerConfig { auths }) = serde_json::from_str(text) else { return Self::default() };
        let host = |name: String| {
            let name = name.trim_start_matches("https://").trim_start_matches("http://");
            name.split('/').next().unwrap_or_default().to_owned()
        };
        let known = auths.into_iter().filter_map(|(name, Auth { auth })| {
            let auth = auth.filter(|auth| STANDARD.decode(auth).is_ok_and(|plain| plain.contains(&b':')))?;
            Some((host(name), auth))
        });
        Self(known.collect())
    }

    /// Returns the value of the header that lets the user in at a registry.
    pub(crate) fn basic(&self, registry: &str) -> Option<String> {
        self.0.get(registry).map(|auth| format!("Basic {auth}"))
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_file_has_users_by_registry_and_is_not_shown() {
        let text = r#"{"auths":{"https://ghcr.io/v2/":{"auth":"dTpw"},"a.example":{},"b.example":{"auth":"%"}},"x":1}"#;
        let known = Credentials::parse(text);
        assert_eq!(known.basic("ghcr.io").as_deref(), Some("Basic dTpw"));
        assert_eq!((known.basic("a.example"), known.basic("b.example")), (None, None));
        assert_eq!(format!("{known:?}"), "{\"ghcr.io\"}");
        assert!(Credentials::parse("no JSON").0.is_empty());
    }
}
