//! Mount points: the configured ones, the mounted ones, and their disk space.

use crate::config::Settings;
use crate::memory::to_mib;
use crate::names::sanitised;
use crate::row::Row;
use crate::shared::TickFiles;
use dropsonde_guest::{Failure, Instance, files};

pub(crate) const ROOT: &str = "/";
pub(crate) const TABLE: &str = "/proc/self/mounts";

/// Longest instance id that the contract allows, in bytes.
const MOST_ID_BYTES: usize = 256;

/// A configured mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) path: String,
    pub(crate) id: String,
}

/// One line of the mount table, unescaped.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mounted {
    device: String,
    path: String,
    fstype: String,
}

/// Checks the configured paths. Two paths with the same id are refused, because their histories would mix.
pub(crate) fn configured(paths: &[String]) -> Result<Vec<Mount>, Failure> {
    let mut mounts: Vec<Mount> = Vec::new();
    for path in paths {
        let mount = Mount::new(path)?;
        match mounts.iter().find(|other| other.id == mount.id) {
            Some(other) if other.path == mount.path => {}
            Some(other) => {
                let Mount { path: other, id } = other;
                return Err(Failure::invalid(format!("mounts: {other:?} and {path:?} would both have the id {id}")));
            }
            None => mounts.push(mount),
        }
    }
    Ok(mounts)
}

/// Returns the configured mounts that are mounted now.
pub(crate) fn discover(settings: &Settings, shared: &mut TickFiles) -> Result<Vec<Instance>, Failure> {
    if !settings.mounts.iter().any(Mount::is_instance) {
        return Ok(Vec::new());
    }
    Ok(instances(&settings.mounts, shared.text(TABLE)?))
}

/// Returns all configured mounts. Used when the mount table cannot be read: leaving them out would end them.
pub(crate) fn assumed(settings: &Settings) -> Vec<Instance> {
    let mounts = settings.mounts.iter().filter(|mount| mount.is_instance());
    mounts.map(|mount| Instance::new(&mount.id).label("kind", "mount").label("mount", &mount.path)).collect()
}

/// Returns the disk space of one mount. A mount point that is no longer mounted is gone: the directory that is left
/// lies on another file system.
pub(crate) fn row(mount: &Mount, shared: &mut TickFiles) -> Result<Row, Failure> {
    if shared.text(TABLE).is_ok_and(|table| mounted(table, &mount.path).is_none()) {
        return Err(Failure::Gone);
    }
    let mut row = Row::default();
    fill_space(&mut row, &mount.path)?;
    Ok(row)
}

/// Fills in the disk space of the file system at `path`, as `df` shows it.
pub(crate) fn fill_space(row: &mut Row, path: &str) -> Result<(), Failure> {
    let usage = files::usage(path)?;
    row.disk_used_mb = Some(to_mib(usage.used_bytes));
    row.disk_available_mb = Some(to_mib(usage.available_bytes));
    row.disk_limit_mb = Some(to_mib(usage.total_bytes));
    Ok(())
}

// === impl Mount ===

impl Mount {
    pub(crate) fn root() -> Self {
        Self { path: ROOT.to_owned(), id: "mount-root".to_owned() }
    }

    /// Returns whether the mount is an instance of its own. The numbers of the root file system belong to the host.
    pub(crate) fn is_instance(&self) -> bool {
        self.path != ROOT
    }

    fn new(path: &str) -> Result<Self, Failure> {
        if path == ROOT {
            return Ok(Self::root());
        }
        let invalid = |why| Err(Failure::invalid(format!("mounts: {path:?} {why}")));
        let Some(relative) = path.strip_prefix('/') else {
            return invalid("is not an absolute path");
        };
        if relative.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return invalid("is not written as in the mount table: no //, no . or .., no / at the end");
        }
        let id = format!("mount-{}", sanitised(&relative.replace('/', "-")));
        if id.len() > MOST_ID_BYTES {
            return invalid("is too long for an instance id");
        }
        Ok(Self { path: path.to_owned(), id })
    }
}

fn instances(mounts: &[Mount], table: &str) -> Vec<Instance> {
    let found = mounts.iter().filter(|mount| mount.is_instance()).filter_map(|mount| {
        let mounted = mounted(table, &mount.path)?;
        Some(
            Instance::new(&mount.id)
                .label("kind", "mount")
                .label("mount", &mount.path)
                .label("device", mounted.device)
                .label("fstype", mounted.fstype),
        )
    });
    found.collect()
}

/// Returns the mount at `path`: the last line for it, because a later mount covers the earlier ones.
fn mounted(table: &str, path: &str) -> Option<Mounted> {
    let is_at = |line: &&str| {
        line.split(' ').nth(1).is_some_and(|word| word == path || (word.contains('\\') && unescaped(word) == path))
    };
    table.lines().rev().filter(is_at).find_map(parse_line)
}

fn parse_line(line: &str) -> Option<Mounted> {
    let mut words = line.split(' ').map(unescaped);
    Some(Mounted { device: words.next()?, path: words.next()?, fstype: words.next()? })
}

/// Replaces the kernel's escapes: `\040` for a space, `\134` for a backslash and so on (fstab(5)).
fn unescaped(word: &str) -> String {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                after
            }
            _ => {
                bytes.push(*first);
                after
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../testdata/mounts");

    fn mounts(paths: &[&str]) -> Result<Vec<Mount>, Failure> {
        configured(&paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>())
    }

    fn why(paths: &[&str]) -> String {
        match mounts(paths).unwrap_err() {
            Failure::Invalid(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_mount_becomes_an_instance_named_after_its_path() {
        let found = instances(&mounts(&["/", "/var/lib"]).unwrap(), EXAMPLE);
        let expected = Instance::new("mount-var-lib")
            .label("kind", "mount")
            .label("mount", "/var/lib")
            .label("device", "/dev/mapper/vg0-var")
            .label("fstype", "xfs");
        assert_eq!(found, [expected]);
    }

    #[test]
    fn a_mount_point_may_hold_spaces_backslashes_and_letters_of_any_script() {
        let found = instances(&mounts(&["/media/my \\disk", "/media/größe"]).unwrap(), EXAMPLE);
        assert_eq!(found[0].id, "mount-media-my__disk");
        assert_eq!(found[0].labels[2], ("device".to_owned(), "//nas/my share".to_owned()));
        assert_eq!(found[1].id, "mount-media-gr__e");
    }

    #[test]
    fn the_last_mount_lies_over_the_earlier_ones() {
        assert_eq!(mounted(EXAMPLE, "/data").unwrap().fstype, "tmpfs");
    }

    #[test]
    fn a_directory_that_is_no_mount_point_is_no_instance_and_gone_when_asked_for() {
        let missing = mounts(&["/var"]).unwrap();
        assert_eq!(instances(&missing, EXAMPLE), []);
        let mut shared = TickFiles::given([(TABLE, Ok(EXAMPLE))]);
        assert_eq!(row(&missing[0], &mut shared), Err(Failure::Gone));
    }

    #[test]
    fn a_path_the_mount_table_cannot_have_is_refused() {
        assert_eq!(why(&["data"]), "mounts: \"data\" is not an absolute path");
        for path in ["/data/", "//data", "/a/../b", "/./a"] {
            assert!(why(&[path]).contains("is not written as in the mount table"), "{path}");
        }
        assert!(why(&[&format!("/{}", "a".repeat(300))]).contains("too long"));
    }

    #[test]
    fn two_paths_cannot_share_an_id_but_one_may_be_named_twice() {
        assert_eq!(
            why(&["/var/lib", "/var-lib"]),
            r#"mounts: "/var/lib" and "/var-lib" would both have the id mount-var-lib"#
        );
        assert_eq!(mounts(&["/var/lib", "/var/lib"]).unwrap().len(), 1);
    }

    #[test]
    fn a_backslash_that_starts_no_escape_is_kept() {
        assert_eq!(unescaped(r"\04"), r"\04");
        assert_eq!(unescaped(r"a\999\"), r"a\999\");
        assert_eq!(unescaped(r"\134040"), r"\040");
        assert_eq!(unescaped(r"\303\274"), "ü");
    }

    #[test]
    fn a_line_too_short_to_be_a_mount_is_passed_over() {
        assert_eq!(mounted("\n/dev/sda1\n/dev/sda1 /\n", "/"), None);
    }
}
