//! The rules for plugin names, and the names that belong to the host.

/// The prefix of instance and owner names that belong to the host: `dropsonde:snapshot`, `dropsonde:api`.
pub const RESERVED: &str = "dropsonde:";

/// The owner of the host's own series and bytes.
pub const HOST: &str = "dropsonde:host";

/// The rule for plugin names, as error messages quote it.
pub const PLUGIN_RULE: &str = "letters, digits, `-` and `_`, at most 64, and not host, history or snapshot";

/// Names of parts of the host. In the host's metrics a plugin of the same name could not be told apart from them.
const PARTS: [&str; 3] = ["host", "history", "snapshot"];

/// Longest plugin name, in bytes.
const LONGEST: usize = 64;

/// Returns whether a name belongs to the host.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED)
}

/// Returns whether a text is a valid plugin name. The name becomes a label, a file name and a TOML key.
pub fn is_plugin(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !name.is_empty() && name.len() <= LONGEST && name.bytes().all(plain) && !PARTS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_names_are_plain_and_differ_from_names_of_parts_of_the_host() {
        for name in ["procfs", "my-plugin_2", "HOST"] {
            assert!(is_plugin(name), "{name}");
        }
        for name in ["", "host", "history", "snapshot", "a b", "a.b", "a/b", "ä", "dropsonde:api", &"x".repeat(65)] {
            assert!(!is_plugin(name), "{name}");
        }
        assert!(is_reserved("dropsonde:api") && !is_reserved("dropsonde"));
    }
}
