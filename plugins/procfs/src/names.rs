//! Turns names into instance ids.

use crate::process::ProcessId;

/// Longest name in an id. The kernel cuts a program's name at 15 bytes, but other writers of the file must not break
/// the id.
pub(crate) const MOST_NAME_CHARS: usize = 64;

/// The prefixes of ids of other kinds of instances.
const OTHER_KINDS: [&str; 3] = ["mount-", "interface-", "disk-"];

/// Returns the name with `_` in place of each character that an id may not have.
pub(crate) fn sanitised(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

/// Returns the beginning of a process' id.
pub(crate) fn short(comm: &str) -> String {
    let name: String = sanitised(comm).chars().take(MOST_NAME_CHARS).collect();
    if name.is_empty() { "process".to_owned() } else { name }
}

/// Returns a program's id: its name, with a `_` added if it could be the id of another kind of instance.
pub(crate) fn program_id(comm: &str) -> String {
    let mut id = short(comm);
    if ProcessId::parse(&id).is_some() {
        id.push('_');
    }
    if is_free(&id) { id } else { format!("_{id}") }
}

/// Returns whether no instance of another kind can have this id.
pub(crate) fn is_free(id: &str) -> bool {
    let is_other = id == crate::host::ID || OTHER_KINDS.iter().any(|prefix| id.starts_with(prefix));
    !is_other && !matches!(id, "." | "..") && ProcessId::parse(id).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_named_after_itself_unless_something_else_could_have_the_name() {
        for (comm, id) in [
            ("nginx", "nginx"),
            ("tmux: server", "tmux__server"),
            ("", "process"),
            ("host", "_host"),
            ("mount-var", "_mount-var"),
            ("disk-sda", "_disk-sda"),
            ("interface-eth0", "_interface-eth0"),
            ("job-1-2", "job-1-2_"),
            ("..", "_.."),
        ] {
            assert_eq!(program_id(comm), id);
            assert!(is_free(&program_id(comm)), "{comm}");
        }
        assert!(program_id(&"x".repeat(10_000)).len() < 256);
    }
}
