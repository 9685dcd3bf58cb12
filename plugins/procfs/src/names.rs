//! Names as ids.

use crate::process::ProcessId;

/// The kernel cuts a program's name at 15 bytes; whatever else writes the file must not break the id.
pub(crate) const MOST_NAME_CHARS: usize = 64;

/// What ids of other kinds begin with.
const OTHER_KINDS: [&str; 3] = ["mount-", "interface-", "disk-"];

/// The name with all that does not belong in an id replaced by `_`.
pub(crate) fn sanitised(name: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

/// The beginning of a process' id.
pub(crate) fn short(comm: &str) -> String {
    let name: String = sanitised(comm).chars().take(MOST_NAME_CHARS).collect();
    if name.is_empty() { "process".to_owned() } else { name }
}

/// A program's id: its name, with `_` at one that could be the id of something else.
pub(crate) fn program_id(comm: &str) -> String {
    let mut id = short(comm);
    if ProcessId::parse(&id).is_some() {
        id.push('_');
    }
    if is_free(&id) { id } else { format!("_{id}") }
}

/// Whether no instance of another kind can have this id.
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
