//! A real browser that runs a scenario of `tests/browser/scenarios.mjs`.

use super::guests::workspace;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

/// Chromium, run by a scenario.
pub(crate) struct Browser {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Browser {
    /// Starts a scenario on a page. `arguments`: what the scenario needs to know.
    pub(crate) fn start(scenario: &str, url: &str, arguments: &[&str]) -> Self {
        let modules = workspace().join("target/browser");
        let mut command = Command::new("node");
        command.arg(workspace().join("tests/browser/run.mjs")).args([scenario, url]).args(arguments);
        command.env("BROWSER_MODULES", modules).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the browser tests need Node.js: `apt install nodejs`");
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// Waits until the scenario has seen something, and stops there.
    pub(crate) fn until(&mut self, seen: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        if line.trim_end() != seen {
            let mut errors = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
            panic!(
                "the browser says {line:?} instead of {seen:?}; it needs `apt install chromium` and `cargo dev setup`\n{errors}"
            );
        }
    }

    /// Lets the scenario go on.
    pub(crate) fn go_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Waits for the end of the scenario, which must have found nothing wrong.
    pub(crate) fn passes(mut self) {
        self.until("passed");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
