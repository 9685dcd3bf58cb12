//! Names of plugins, and those that belong to the host.

/// The beginning of names of instances and owners that are the host's own: `dropsonde:snapshot`, `dropsonde:api`.
pub const RESERVED: &str = "dropsonde:";

/// The rule for names of plugins, for whoever broke it.
pub const PLUGIN_RULE: &str = "letters, digits, `-` and `_`, at most 64, and not host, history or snapshot";

/// Parts of the host: in its metrics a plugin of such a name could not be told apart from them.
const PARTS: [&str; 3] = ["host", "history", "snapshot"];

/// In bytes.
const LONGEST: usize = 64;

/// Whether a name belongs to the host.
pub fn is_reserved(name: &str) -> bool {
    name.starts_with(RESERVED)
}

/// Whether a plugin may be called so: the name becomes a label, a file name and a TOML key.
pub fn is_plugin(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !name.is_empty() && name.len() <= LONGEST && name.bytes().all(plain) && !PARTS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_called_by_plain_letters_and_not_as_a_part_of_the_host() {
        for name in ["procfs", "my-plugin_2", "HOST"] {
            assert!(is_plugin(name), "{name}");
        }
        for name in ["", "host", "history", "snapshot", "a b", "a.b", "a/b", "ä", "dropsonde:api", &"x".repeat(65)] {
            assert!(!is_plugin(name), "{name}");
        }
        assert!(is_reserved("dropsonde:api") && !is_reserved("dropsonde"));
    }
}
