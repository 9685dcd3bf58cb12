//! One rule of the HTTP grants: an origin, and the methods and paths that requests to it may have.

use super::origin::OriginPattern;
use super::path::decode;
use glob::{MatchOptions, Pattern};
use http::header::UPGRADE;
use http::{HeaderMap, Method};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The last label of host names that stand for Unix sockets. No other host has it.
pub(super) const SOCKET: &str = ".unix";

/// Headers by which some servers replace the method or the path of a request.
const OVERRIDES: [&str; 5] =
    ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];

/// How globs match paths: `*` and `?` stay within a segment.
const WITHIN_SEGMENTS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// A rule as text: `[METHOD[,METHOD…]] ORIGIN [as NAME] [PATH…]`. For example `GET http://127.0.0.1:8080 /api/**`, or
/// `GET unix:/run/docker.sock as docker /v1.*/containers/**`, to which requests go as `http://docker.unix/…`. A rule
/// with methods and paths can be for any host or port: `GET http://*:* /metrics`.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) origin: OriginPattern,
    /// The Unix socket for which the origin stands.
    pub(super) socket: Option<PathBuf>,
    /// Empty: all methods.
    methods: Vec<Method>,
    /// Globs. Empty: all paths.
    paths: Vec<Pattern>,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_ascii_whitespace().peekable();
        let is_methods = |word: &&str| word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b',');
        let methods = words.next_if(is_methods).map_or(Ok(Vec::new()), methods)?;
        let place = words.next().ok_or("it names no origin")?;
        let name = words.next_if_eq(&"as").map(|_| words.next().ok_or("`as` is followed by no name")).transpose()?;
        let (origin, socket) = match (place.strip_prefix("unix:"), name) {
            (Some(path), Some(name)) => (of_socket(name)?, Some(socket(path)?)),
            (Some(_), None) => {
                return Err("a Unix socket needs a name: with `as = \"docker\"` it is http://docker.unix".to_owned());
            }
            (None, Some(_)) => return Err("only a Unix socket can have a name".to_owned()),
            (None, None) => (OriginPattern::parse(place)?, None),
        };
        if socket.is_none() && origin.host.as_deref().is_some_and(|host| host.ends_with(SOCKET)) {
            return Err(format!("names that end in {SOCKET} stand for Unix sockets"));
        }
        let rule = Self { origin, socket, methods, paths: words.map(glob).collect::<Result<_, _>>()? };
        if rule.origin.host.is_none() && (rule.methods.is_empty() || rule.paths.is_empty()) {
            return Err("a rule for any host has methods and paths, such as GET http://*:* /metrics".to_owned());
        }
        Ok(rule)
    }
}

impl Rule {
    /// Returns whether the rule allows a request to its origin. `path`: the path as it is sent, without the query.
    pub(super) fn allows(&self, method: &Method, path: &str, headers: &HeaderMap) -> bool {
        // A tunnel or another protocol would carry requests that nobody looks at.
        if *method == Method::CONNECT || headers.contains_key(UPGRADE) {
            return false;
        }
        let is_limited = !self.methods.is_empty() || !self.paths.is_empty();
        if is_limited && OVERRIDES.iter().any(|name| headers.contains_key(*name)) {
            return false;
        }
        let has_path = || decode(path).is_some_and(|path| self.has_path(&path));
        self.has_method(method) && (self.paths.is_empty() || has_path())
    }

    fn has_method(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method)
    }

    fn has_path(&self, path: &str) -> bool {
        self.paths.is_empty() || self.paths.iter().any(|glob| glob.matches_with(path, WITHIN_SEGMENTS))
    }

    /// Returns whether some rules together allow everything that this one asks for.
    pub(super) fn is_covered_by(&self, rules: &[Self]) -> bool {
        let is_same = |rule: &&Self| rule.origin.contains_all_of(&self.origin) && rule.socket == self.socket;
        let same: Vec<&Self> = rules.iter().filter(is_same).collect();
        let each = |method: Option<&Method>, path: Option<&Pattern>| {
            same.iter().any(|rule| {
                let has_path = match path {
                    None => rule.paths.is_empty(),
                    Some(path) => {
                        let is_plain = Pattern::escape(path.as_str()) == path.as_str();
                        rule.paths.is_empty() || rule.paths.contains(path) || (is_plain && rule.has_path(path.as_str()))
                    }
                };
                has_path && method.map_or(rule.methods.is_empty(), |method| rule.has_method(method))
            })
        };
        let methods = self.methods.iter().map(Some).chain(self.methods.is_empty().then_some(None));
        methods.into_iter().all(|method| {
            let mut paths = self.paths.iter().map(Some).chain(self.paths.is_empty().then_some(None));
            paths.all(|path| each(method, path))
        })
    }
}

fn methods(text: &str) -> Result<Vec<Method>, String> {
    let method = |name: &str| match name {
        "" => Err(format!("{text:?} is not a list of methods such as GET,HEAD")),
        "CONNECT" => Err("CONNECT cannot be granted".to_owned()),
        name => Method::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is not a method")),
    };
    text.split(',').map(method).collect()
}

fn of_socket(name: &str) -> Result<OriginPattern, String> {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !(1..=63).contains(&name.len()) || !name.bytes().all(is_name) {
        return Err(format!("the name of the socket, {name:?}, is not up to 63 lower-case letters, digits and `-`"));
    }
    Ok(OriginPattern { is_tls: false, host: Some(format!("{name}{SOCKET}")), port: Some(80) })
}

fn socket(path: &str) -> Result<PathBuf, String> {
    if !Path::new(path).is_absolute() {
        return Err(format!("the path of the socket, {path:?}, does not begin with `/`"));
    }
    Ok(path.into())
}

/// Parses a glob of paths. It is compared with decoded paths.
fn glob(text: &str) -> Result<Pattern, String> {
    if !text.starts_with('/') || text.contains(['?', '%', '#']) || text.split('/').any(|segment| segment == "..") {
        return Err(format!("{text:?} is not a glob of paths such as /api/**: it begins with `/`, and has no query"));
    }
    Pattern::new(text).map_err(|error| format!("{text:?} is not a glob of paths: {}", error.msg))
}

#[cfg(test)]
mod tests {
    use super::super::origin::Origin;
    use super::*;
    use http::HeaderValue;
    use http::header::HeaderName;
    use proptest::prelude::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    fn allows(text: &str, method: Method, path: &str) -> bool {
        rule(text).allows(&method, path, &HeaderMap::new())
    }

    #[test]
    fn a_plain_origin_allows_all_methods_and_paths_but_no_tunnel() {
        for path in ["/", "/a/../b", "/%2e"] {
            assert!(allows("http://a", Method::DELETE, path), "{path}");
        }
        assert!(!allows("http://a", Method::CONNECT, "/"));
        let upgrade = HeaderMap::from_iter([(UPGRADE, HeaderValue::from_static("websocket"))]);
        assert!(!rule("http://a").allows(&Method::GET, "/", &upgrade));
    }

    #[test]
    fn a_rule_allows_only_its_methods_and_paths() {
        let docker = "GET,HEAD unix:/run/docker.sock as docker /v1.*/containers/** /_ping";
        for path in ["/v1.41/containers/json", "/v1.41/containers/a/stats", "/_ping"] {
            assert!(allows(docker, Method::GET, path) && allows(docker, Method::HEAD, path), "{path}");
            assert!(!allows(docker, Method::POST, path), "{path}");
        }
        for path in [
            "/v1.41/images/json",
            "/v1.41/x/containers/json",
            "/v1.41/containers/../images/json",
            "/v1.41/containers/..%2fimages",
            "/v1.41/containers/%2e%2e/images",
            "/v1.41//containers/json",
            "/_ping/",
            "/_PING",
            "/http://docker.unix/_ping",
        ] {
            assert!(!allows(docker, Method::GET, path), "{path}");
        }
        assert_eq!(rule(docker).origin, OriginPattern::parse("http://docker.unix").unwrap());
        assert_eq!(rule(docker).socket, Some(PathBuf::from("/run/docker.sock")));
    }

    #[test]
    fn a_rule_for_any_host_or_port_is_for_no_unix_socket() {
        let covers = |rule: &str, origin: &str| {
            OriginPattern::parse(rule).unwrap().contains(&Origin::of(&origin.parse().unwrap()).unwrap())
        };
        assert!(covers("http://*:*", "http://10.0.0.1:9100") && covers("http://*:*", "http://a"));
        assert!(covers("http://*:9100", "http://b:9100") && covers("https://a:*", "https://a:1"));
        assert!(!covers("http://*:*", "https://a") && !covers("http://*:9100", "http://a:9101"));
        assert!(!covers("http://a:*", "http://b:1") && !covers("http://*:*", "http://docker.unix"));
        assert!(!covers("http://*", "http://a:8080"), "without a port it is 80");
    }

    #[test]
    fn a_header_that_replaces_the_method_or_the_path_is_not_allowed_under_a_limit() {
        for name in OVERRIDES {
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static("DELETE"))]);
            assert!(!rule("GET http://a").allows(&Method::GET, "/", &headers), "{name}");
            assert!(!rule("http://a /x").allows(&Method::GET, "/x", &headers), "{name}");
            assert!(rule("http://a").allows(&Method::GET, "/", &headers), "{name}");
        }
    }

    #[test]
    fn a_rule_with_a_mistake_is_refused_with_the_mistake() {
        for (text, why) in [
            ("", "no origin"),
            ("GET", "no origin"),
            ("GET, http://a", "list of methods"),
            ("CONNECT http://a", "CONNECT"),
            ("get http://a", "not an origin"),
            ("http://a as b", "only a Unix socket"),
            ("unix:/s", "needs a name"),
            ("unix:/s as", "no name"),
            ("unix:/s as A.b", "lower-case"),
            ("unix:s as b", "does not begin with `/`"),
            ("http://b.unix", "stand for Unix sockets"),
            ("GET http://*:*", "a rule for any host"),
            ("http://*:9100 /metrics", "a rule for any host"),
            ("http://a api", "glob of paths"),
            ("http://a /x?y=1", "glob of paths"),
            ("http://a /a/../b", "glob of paths"),
            ("http://a /***", "glob of paths"),
        ] {
            let error = text.parse::<Rule>().unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn a_need_is_covered_by_rules_that_together_allow_all_of_it() {
        let covered = |wanted: &str, granted: &[&str]| {
            rule(wanted).is_covered_by(&granted.iter().map(|text| rule(text)).collect::<Vec<_>>())
        };
        assert!(covered("GET http://a /x /y", &["http://a"]));
        assert!(covered("GET http://a /x /y", &["GET http://a /x", "GET,POST http://a /y"]));
        assert!(covered("GET http://a /x/y", &["GET http://a /x/*"]));
        assert!(covered("http://a /x/**", &["http://a /x/** /y"]));
        assert!(covered("GET http://a:9100 /metrics", &["GET http://*:* /metrics"]));
        assert!(covered("GET http://*:9100 /metrics", &["GET http://*:* /metrics"]));
        for (wanted, granted) in [
            ("http://a", "GET http://a"),
            ("http://a", "http://a /x"),
            ("POST http://a", "GET http://a"),
            ("GET http://a /x/**", "GET http://a /x/*"),
            ("GET http://a /x", "GET http://b /x"),
            ("unix:/s as a", "unix:/t as a"),
            ("GET http://*:* /metrics", "GET http://*:9100 /metrics"),
            ("GET http://*:* /metrics", "GET http://a:9100 /metrics"),
        ] {
            assert!(!covered(wanted, &[granted]), "{wanted}: {granted}");
        }
    }

    /// Returns what a careless server makes of a path: it decodes twice, merges slashes, and resolves dots.
    fn careless(path: &str) -> String {
        let decode = |text: &[u8]| {
            let mut bytes = Vec::new();
            let mut rest = text;
            while let [first, others @ ..] = rest {
                let code = others.get(..2).and_then(|code| std::str::from_utf8(code).ok());
                match code.filter(|_| *first == b'%').and_then(|code| u8::from_str_radix(code, 16).ok()) {
                    Some(byte) => {
                        bytes.push(byte);
                        rest = &others[2..];
                    }
                    None => {
                        bytes.push(*first);
                        rest = others;
                    }
                }
            }
            bytes
        };
        let path = String::from_utf8_lossy(&decode(&decode(path.as_bytes()))).replace('\\', "/");
        let mut segments = Vec::new();
        for segment in path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()) {
            match segment {
                "" | "." => {}
                ".." => drop(segments.pop()),
                segment => segments.push(segment),
            }
        }
        format!("/{}", segments.join("/"))
    }

    proptest! {
        #[test]
        fn no_allowed_path_leads_out_of_its_glob_however_a_server_reads_it(
            path in r"(/|api|\.|\.\.|%2e|%2E|%2f|%5c|\\|;|%25|%252e|x|//){1,9}"
        ) {
            let path = format!("/api/{path}");
            if rule("GET http://a /api/**").allows(&Method::GET, &path, &HeaderMap::new()) {
                let read = careless(&path);
                prop_assert!(read == "/api" || read.starts_with("/api/"), "{path} is read as {read}");
            }
        }
    }
}
