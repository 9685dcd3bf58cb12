use super::client::{self, EventStream, Response};
use super::guests::{app, verbs, workspace};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait for a condition; reached only when something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// The real binary, which serves on a free port with its own data directory.
pub(crate) struct Host {
    pub(crate) address: String,
    child: Child,
    log: Arc<Mutex<String>>,
    /// The thread that reads the log to its end.
    reader: Option<JoinHandle<()>>,
    folder: Arc<TempDir>,
    listen: String,
}

/// [`Host::start`] or [`Host::start_cold`].
pub(crate) type StartHost = fn(&str, &[(&str, &[u8])]) -> Host;

/// Returns the command for the real binary, without variables from the environment.
pub(crate) fn dropsonde() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dropsonde"));
    for variable in ["DROPSONDE_LOG", "DROPSONDE_LOG_FORMAT", "DROPSONDE_URL", "DROPSONDE_TOKEN"] {
        command.env_remove(variable);
    }
    command
}

/// Runs a command to its end. Returns the exit code, standard output and standard error.
pub(crate) fn run(command: &mut Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap_or(-1), text(stdout), text(stderr))
}

impl Host {
    /// Starts a host with a configuration, and plugins' files by name.
    pub(crate) fn start(config: &str, plugins: &[(&str, &[u8])]) -> Self {
        Self::start_as(dropsonde(), config, plugins)
    }

    /// Does the same with a command that takes the binary's arguments.
    pub(crate) fn start_as(command: Command, config: &str, plugins: &[(&str, &[u8])]) -> Self {
        Self::start_at("127.0.0.1:0", command, config, plugins)
    }

    /// Starts a host that compiles all its plugins itself: others have their compiled plugins in one folder.
    pub(crate) fn start_cold(config: &str, plugins: &[(&str, &[u8])]) -> Self {
        Self::start_cold_as(dropsonde(), config, plugins)
    }

    /// Does the same by a command that takes the binary's arguments.
    pub(crate) fn start_cold_as(command: Command, config: &str, plugins: &[(&str, &[u8])]) -> Self {
        Self::start_with("127.0.0.1:0", command, config, plugins, None)
    }

    /// Does the same on another address. `{}` in `listen` and `config` stands for the host's own folder.
    pub(crate) fn start_at(listen: &str, command: Command, config: &str, plugins: &[(&str, &[u8])]) -> Self {
        Self::start_with(listen, command, config, plugins, Some(compiled_plugins()))
    }

    fn start_with(
        listen: &str,
        command: Command,
        config: &str,
        plugins: &[(&str, &[u8])],
        compiled: Option<&Path>,
    ) -> Self {
        let folder = TempDir::new().unwrap();
        let here = |text: &str| text.replace("{}", &folder.path().display().to_string());
        let (listen, config) = (here(listen), here(config));
        let data = folder.path().join("data");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(data.join("plugins")).unwrap();
        for (name, component) in plugins {
            fs::write(data.join("plugins").join(name).with_extension("wasm"), component).unwrap();
        }
        if let Some(compiled) = compiled {
            symlink(compiled, data.join("compiled")).unwrap();
        }
        fs::write(folder.path().join("dropsonde.toml"), config).unwrap();
        Self::start_in(Arc::new(folder), command, listen)
    }

    /// Starts a host that other machines can reach without TLS.
    pub(crate) fn start_insecure(listen: &str) -> Self {
        let mut command = dropsonde();
        command.args(["serve", "--insecure"]);
        Self::start_at(listen, command, "", &[])
    }

    fn start_in(folder: Arc<TempDir>, mut command: Command, listen: String) -> Self {
        // The command may have `serve` already, with further arguments.
        if !command.get_args().any(|argument| argument == "serve") {
            command.arg("serve");
        }
        command.args(["--listen", &listen, "--config"]).arg(folder.path().join("dropsonde.toml"));
        command.arg("--data").arg(folder.path().join("data"));
        Self::spawn(folder, command, listen)
    }

    /// Starts `serve --demo`: made-up series in memory, with two hours of history.
    pub(crate) fn start_demo() -> Self {
        let listen = "127.0.0.1:0";
        let mut command = dropsonde();
        command.args(["serve", "--demo", "--listen", listen]);
        Self::spawn(Arc::new(TempDir::new().unwrap()), command, listen.to_owned())
    }

    /// Starts a host by a whole command line, except for the address.
    pub(crate) fn start_by(mut command: Command) -> Self {
        let listen = "127.0.0.1:0";
        command.args(["--listen", listen]);
        Self::spawn(Arc::new(TempDir::new().unwrap()), command, listen.to_owned())
    }

    fn spawn(folder: Arc<TempDir>, mut command: Command, listen: String) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let errors = BufReader::new(child.stderr.take().unwrap());
        let shared = log.clone();
        let reader = std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                let mut log = shared.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let reader = Some(reader);
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let told = line.trim().strip_prefix("listening on ");
        let address = told.map(|url| url.split("://").last().unwrap_or_default().to_owned());
        let address = address.unwrap_or_else(|| panic!("the host does not serve: {line:?}\n{}", log.lock().unwrap()));
        Self { address, child, log, reader, folder, listen }
    }

    /// Stops the host and starts another with the same data and configuration.
    pub(crate) fn restart(mut self) -> Self {
        self.stop();
        self.start_again()
    }

    /// Does the same with another command that takes the binary's arguments.
    pub(crate) fn restart_as(mut self, command: Command) -> Self {
        self.stop();
        self.start_again_as(command)
    }

    /// Starts another host with the same data and configuration, after this one has ended.
    pub(crate) fn start_again(&self) -> Self {
        self.start_again_as(dropsonde())
    }

    /// Does the same with a command that takes the binary's arguments.
    pub(crate) fn start_again_as(&self, command: Command) -> Self {
        Self::start_in(self.folder.clone(), command, self.listen.clone())
    }

    /// Kills the host with SIGKILL.
    pub(crate) fn kill(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self
    }

    /// Starts another host with the same data and configuration on the same address, after this one has ended.
    pub(crate) fn start_here(&self) -> Self {
        Self::start_in(self.folder.clone(), dropsonde(), self.address.clone())
    }

    /// Kills the host with SIGKILL, and starts another with the same data.
    pub(crate) fn kill_and_restart(mut self) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        Self::start_in(self.folder.clone(), dropsonde(), self.listen.clone())
    }

    /// Replaces the configuration file. `{}` in it stands for the host's own folder.
    pub(crate) fn configure(&self, config: &str) {
        let half = self.folder.path().join("new.toml");
        fs::write(&half, config.replace("{}", &self.folder.path().display().to_string())).unwrap();
        fs::rename(half, self.folder.path().join("dropsonde.toml")).unwrap();
    }

    /// Replaces the configuration file, sends SIGHUP, and waits until the host has reloaded.
    pub(crate) fn reconfigure(&self, config: &str) {
        self.configure(config);
        let before = self.log().len();
        self.signal("HUP");
        let start = Instant::now();
        while !self.log()[before..].contains("reloaded the configuration") {
            assert!(start.elapsed() < PATIENCE, "{}", self.log());
            pause(start);
        }
    }

    /// Returns the host's own folder.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.request("GET", path)
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> Response {
        self.request_with(method, path, "")
    }

    /// Sends a request with further headers, which are whole lines.
    pub(crate) fn request_with(&self, method: &str, path: &str, headers: &str) -> Response {
        client::request(&self.address, method, path, headers)
    }

    /// Returns the header line with one of the host's tokens.
    pub(crate) fn bearer(&self, right: &str) -> String {
        let token = fs::read_to_string(self.data().join(format!("{right}.token"))).unwrap();
        format!("Authorization: Bearer {}\r\n", token.trim())
    }

    /// Sends a request with the admin token.
    pub(crate) fn send_as_admin(&self, method: &str, path: &str, body: &[u8]) -> Response {
        client::send(&self.address, method, path, &self.bearer("admin"), body)
    }

    /// Sends JSON with the write token.
    pub(crate) fn send_as_writer(&self, method: &str, path: &str, json: &str) -> Response {
        let headers = format!("{}Content-Type: application/json\r\n", self.bearer("write"));
        client::send(&self.address, method, path, &headers, json.as_bytes())
    }

    /// Sends the event `instance.{what}` for an instance.
    pub(crate) fn send_lifecycle_event(&self, what: &str, instance: &str) {
        let event = serde_json::json!({ "type": format!("instance.{what}"), "instance": instance });
        assert_eq!(self.send_as_writer("POST", "/v1/events", &event.to_string()).status, 202);
    }

    /// Sends events to a plugin, with the write token.
    pub(crate) fn send_events(&self, plugin: &str, content_type: &str, body: &[u8]) -> Response {
        let headers = format!("{}Content-Type: {content_type}\r\n", self.bearer("write"));
        client::send(&self.address, "POST", &format!("/v1/sources/{plugin}/events"), &headers, body)
    }

    /// Returns the path of a plugin's file.
    pub(crate) fn plugin_file(&self, plugin: &str) -> PathBuf {
        self.data().join("plugins").join(plugin).with_extension("wasm")
    }

    /// Puts a component into the plugins folder at once, as a careful operator does.
    pub(crate) fn drop_in(&self, plugin: &str, component: &[u8]) {
        let half = self.plugin_file(plugin).with_extension("new");
        fs::write(&half, component).unwrap();
        fs::rename(half, self.plugin_file(plugin)).unwrap();
    }

    pub(crate) fn stream(&self, path: &str) -> EventStream {
        client::stream(&self.address, path, "")
    }

    /// Opens a stream with a `Last-Event-ID`, as a browser does when it reconnects.
    pub(crate) fn stream_after(&self, path: &str, seen: &str) -> EventStream {
        client::stream(&self.address, path, &format!("Last-Event-ID: {seen}\r\n"))
    }

    /// Repeats a request until the answer is as wanted.
    pub(crate) fn until(&self, path: &str, wanted: impl FnMut(&Response) -> bool) -> Response {
        self.until_with(path, "", wanted)
    }

    /// Does the same with further headers, which are whole lines.
    pub(crate) fn until_with(&self, path: &str, headers: &str, mut wanted: impl FnMut(&Response) -> bool) -> Response {
        let start = Instant::now();
        loop {
            let response = self.request_with("GET", path, headers);
            if wanted(&response) {
                return response;
            }
            assert!(start.elapsed() < PATIENCE, "{path} stays {response:?}\n{}", self.log());
            pause(start);
        }
    }

    /// Returns the latest sample of an instance.
    pub(crate) fn usage(&self, instance: &str) -> Value {
        self.get(&format!("/v1/instances/{instance}/usage")).json()
    }

    /// Waits until the latest sample of an instance is as wanted, and returns it.
    pub(crate) fn until_usage(&self, instance: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let is_wanted = |usage: &Response| usage.status == 200 && wanted(&usage.json());
        self.until(&format!("/v1/instances/{instance}/usage"), is_wanted).json()
    }

    /// Waits until a line of the audit log is as wanted. Returns all lines.
    pub(crate) fn until_audited(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> Vec<serde_json::Value> {
        let start = Instant::now();
        loop {
            let text = fs::read_to_string(self.data().join("audit.log")).unwrap();
            // The last line may be incomplete.
            let lines: Vec<_> = text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
            if lines.iter().any(&wanted) {
                return lines;
            }
            assert!(start.elapsed() < PATIENCE, "no such line in the audit log: {lines:#?}");
            pause(start);
        }
    }

    /// Waits until the log contains a text. Returns the log.
    pub(crate) fn until_logged(&self, text: &str) -> String {
        let start = Instant::now();
        loop {
            let log = self.log();
            if log.contains(text) {
                return log;
            }
            assert!(start.elapsed() < PATIENCE, "{text:?} is not in the log:\n{log}");
            pause(start);
        }
    }

    pub(crate) fn plugin(&self, name: &str) -> serde_json::Value {
        self.get(&format!("/v1/plugins/{name}")).json()
    }

    /// Returns the log as far as it was read. The newest lines may be missing.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the host's resident memory, in kB.
    pub(crate) fn memory_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Returns the number of the host's threads.
    pub(crate) fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap().count()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Sends SIGTERM, waits until the host and its log have ended, and returns the exit code.
    pub(crate) fn stop(&mut self) -> i32 {
        self.signal("TERM");
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        self.reader.take().map(JoinHandle::join);
        code
    }

    /// Stops the host, and returns its whole log.
    pub(crate) fn stop_and_read_log(mut self) -> String {
        self.stop();
        self.log()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the folder that the hosts of most tests share for compiled plugins, also those of the next run: without it,
/// half of the tests' time is compilation. One host compiles the plugins that most tests run, before the others start.
pub(crate) fn compiled_plugins() -> &'static Path {
    static COMPILED: OnceLock<PathBuf> = OnceLock::new();
    COMPILED.get_or_init(|| {
        let folder = workspace().join("target/compiled");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).unwrap();
        let plugins: [(&str, &[u8]); 2] = [("verbs", verbs()), ("app", app())];
        let host = Host::start_with("127.0.0.1:0", dropsonde(), "", &plugins, Some(&folder));
        host.until("/ready", |ready| ready.status == 200);
        folder
    })
}

/// Waits before a condition is looked at again: the longer it is awaited, the less often.
fn pause(since: Instant) {
    std::thread::park_timeout((since.elapsed() / 16).clamp(Duration::from_millis(5), Duration::from_millis(25)));
}

/// Waits until `is_so` returns true. Panics with `otherwise` if that takes too long.
pub(crate) fn wait_until(otherwise: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "{otherwise}");
        pause(start);
    }
}
