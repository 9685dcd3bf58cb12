//! Rules about HTTP requests, as the configuration file has them.

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Reads the list of `grants.http`, and returns each entry as text.
pub(super) fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let entries = Vec::<RuleEntry>::deserialize(from)?;
    Ok(entries.into_iter().map(|RuleEntry(text)| text).collect())
}

/// An entry: a text, or a table.
struct RuleEntry(String);

/// A rule as a table: `{ origin = "http://127.0.0.1:8080", methods = ["GET"], paths = ["/metrics"] }`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleTable {
    origin: String,
    /// The name of a Unix socket.
    r#as: Option<String>,
    /// None: all methods.
    methods: Option<Vec<String>>,
    /// Globs. None: all paths.
    paths: Option<Vec<String>>,
}

impl<'de> Deserialize<'de> for RuleEntry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct AsEntry;

        impl<'de> Visitor<'de> for AsEntry {
            type Value = RuleEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an origin, a network, or a table with `origin`, `as`, `methods` and `paths`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RuleEntry, E> {
                Ok(RuleEntry(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RuleEntry, A::Error> {
                let table = RuleTable::deserialize(MapAccessDeserializer::new(map))?;
                table.text().map(RuleEntry).map_err(A::Error::custom)
            }
        }

        from.deserialize_any(AsEntry)
    }
}

impl RuleTable {
    /// Returns the rule as text: `[METHOD[,METHOD…]] ORIGIN [as NAME] [PATH…]`.
    fn text(&self) -> Result<String, String> {
        let mut words = Vec::new();
        if let Some(methods) = given("methods", self.methods.as_ref())? {
            let is_method =
                |method: &&String| !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
            if let Some(wrong) = methods.iter().find(|method| !is_method(method)) {
                return Err(format!("methods: {wrong:?} is not a method in upper case, such as \"GET\""));
            }
            words.push(methods.join(","));
        }
        words.push(self.origin.clone());
        words.extend(self.r#as.iter().flat_map(|name| ["as".to_owned(), name.clone()]));
        words.extend(given("paths", self.paths.as_ref())?.into_iter().flatten().cloned());
        match words.iter().find(|word| word.is_empty() || word.contains(|char: char| char.is_whitespace())) {
            Some(wrong) => Err(format!("{wrong:?} is empty or has a space")),
            None => Ok(words.join(" ")),
        }
    }
}

/// Checks that a list is not empty: an empty one would look like nothing, and mean everything.
fn given<'a>(key: &str, list: Option<&'a Vec<String>>) -> Result<Option<&'a Vec<String>>, String> {
    match list {
        Some(list) if list.is_empty() => Err(format!("{key}: must not be empty; leave it out to allow all")),
        list => Ok(list),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<Vec<String>, String> {
        #[derive(Deserialize)]
        struct Grants {
            #[serde(deserialize_with = "list")]
            http: Vec<String>,
        }
        toml::from_str::<Grants>(toml).map(|grants| grants.http).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_table_says_the_same_as_a_text() {
        let text = "GET,HEAD unix:/run/docker.sock as docker /v1.*/containers/** /_ping";
        let table = "{ origin = 'unix:/run/docker.sock', as = 'docker', methods = ['GET', 'HEAD'], \
                     paths = ['/v1.*/containers/**', '/_ping'] }";
        assert_eq!(read(&format!("http = ['10.0.0.0/8', '{text}', {table}]")).unwrap(), ["10.0.0.0/8", text, text]);
        assert_eq!(read("http = [{ origin = 'http://a' }]").unwrap(), ["http://a"]);
    }

    #[test]
    fn a_table_with_a_mistake_is_refused_with_the_mistake() {
        for (table, why) in [
            ("{}", "missing field `origin`"),
            ("{ origin = 'http://a', path = ['/'] }", "unknown field `path`"),
            ("{ origin = 'http://a', methods = [] }", "methods: must not be empty"),
            ("{ origin = 'http://a', paths = [] }", "paths: must not be empty"),
            ("{ origin = 'http://a', methods = ['get'] }", "upper case"),
            ("{ origin = 'http://a', methods = ['GET,POST'] }", "upper case"),
            ("{ origin = 'http://a', paths = ['/a b'] }", "has a space"),
            ("{ origin = '' }", "is empty"),
            ("1", "an origin, a network, or a table"),
        ] {
            let error = read(&format!("http = [{table}]")).unwrap_err();
            assert!(error.contains(why), "{table}: {error}");
        }
    }
}
