use super::dropsonde;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use tempfile::TempDir;

/// A wall clock that a test can set for the hosts it starts.
pub(crate) struct SettableWallClock {
    ahead: PathBuf,
    _folder: TempDir,
}

/// The library to preload into a host, compiled once per test run.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/harness/wall_clock.c");
    let library = folder.join("wall_clock.so");
    // Another run of the tests may be using the library.
    let made = folder.join(format!("wall_clock.{}.so", std::process::id()));
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&made).arg(source).status().unwrap();
    assert!(compiled.success());
    fs::rename(made, &library).unwrap();
    library
});

impl SettableWallClock {
    /// Makes a clock with the real time.
    pub(crate) fn at_real_time() -> Self {
        let folder = TempDir::new().unwrap();
        let ahead = folder.path().join("ahead_ms");
        fs::write(&ahead, 0i64.to_ne_bytes()).unwrap();
        Self { ahead, _folder: folder }
    }

    /// Sets the clock ahead of the real time from now on; behind it if negative.
    pub(crate) fn set(&self, ahead_ms: i64) {
        let file = OpenOptions::new().write(true).open(&self.ahead).unwrap();
        file.write_all_at(&ahead_ms.to_ne_bytes(), 0).unwrap();
    }

    /// Returns the command for the real binary with this clock.
    pub(crate) fn dropsonde(&self) -> Command {
        let mut command = dropsonde();
        command.env("LD_PRELOAD", &*LIBRARY).env("WALL_CLOCK_AHEAD_MS", &self.ahead);
        command
    }
}
