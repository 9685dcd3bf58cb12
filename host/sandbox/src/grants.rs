use crate::Need;
use crate::Root;
use crate::capability::dirs::Dirs;
use crate::capability::env::Env;
use crate::capability::files::Files;
use crate::capability::http::Origins;

/// The capabilities that the operator grants to a plugin, in the same form in which plugins ask for them.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    granted: Vec<Need>,
    pub(crate) files: Files,
    pub(crate) env: Env,
    pub(crate) dirs: Dirs,
    pub(crate) http: Origins,
}

/// A grant that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot grant {what:?}: {why}")]
pub struct BadGrant {
    what: String,
    why: String,
}

impl Grants {
    pub fn new(granted: impl IntoIterator<Item = Need>) -> Result<Self, BadGrant> {
        Self::beneath(None, granted)
    }

    /// Does the same for paths below a root.
    pub fn beneath(root: Option<&Root>, granted: impl IntoIterator<Item = Need>) -> Result<Self, BadGrant> {
        let mut grants = Self::default();
        if let Some(root) = root {
            grants.files.begin_at(root.clone());
            grants.http.begin_at(root.clone());
        }
        for need in granted {
            let bad = |why: String| BadGrant { what: need.what().to_owned(), why };
            match &need {
                Need::Read(glob) => grants.files.grant(glob),
                Need::Http(origin) => grants.http.grant(origin),
                Need::Env(name) => grants.env.grant(name),
                Need::Dir(path) => grants.dirs.grant(path),
            }
            .map_err(bad)?;
            grants.granted.push(need);
        }
        if let Some(why) = grants.http.useless() {
            let network = grants.granted.iter().find(|need| matches!(need, Need::Http(_)));
            return Err(BadGrant { what: network.map(|need| need.what().to_owned()).unwrap_or_default(), why });
        }
        Ok(grants)
    }

    /// Returns the grants as they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Need> {
        self.granted.iter()
    }

    /// Returns whether the grants cover everything that a need asks for.
    pub fn cover(&self, need: &Need) -> bool {
        self.granted.contains(need)
            || match need {
                Need::Read(glob) => self.files.cover(glob),
                Need::Http(origin) => self.http.cover(origin),
                Need::Env(_) => false,
                Need::Dir(path) => self.dirs.cover(path),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_covers_what_is_asked_for_in_other_words() {
        let read = |glob: &str| Need::Read(glob.to_owned());
        let http = |origin: &str| Need::Http(origin.to_owned());
        let env = |name: &str| Need::Env(name.to_owned());
        let dir = |path: &str| Need::Dir(path.to_owned());
        let granted = [read("/proc/*"), http("https://example.com"), env("TZ"), dir("/srv/data")];
        let grants = Grants::new(granted).unwrap();
        for covered in [
            read("/proc/*"),
            read("/proc/stat"),
            http("https://EXAMPLE.com:443"),
            env("TZ"),
            dir("/srv/data/sub"),
            dir("/srv/data/"),
        ] {
            assert!(grants.cover(&covered), "{covered:?}");
        }
        for missing in [read("/etc/*"), http("http://example.com"), env("HOME"), dir("/srv"), dir("/srv/database")] {
            assert!(!grants.cover(&missing), "{missing:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for bad in [
            Need::Read("proc".to_owned()),
            Need::Http("ftp://x".to_owned()),
            Need::Env("A=B".to_owned()),
            Need::Dir("data".to_owned()),
        ] {
            let error = Grants::new([bad.clone()]).unwrap_err().to_string();
            assert!(error.contains(&format!("{:?}", bad.what())), "{error}");
        }
    }

    #[test]
    fn a_name_alone_is_told_what_it_was_meant_to_be_and_a_network_alone_that_it_is_of_no_use() {
        let refused = |what: &str| Grants::new([Need::Http(what.to_owned())]).unwrap_err().to_string();
        for (name, meant) in [("example.com", "https://example.com"), ("db:8080", "https://db:8080")] {
            assert!(refused(name).ends_with(&format!("did you mean \"{meant}\"?")), "{}", refused(name));
        }
        assert!(refused("10.0.0.0/99").ends_with("it is not a network such as 10.0.0.0/8"));
        let network = refused("10.0.0.0/8");
        assert!(network.starts_with("cannot grant \"10.0.0.0/8\": ") && network.contains("no origin"), "{network}");
        let both = ["http://db.internal", "10.0.0.0/8"].map(|what| Need::Http(what.to_owned()));
        assert!(Grants::new(both).is_ok());
    }
}
