//! Names of cgroups: which of them are containers, and of which engine.

/// The instance that a cgroup stands for, by the cgroup's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CgroupName {
    /// The id of the instance.
    pub(crate) id: String,
    /// `docker`, `podman`, `crio`, `containerd`, `lxc`, `machine` or `systemd`.
    pub(crate) engine: &'static str,
}

/// The prefixes that engines put before a container's id, also as `PREFIX-ID.scope`.
const PREFIXES: [(&str, &str); 8] = [
    ("docker-", "docker"),
    ("libpod-payload-", "podman"),
    ("libpod-", "podman"),
    ("crio-", "crio"),
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("containerd-", "containerd"),
    ("buildkit-", "docker"),
];

/// Returns what a cgroup is if it is a container. `parent`: the name of the cgroup above.
pub(crate) fn container(name: &str, parent: &str) -> Option<CgroupName> {
    let plain = name.strip_suffix(".scope").unwrap_or(name);
    let found = |id: &str, engine| Some(CgroupName { id: id.to_owned(), engine });
    for (prefix, engine) in PREFIXES {
        // The monitor of a container is no container: `libpod-conmon-ID`.
        if let Some(id) = plain.strip_prefix(prefix).filter(|id| is_id(id)) {
            return found(short(id), engine);
        }
    }
    if is_id(plain) {
        // With cgroupfs as driver, the name is the id alone.
        let engine = if parent.starts_with("libpod") { "podman" } else { engine_of_parent(parent) };
        return found(short(plain), engine);
    }
    if let Some(name) = name.strip_prefix("lxc.payload.") {
        return found(name, "lxc");
    }
    if parent == "lxc" {
        return found(name, "lxc");
    }
    if let Some(machine) = name.strip_prefix("machine-").and_then(|name| name.strip_suffix(".scope")) {
        return found(&unescaped(machine), "machine");
    }
    let nspawn = name.strip_prefix("systemd-nspawn@").and_then(|name| name.strip_suffix(".service"));
    nspawn.and_then(|name| found(&unescaped(name), "machine"))
}

/// Returns what a cgroup is if it is a systemd unit that one of the patterns matches.
pub(crate) fn unit(name: &str, patterns: &[String]) -> Option<CgroupName> {
    let is_unit = name.ends_with(".service") || name.ends_with(".scope") || name.ends_with(".slice");
    let is_wanted = is_unit && patterns.iter().any(|pattern| matches(pattern, name));
    is_wanted.then(|| CgroupName { id: unescaped(name), engine: "systemd" })
}

fn engine_of_parent(parent: &str) -> &'static str {
    // Kubernetes' pods, Docker, ECS and others.
    if parent.starts_with("pod") || parent.starts_with("kubepods") { "containerd" } else { "docker" }
}

/// Returns whether a text is the id of a container: 64 hexadecimal digits, or on some platforms with a suffix.
fn is_id(text: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let (id, rest) = text.split_at_checked(64).unwrap_or((text, ""));
    id.len() == 64 && is_hex(id) && (rest.is_empty() || (rest.starts_with('-') && rest.len() > 1)) || is_ecs(text)
}

/// Amazon ECS names a container by 32 digits, a `-` and a number.
fn is_ecs(text: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.split_once('-').is_some_and(|(task, number)| {
        task.len() == 32 && is_hex(task) && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Returns the short form of an id that engines show.
fn short(id: &str) -> &str {
    if is_ecs(id) { id } else { id.get(..12).unwrap_or(id) }
}

/// Replaces systemd's escapes: `\x2d` is `-`.
fn unescaped(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, behind)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        match behind.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = behind;
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    // An id has no slash.
    String::from_utf8_lossy(&bytes).replace('/', "-")
}

/// Returns whether a name matches a pattern with `*`.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn containers_are_known_by_the_names_of_their_cgroups() {
        let of =
            |name: &str, parent: &str| container(&name.replace("ID", ID), parent).map(|found| (found.id, found.engine));
        let id = |engine| Some(("0123456789ab".to_owned(), engine));
        for (name, parent, engine) in [
            ("docker-ID.scope", "system.slice", "docker"),
            ("docker-ID.scope", "user.slice", "docker"),
            ("ID", "docker", "docker"),
            ("ID", "actions_job", "docker"),
            ("ID", "kubepods-besteffort-pod1_2.slice", "containerd"),
            ("ID", "pod1234-5678", "containerd"),
            ("cri-containerd-ID.scope", "kubepods-burstable-podx.slice", "containerd"),
            ("crio-ID.scope", "kubepods-podx.slice", "crio"),
            ("crio-ID", "podx", "crio"),
            ("libpod-ID.scope", "machine.slice", "podman"),
            ("libpod-ID.scope", "user.slice", "podman"),
            ("libpod-ID", "libpod_parent", "podman"),
            ("libpod-payload-ID", "user@1000.service", "podman"),
            ("ID", "libpod_parent", "podman"),
            ("nerdctl-ID.scope", "system.slice", "containerd"),
            ("containerd-ID.scope", "system.slice", "containerd"),
            ("buildkit-ID.scope", "system.slice", "docker"),
            ("docker-ID-sub.scope", "system.slice", "docker"),
        ] {
            assert_eq!(of(name, parent), id(engine), "{name} in {parent}");
        }
        for (name, parent, expected) in [
            ("lxc.payload.web", "/", ("web", "lxc")),
            ("web", "lxc", ("web", "lxc")),
            ("machine-web\\x2d1.scope", "machine.slice", ("web-1", "machine")),
            ("machine-qemu\\x2d1\\x2ddb.scope", "machine.slice", ("qemu-1-db", "machine")),
            ("systemd-nspawn@web\\x2d2.service", "machine.slice", ("web-2", "machine")),
            (
                "0123456789abcdef0123456789abcdef-1234567",
                "0123456789abcdef0123456789abcdef",
                ("0123456789abcdef0123456789abcdef-1234567", "docker"),
            ),
        ] {
            assert_eq!(of(name, parent), Some((expected.0.to_owned(), expected.1)), "{name} in {parent}");
        }
        for (name, parent) in [
            ("libpod-conmon-ID.scope", "machine.slice"),
            ("crio-conmon-ID.scope", "system.slice"),
            ("docker.service", "system.slice"),
            ("docker-short.scope", "system.slice"),
            ("system.slice", "/"),
            ("init.scope", "/"),
            ("user@1000.service", "user-1000.slice"),
            ("dev-hugepages.mount", "/"),
        ] {
            assert_eq!(of(name, parent), None, "{name} in {parent}");
        }
    }

    #[test]
    fn units_are_chosen_by_patterns() {
        let patterns = ["nginx.service".to_owned(), "app-*@*.service".to_owned()];
        let of = |name: &str| unit(name, &patterns).map(|found| found.id);
        assert_eq!(of("nginx.service").as_deref(), Some("nginx.service"));
        assert_eq!(of("app-web\\x2d1@2.service").as_deref(), Some("app-web-1@2.service"));
        for name in ["nginx.service2", "nginx", "app-web.service", "app-web@1.scope"] {
            assert_eq!(of(name), None, "{name}");
        }
        assert_eq!(unit("a.mount", &["*".to_owned()]), None, "a mount has no usage");
    }
}
