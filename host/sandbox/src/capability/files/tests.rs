use super::*;
use crate::root::Root;
use proptest::prelude::*;
use std::os::unix::fs::symlink;

struct Folder {
    _guard: tempfile::TempDir,
    path: String,
}

/// Creates granted/a.txt, granted/sub/deep.txt, and secret.txt next to `granted`.
fn folder() -> Folder {
    let guard = tempfile::tempdir().unwrap();
    let root = guard.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("granted/sub")).unwrap();
    std::fs::write(root.join("granted/a.txt"), "a").unwrap();
    std::fs::write(root.join("granted/sub/deep.txt"), "deep").unwrap();
    std::fs::write(root.join("secret.txt"), "secret").unwrap();
    Folder { path: root.to_str().unwrap().to_owned(), _guard: guard }
}

fn grants(globs: &[impl AsRef<str>]) -> Files {
    let mut files = Files::default();
    globs.iter().for_each(|glob| files.grant(glob.as_ref()).unwrap());
    files
}

/// Returns the same grants with each of the two resolvers.
fn either(globs: &[impl AsRef<str>]) -> [Files; 2] {
    [Resolver::of_this_process(), Resolver::Stepwise].map(|resolver| Files { resolver, ..grants(globs) })
}

fn read(grants: &Files, path: &str) -> Result<Vec<u8>, FileError> {
    grants.read(path, usize::MAX)
}

#[test]
fn a_star_stays_within_a_segment_and_two_cross_segments() {
    let Folder { path, _guard } = &folder();
    let one = grants(&[format!("{path}/granted/*")]);
    assert_eq!(read(&one, &format!("{path}/granted/a.txt")), Ok(b"a".to_vec()));
    assert_eq!(read(&one, &format!("{path}/granted/sub/deep.txt")), Err(FileError::Denied));
    let two = grants(&[format!("{path}/granted/**/*.txt")]);
    assert_eq!(read(&two, &format!("{path}/granted/sub/deep.txt")), Ok(b"deep".to_vec()));
}

#[test]
fn what_is_not_granted_is_denied_whether_it_exists_or_not() {
    let Folder { path, _guard } = &folder();
    for grants in either(&[format!("{path}/granted/*")]) {
        for name in ["secret.txt", "no-such-file"] {
            assert_eq!(read(&grants, &format!("{path}/{name}")), Err(FileError::Denied));
        }
        assert_eq!(read(&grants, &format!("{path}/granted/no-such-file")), Err(FileError::NotFound));
    }
}

#[test]
fn dot_dot_relative_paths_and_nul_are_denied() {
    let Folder { path, _guard } = &folder();
    let grants = grants(&[format!("{path}/**")]);
    for tricky in [
        format!("{path}/granted/../secret.txt"),
        "etc/passwd".to_owned(),
        String::new(),
        format!("{path}/granted/a.txt\0.png"),
    ] {
        assert_eq!(read(&grants, &tricky), Err(FileError::Denied), "{tricky:?}");
    }
}

#[test]
fn a_link_out_of_the_grant_is_denied_and_one_within_is_followed() {
    let Folder { path, _guard } = &folder();
    symlink(format!("{path}/secret.txt"), format!("{path}/granted/out")).unwrap();
    symlink("a.txt", format!("{path}/granted/in")).unwrap();
    symlink(path, format!("{path}/granted/up")).unwrap();
    symlink("../granted/sub/../in", format!("{path}/granted/around")).unwrap();
    symlink("sub/", format!("{path}/granted/folder")).unwrap();
    for grants in either(&[format!("{path}/granted/**")]) {
        assert_eq!(read(&grants, &format!("{path}/granted/out")), Err(FileError::Denied));
        assert_eq!(read(&grants, &format!("{path}/granted/up/secret.txt")), Err(FileError::Denied));
        assert_eq!(read(&grants, &format!("{path}/granted/in")), Ok(b"a".to_vec()));
        assert_eq!(read(&grants, &format!("{path}/granted/in/")), Err(FileError::NotAFile));
        assert_eq!(read(&grants, &format!("{path}/granted/around")), Ok(b"a".to_vec()));
        assert_eq!(read(&grants, &format!("{path}/granted/folder/deep.txt")), Ok(b"deep".to_vec()));
    }
}

#[test]
fn links_that_lead_to_each_other_end() {
    let Folder { path, _guard } = &folder();
    symlink("b", format!("{path}/granted/a")).unwrap();
    symlink("a", format!("{path}/granted/b")).unwrap();
    for nth in 0..41 {
        symlink(format!("{}", nth + 1), format!("{path}/granted/{nth}")).unwrap();
    }
    std::fs::write(format!("{path}/granted/41"), "far").unwrap();
    for grants in either(&[format!("{path}/granted/*")]) {
        for endless in ["a", "0"] {
            let error = read(&grants, &format!("{path}/granted/{endless}")).unwrap_err();
            assert!(matches!(&error, FileError::Other(why) if why.contains("symbolic links")), "{error:?}");
        }
        assert_eq!(read(&grants, &format!("{path}/granted/1")), Ok(b"far".to_vec()), "40 links");
    }
}

#[test]
fn what_the_system_refuses_is_not_called_denied() {
    use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
    use std::os::unix::fs::PermissionsExt as _;
    let Folder { path, _guard } = &folder();
    let mode = |name: &str, mode| {
        std::fs::set_permissions(format!("{path}/{name}"), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("granted/a.txt", 0);
    mode("granted/sub", 0);
    // Runs on a thread without root's capabilities.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let CapabilitySets { permitted, inheritable, .. } = capabilities(None).unwrap();
            let none = CapabilitySets { effective: CapabilitySet::empty(), permitted, inheritable };
            set_capabilities(None, none).unwrap();
            for grants in either(&[format!("{path}/granted/**")]) {
                for name in ["a.txt", "sub/deep.txt"] {
                    assert_eq!(read(&grants, &format!("{path}/granted/{name}")), Err(FileError::Refused), "{name}");
                }
                assert_eq!(grants.entries(&format!("{path}/granted/sub")), Err(FileError::Refused));
                assert_eq!(read(&grants, &format!("{path}/secret.txt")), Err(FileError::Denied));
            }
        });
    });
    mode("granted/sub", 0o700);
}

/// Replaces `granted/swapped` again and again while `read` runs.
fn swapped(path: &str, put: impl Fn(u64, &str) + Sync, read: impl FnOnce()) {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for nth in 0.. {
                put(nth, &format!("{path}/granted/next"));
                std::fs::rename(format!("{path}/granted/next"), format!("{path}/granted/swapped")).unwrap();
                if done.load(Relaxed) {
                    break;
                }
            }
        });
        read();
        done.store(true, Relaxed);
    });
}

#[test]
fn a_link_that_is_swapped_all_the_while_never_gives_what_is_not_granted() {
    let Folder { path, _guard } = &folder();
    for grants in either(&[format!("{path}/granted/**")]) {
        let put = |nth: u64, next: &str| {
            symlink(if nth.is_multiple_of(2) { "a.txt" } else { "../secret.txt" }, next).unwrap();
        };
        swapped(path, put, || {
            let (mut read_well, mut denied) = (0, 0);
            while read_well < 500 || denied < 500 {
                match read(&grants, &format!("{path}/granted/swapped")) {
                    Ok(bytes) => {
                        assert_eq!(bytes, b"a");
                        read_well += 1;
                    }
                    Err(FileError::Denied) => denied += 1,
                    Err(_) => {}
                }
            }
        });
    }
}

#[test]
fn a_folder_that_is_swapped_for_a_link_never_gives_what_is_not_granted() {
    let Folder { path, _guard } = &folder();
    std::fs::create_dir(format!("{path}/elsewhere")).unwrap();
    std::fs::write(format!("{path}/elsewhere/deep.txt"), "secret").unwrap();
    for grants in either(&[format!("{path}/granted/**")]) {
        let put = |nth: u64, next: &str| {
            let targets = ["sub", "../elsewhere", "/proc/self/root", "../granted/sub"];
            symlink(targets[nth as usize % targets.len()], next).unwrap();
        };
        swapped(path, put, || {
            let (mut read_well, mut denied) = (0, 0);
            while read_well < 300 || denied < 300 {
                match read(&grants, &format!("{path}/granted/swapped/deep.txt")) {
                    Ok(bytes) => {
                        assert_eq!(bytes, b"deep");
                        read_well += 1;
                    }
                    Err(FileError::Denied) => denied += 1,
                    Err(_) => {}
                }
            }
        });
    }
}

#[test]
fn a_grant_may_name_a_link_itself() {
    let Folder { path, _guard } = &folder();
    symlink("granted", format!("{path}/alias")).unwrap();
    for grants in either(&[format!("{path}/alias/*.txt")]) {
        assert_eq!(read(&grants, &format!("{path}/alias/a.txt")), Ok(b"a".to_vec()));
    }
}

#[test]
fn the_kernels_own_links_are_never_followed() {
    let Folder { path, _guard } = &folder();
    symlink("/proc/self/root/etc/passwd", format!("{path}/granted/root")).unwrap();
    let mapped = std::fs::read_dir("/proc/self/map_files").unwrap().next().unwrap().unwrap().path();
    let mapped = mapped.to_str().unwrap();
    let own = format!("/proc/{}/cwd/Cargo.toml", std::process::id());
    for grants in either(&["/proc/**".to_owned(), "/etc/**".to_owned(), format!("{path}/**")]) {
        for link in [
            "/proc/self/root/etc/passwd",
            "/proc/self/root",
            "/proc/self/cwd",
            "/proc/self/exe",
            "/proc/self/fd/0",
            "/proc/self/ns/net",
            "/proc/self/ns/mnt",
            "/proc/self/task/../cwd",
            "/proc/thread-self/cwd",
            "/proc/thread-self/root/etc/passwd",
            "/proc/1/root/etc/passwd",
            mapped,
            &own,
            &format!("{path}/granted/root"),
        ] {
            assert_eq!(read(&grants, link), Err(FileError::Denied), "{link}");
        }
        for plain in ["/proc/self/status", "/proc/thread-self/status", "/proc/mounts", "/proc/net/dev"] {
            assert!(read(&grants, plain).is_ok(), "{plain}: {:?}", read(&grants, plain));
        }
        assert_eq!(read(&grants, "/proc/self"), Err(FileError::NotAFile));
    }
    for narrow in either(&["/proc/self/mounts", "/proc/net/dev"]) {
        assert!(read(&narrow, "/proc/self/mounts").is_ok());
        assert!(read(&narrow, "/proc/net/dev").is_ok());
        assert_eq!(read(&narrow, "/proc/mounts"), Err(FileError::Denied));
    }
}

#[test]
fn only_regular_files_are_read_and_only_directories_listed() {
    let Folder { path, _guard } = &folder();
    for grants in either(&[format!("{path}/granted"), format!("{path}/granted/*"), "/dev/zero".to_owned()]) {
        assert_eq!(read(&grants, &format!("{path}/granted/sub")), Err(FileError::NotAFile));
        assert_eq!(read(&grants, "/dev/zero"), Err(FileError::NotAFile));
        assert_eq!(grants.entries(&format!("{path}/granted/a.txt")), Err(FileError::NotAFile));
        assert_eq!(
            grants.entries(&format!("{path}/granted")),
            Ok(vec![("a.txt".to_owned(), EntryKind::File), ("sub".to_owned(), EntryKind::Directory)])
        );
    }
}

#[test]
fn a_file_beyond_the_limit_is_refused_with_the_limit() {
    let Folder { path, _guard } = &folder();
    std::fs::write(format!("{path}/granted/big"), vec![0; LARGEST_FILE as usize + 1]).unwrap();
    let grants = grants(&[format!("{path}/granted/*")]);
    assert_eq!(read(&grants, &format!("{path}/granted/big")), Err(FileError::TooLarge(LARGEST_FILE)));
    assert_eq!(grants.read(&format!("{path}/granted/a.txt"), 0), Err(FileError::TooLarge(0)), "of the call's");
}

#[test]
fn a_file_beyond_the_limit_is_read_in_pieces() {
    let Folder { path, _guard } = &folder();
    let (large, file) = (vec![7; LARGEST_FILE as usize + 5], format!("{path}/granted/large"));
    std::fs::write(&file, &large).unwrap();
    let grants = grants(&[format!("{path}/granted/*")]);
    let whole = LARGEST_FILE as usize;
    assert_eq!(grants.read_range(&file, 0, whole).map(|part| part.len()), Ok(whole));
    assert_eq!(grants.read_range(&file, LARGEST_FILE, whole), Ok(vec![7; 5]));
    for beyond in [LARGEST_FILE + 5, i64::MAX as u64, u64::MAX] {
        assert_eq!(grants.read_range(&file, beyond, 10), Ok(Vec::new()), "{beyond}");
    }
    assert_eq!(grants.read_range(&file, 0, 0), Ok(Vec::new()));
    assert_eq!(grants.read_range(&format!("{path}/granted/sub"), 0, 10), Err(FileError::NotAFile));
    assert_eq!(grants.read_range(&format!("{path}/secret.txt"), 0, 10), Err(FileError::Denied));
}

#[test]
fn a_file_of_the_kernel_reads_the_same_in_pieces() {
    let grants = self::grants(&["/proc/cpuinfo"]);
    let whole = String::from_utf8(read(&grants, "/proc/cpuinfo").unwrap()).unwrap();
    let mut pieces = Vec::new();
    loop {
        let piece = grants.read_range("/proc/cpuinfo", pieces.len() as u64, 100).unwrap();
        if piece.is_empty() {
            break;
        }
        pieces.extend(piece);
    }
    // Compares names only: the frequency changes between two readings.
    let names =
        |text: &str| text.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())).collect::<Vec<_>>();
    assert_eq!(names(&String::from_utf8(pieces).unwrap()), names(&whole));
}

#[test]
fn a_large_directory_is_listed_in_pages_each_name_once() {
    let Folder { path, _guard } = &folder();
    let folder = format!("{path}/granted/sub");
    (0..2500).for_each(|nth| std::fs::write(format!("{folder}/{nth}"), "").unwrap());
    let grants = grants(&[format!("{path}/granted/*")]);
    let (mut names, mut start, mut pages) = (Vec::new(), 0, 0);
    loop {
        let (entries, next) = grants.entries_from(&folder, start, 100).unwrap();
        assert!(entries.len() <= 100);
        names.extend(entries);
        pages += 1;
        match next {
            Some(next) => start = next,
            None => break,
        }
    }
    names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    assert_eq!(Ok(names), grants.entries(&folder));
    assert!(pages > 25, "{pages}");
    assert_eq!(grants.entries_from(&format!("{path}/granted/a.txt"), 0, 9), Err(FileError::NotAFile));
    assert_eq!(grants.entries_from(path, 0, 9), Err(FileError::Denied));
}

#[test]
fn disk_usage_is_what_df_says() {
    let df = std::process::Command::new("df").args(["-B1", "--output=size,used,avail", "/"]).output().unwrap();
    let text = String::from_utf8(df.stdout).unwrap();
    let columns: Vec<f64> = text.lines().nth(1).unwrap().split_whitespace().map(|word| word.parse().unwrap()).collect();
    let space = self::grants(&["/"]).space("/").unwrap();
    let ours = [space.total_bytes, space.used_bytes, space.available_bytes];
    for (ours, theirs) in ours.into_iter().zip(columns) {
        // Other processes write to the disk meanwhile.
        assert!((ours as f64 - theirs).abs() < 1e9, "{space:?}");
    }
    assert!(space.used_bytes + space.available_bytes <= space.total_bytes);
}

#[test]
fn disk_space_needs_the_path_itself_granted() {
    for grants in either(&["/"]) {
        assert!(grants.space("/").unwrap().total_bytes > 0);
    }
    for grants in either(&["/proc/*"]) {
        assert_eq!(grants.space("/"), Err(FileError::Denied));
    }
}

#[test]
fn a_glob_that_cannot_mean_a_place_is_named() {
    for bad in ["proc/stat", "/proc/../etc", "", "/a/[", "/a/***"] {
        assert!(Files::default().grant(bad).is_err());
    }
}

/// Mostly names that exist.
fn segment() -> impl Strategy<Value = String> {
    let known =
        ["up", "root", "..", ".", "", "a.txt", "sub", "deep.txt", "secret.txt", "granted", "etc", "passwd", "*"];
    prop_oneof![9 => prop::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,6}"]
}

proptest! {
    #[test]
    fn no_path_escapes_the_granted_folder(parts in prop::collection::vec(segment(), 0..6)) {
        let Folder { path, _guard } = &folder();
        symlink("..", format!("{path}/granted/up")).unwrap();
        symlink("/", format!("{path}/granted/root")).unwrap();
        let [by_kernel, stepwise] = either(&[format!("{path}/granted/**")]);
        let asked = format!("{path}/granted/{}", parts.join("/"));
        let answer = read(&stepwise, &asked);
        if let Ok(bytes) = &answer {
            prop_assert!([&b"a"[..], b"deep"].contains(&&bytes[..]), "{asked}");
        }
        prop_assert_eq!(read(&by_kernel, &asked), answer);
    }
}

#[test]
fn below_a_root_neither_links_nor_dots_lead_out_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir_all(root.join("srv/data")).unwrap();
    std::fs::write(root.join("srv/data/a"), "inside").unwrap();
    std::fs::write(folder.path().join("secret"), "outside").unwrap();
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, root.join(at)).unwrap();
    link("/srv/data/a", "absolute");
    link("srv/data/a", "relative");
    link("../../../../secret", "up");
    link(folder.path().join("secret").to_str().unwrap(), "out");
    link("/srv", "alias");
    for resolver in [Resolver::of_this_process(), Resolver::Stepwise] {
        let mut files = Files { resolver, ..Files::default() };
        files.begin_at(Root::open(&root).unwrap());
        for glob in ["/srv/**", "/absolute", "/relative", "/up", "/out", "/secret", "/alias/data/*"] {
            files.grant(glob).unwrap();
        }
        for path in ["/srv/data/a", "/absolute", "/relative", "/alias/data/a"] {
            assert_eq!(read(&files, path), Ok(b"inside".to_vec()), "{resolver:?} {path}");
        }
        for path in ["/up", "/out", "/secret"] {
            assert_eq!(read(&files, path), Err(FileError::NotFound), "{resolver:?} {path}");
        }
    }
}
