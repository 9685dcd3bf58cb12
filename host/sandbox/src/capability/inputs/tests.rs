use super::recording::open_by;
use super::*;
use crate::capability::files::Resolver;
use std::{fs, io};

fn granted(glob: &str) -> Files {
    let mut files = Files::default();
    files.grant(glob).unwrap();
    files
}

#[test]
fn what_is_recorded_reads_the_same_when_it_is_replayed() {
    let (machine, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = machine.path().canonicalize().unwrap();
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let granted = granted(&format!("{}/**", root.display()));
    fs::create_dir(root.join("sub")).unwrap();
    fs::write(path("a"), "first").unwrap();
    fs::write(path("b"), "always").unwrap();
    let recorder = Arc::new(Recorder::default());
    let live = Inputs::RecordedBy(recorder.clone());
    recorder.go_to(kept.path().join("tick-1"));
    let listed = live.entries(&granted, &path("sub/..").replace("/sub/..", "")).err();
    assert_eq!(listed, Some(FileError::Denied), "the folder itself is not granted");
    let reads = [live.read(&granted, &path("a"), 100), live.read(&granted, &path("b"), 100)];
    assert_eq!(reads, [Ok(b"first".to_vec()), Ok(b"always".to_vec())]);
    let sub = live.entries(&granted, &path("sub"));
    let space = live.space(&granted, &path("a")).unwrap();
    let modified_ms = live.modified_ms(&granted, &path("a")).unwrap();
    fs::write(path("a"), "second").unwrap();
    recorder.go_to(kept.path().join("tick-2"));
    live.read(&granted, &path("a"), 100).unwrap();
    assert!(recorder.failed().is_none());

    drop(machine);
    let recording = Arc::new(Recording::default());
    let replayed = Inputs::Recorded(recording.clone());
    recording.go_to(kept.path().join("tick-1"), 1000);
    assert_eq!(replayed.read(&granted, &path("a"), 100), Ok(b"first".to_vec()));
    assert_eq!(replayed.entries(&granted, &path("sub")), sub);
    recording.go_to(kept.path().join("tick-2"), 2000);
    assert_eq!(replayed.read(&granted, &path("a"), 100), Ok(b"second".to_vec()));
    assert_eq!(replayed.read(&granted, &path("b"), 100), Ok(b"always".to_vec()), "as it was before");
    assert_eq!(replayed.read(&granted, &path("b"), 3), Err(FileError::TooLarge(3)));
    assert_eq!(replayed.space(&granted, &path("a")), Ok(space));
    assert_eq!(replayed.modified_ms(&granted, &path("a")), Ok(modified_ms));
    assert_eq!(replayed.read(&granted, &path("c"), 100), Err(FileError::NotFound));
    assert_eq!(replayed.read(&granted, "/etc/passwd", 100), Err(FileError::Denied));
}

#[test]
fn what_is_read_and_listed_in_pieces_replays_in_pieces() {
    let (machine, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let root = machine.path().canonicalize().unwrap();
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let granted = granted(&format!("{}/**", root.display()));
    fs::write(path("a"), "0123456789").unwrap();
    fs::create_dir(root.join("sub")).unwrap();
    ["x", "y", "z"].iter().for_each(|name| fs::write(root.join("sub").join(name), "").unwrap());
    let recorder = Arc::new(Recorder::default());
    recorder.go_to(kept.path().join("tick-1"));
    let live = Inputs::RecordedBy(recorder.clone());
    assert_eq!(live.read_range(&granted, &path("a"), 0, 4), Ok(b"0123".to_vec()));
    assert_eq!(live.read_range(&granted, &path("a"), 4, 3), Ok(b"456".to_vec()));
    assert_eq!(live.read_range(&granted, &path("a"), 99, 3), Ok(Vec::new()));
    assert_eq!(live.entries_from(&granted, &path("sub"), 0, 9).map(|(page, next)| (page.len(), next)), Ok((3, None)));
    assert!(recorder.failed().is_none());

    let recording = Arc::new(Recording::default());
    let replayed = Inputs::Recorded(recording.clone());
    recording.go_to(kept.path().join("tick-1"), 1000);
    assert_eq!(replayed.read_range(&granted, &path("a"), 2, 3), Ok(b"234".to_vec()));
    assert_eq!(replayed.read_range(&granted, &path("a"), 5, 99), Ok(b"56".to_vec()), "what was read of it");
    assert_eq!(replayed.read_range(&granted, &path("a"), u64::MAX, 9), Ok(Vec::new()));
    assert_eq!(replayed.read_range(&granted, &path("b"), 0, 9), Err(FileError::NotFound));
    assert_eq!(replayed.read_range(&granted, "/etc/passwd", 0, 9), Err(FileError::Denied));
    let (mut names, next) = replayed.entries_from(&granted, &path("sub"), 0, 2).unwrap();
    let (rest, end) = replayed.entries_from(&granted, &path("sub"), next.unwrap(), 2).unwrap();
    names.extend(rest);
    names.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let named = |name: &str| (name.to_owned(), EntryKind::File);
    assert_eq!((names, end), (vec![named("x"), named("y"), named("z")], None));
}

#[test]
fn a_recording_that_does_not_say_what_is_used_has_used_what_is_not_available() {
    let kept = tempfile::tempdir().unwrap();
    fs::create_dir(kept.path().join("tick-1")).unwrap();
    fs::write(kept.path().join("tick-1.space"), "/\t1000\t300\t50\t20\n/srv\t1000\t300\t50\t20\t600\n").unwrap();
    let recording = Arc::new(Recording::default());
    recording.go_to(kept.path().join("tick-1"), 0);
    let used =
        |path: &str| Inputs::Recorded(recording.clone()).space(&granted(path), path).map(|space| space.used_bytes);
    assert_eq!((used("/"), used("/srv")), (Ok(700), Ok(600)));
}

#[test]
fn a_link_in_a_recording_leads_nowhere() {
    let kept = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc", kept.path().join("etc")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", kept.path().join("file")).unwrap();
    fs::create_dir(kept.path().join("sub")).unwrap();
    fs::write(kept.path().join("sub/file"), "kept").unwrap();
    for resolver in [Resolver::of_this_process(), Resolver::Stepwise] {
        let open = |path| open_by(resolver, kept.path(), path);
        for path in ["/etc/passwd", "/etc", "/file"] {
            assert!(open(path).is_err(), "{path}");
        }
        assert!(open("/sub").unwrap().metadata().unwrap().is_dir());
        assert!(open("/").unwrap().metadata().unwrap().is_dir());
        assert_eq!(io::read_to_string(open("/sub/file").unwrap()).unwrap(), "kept");
        assert_eq!(open("/sub/no").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
