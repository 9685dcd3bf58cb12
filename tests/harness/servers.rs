//! Servers of other projects, from Debian's packages that `cargo dev setup` unpacks, else from the PATH.

use super::client;
use super::guests::workspace;
use super::host::wait_until;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A server on a free port, with a folder of its own. It ends when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _child: KilledOnDrop,
    _folder: TempDir,
}

/// A process that ends when this is dropped.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    pub(crate) fn node_exporter() -> Self {
        let mut command = tool("prometheus-node-exporter");
        command.arg("--web.listen-address=127.0.0.1:0");
        Self::start(command, TempDir::new().unwrap())
    }

    pub(crate) fn victoria_metrics() -> Self {
        let folder = TempDir::new().unwrap();
        let mut command = tool("victoria-metrics");
        command.arg("-httpListenAddr=127.0.0.1:0").arg("-storageDataPath").arg(folder.path());
        // It hides the newest samples otherwise.
        command.arg("-search.latencyOffset=1ms");
        Self::start(command, folder)
    }

    /// Starts a registry of images and plugins.
    pub(crate) fn registry() -> Self {
        let folder = TempDir::new().unwrap();
        let config = format!(
            "version: 0.1\nlog: {{ level: error }}\nhttp: {{ addr: '127.0.0.1:0' }}\n\
             storage: {{ filesystem: {{ rootdirectory: '{}' }} }}\n",
            folder.path().display()
        );
        fs::write(folder.path().join("config.yml"), config).unwrap();
        let mut command = tool("docker-registry");
        command.arg("serve").arg(folder.path().join("config.yml"));
        Self::start(command, folder)
    }

    /// Starts Alertmanager; none where it finds no templates. They must be at a fixed path, to which only a process that
    /// may mount can bring them.
    pub(crate) fn alertmanager() -> Option<Self> {
        Self::alertmanager_with("route: { receiver: none }\nreceivers: [{ name: none }]\n")
    }

    /// Does the same with a configuration.
    pub(crate) fn alertmanager_with(config: &str) -> Option<Self> {
        const SHARED: &str = "/usr/share";
        let program = tool("prometheus-alertmanager");
        let unpacked = unpacked().join("usr/share");
        let mut command = if Path::new(SHARED).join("prometheus/alertmanager").exists() || !unpacked.exists() {
            program
        } else {
            let mount = format!("mount --bind {} {SHARED} && exec \"$0\" \"$@\"", unpacked.display());
            let mut command = Command::new("unshare");
            command.args(["--mount", "sh", "-c", &mount]).arg(program.get_program());
            let may_mount = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
            if !may_mount.is_ok_and(|status| status.success()) {
                return None;
            }
            command
        };
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("config.yml"), config).unwrap();
        command.args(["--web.listen-address=127.0.0.1:0", "--cluster.listen-address="]);
        command.arg("--config.file").arg(folder.path().join("config.yml")).arg("--storage.path").arg(folder.path());
        Some(Self::start(command, folder))
    }

    fn start(mut command: Command, folder: TempDir) -> Self {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        let child =
            KilledOnDrop(child.unwrap_or_else(|error| panic!("{command:?} ({error}): `cargo dev setup` unpacks it")));
        let mut address = None;
        wait_until("the server does not listen", || {
            address = listening_address(child.0.id());
            address.is_some()
        });
        Self { address: address.unwrap(), _child: child, _folder: folder }
    }

    /// Returns the metrics that it exposes about itself.
    pub(crate) fn metrics(&self) -> String {
        client::stream(&self.address.to_string(), "/metrics", "").read_body()
    }
}

/// nginx on a Unix socket, and the exporter that makes metrics of its status page.
pub(crate) struct Nginx {
    pub(crate) exporter: Server,
    pub(crate) socket: PathBuf,
    _child: KilledOnDrop,
    _folder: TempDir,
}

impl Nginx {
    pub(crate) fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("nginx.sock");
        let config = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nevents {{}}\nhttp {{\n\
             access_log off;\nclient_body_temp_path a;\nproxy_temp_path b;\nfastcgi_temp_path c;\nuwsgi_temp_path d;\n\
             scgi_temp_path e;\nkeepalive_requests 1000000;\n\
             server {{ listen unix:{}; location = /status {{ stub_status; }} location / {{ return 200 ok; }} }}\n}}\n",
            socket.display()
        );
        fs::write(folder.path().join("nginx.conf"), config).unwrap();
        let mut command = tool("nginx");
        command.arg("-p").arg(folder.path()).args(["-c", "nginx.conf", "-e", "stderr"]);
        let child = command.stderr(Stdio::null()).spawn().expect("`cargo dev setup` unpacks nginx");
        wait_until("nginx does not listen", || socket.exists());
        let mut exporter = tool("prometheus-nginx-exporter");
        exporter.arg("-web.listen-address=127.0.0.1:0");
        exporter.arg(format!("-nginx.scrape-uri=unix:{}:/status", socket.display()));
        let exporter = Server::start(exporter, TempDir::new().unwrap());
        Self { exporter, socket, _child: KilledOnDrop(child), _folder: folder }
    }
}

/// A Podman of its own, with its service on a Unix socket and containers that it removes at the end.
pub(crate) struct Podman {
    pub(crate) socket: PathBuf,
    service: Option<KilledOnDrop>,
    folder: TempDir,
}

impl Podman {
    /// Starts the service with one container, which uses all CPU time it gets. Returns why this machine cannot run
    /// containers, if it cannot.
    pub(crate) fn with_container(name: &str, args: &[&str]) -> Result<Self, String> {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (root, libraries) = (unpacked(), library_path());
        for name in ["rootfs/bin", "rootfs/proc", "rootfs/sys", "rootfs/dev", "rootfs/etc", "rootfs/run", "rootfs/tmp"]
        {
            fs::create_dir_all(at(name)).unwrap();
        }
        fs::copy(root.join("bin/busybox"), at("rootfs/bin/sh")).map_err(|error| format!("busybox: {error}"))?;
        // Podman starts the runtime without the environment that says where its libraries are.
        let runtime = at("runc");
        let script = format!("#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {}/usr/sbin/runc \"$@\"\n", root.display());
        fs::write(&runtime, script).unwrap();
        fs::set_permissions(&runtime, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let config = format!(
            "[containers]\ndefault_ulimits = ['nofile=1024:1024', 'nproc=1024:1024']\n\
             [engine]\nconmon_path = ['{0}/usr/bin/conmon']\nruntime = 'runc'\ncgroup_manager = 'cgroupfs'\n\
             events_logger = 'none'\nhelper_binaries_dir = ['{0}/usr/lib/podman']\n[engine.runtimes]\nrunc = ['{1}']\n[network]\nnetwork_backend = 'netavark'\n",
            root.display(),
            runtime.display()
        );
        fs::write(at("containers.conf"), config).unwrap();
        let storage =
            format!("[storage]\ndriver = 'vfs'\ngraphroot = '{0}/storage'\nrunroot = '{0}/run'\n", at("").display());
        fs::write(at("storage.conf"), storage).unwrap();
        let mut podman = Self { socket: at("podman.sock"), service: None, folder };
        let rootfs = podman.folder.path().join("rootfs").display().to_string();
        let busy = ["--rootfs", &rootfs, "/bin/sh", "-c", "while :; do :; done"];
        let run = ["run", "--detach", "--network", "none", "--name", name];
        podman.run(&[&run, args, &busy].concat())?;
        let service = format!("unix://{}", podman.socket.display());
        let service = podman.command().args(["system", "service", "--time", "0", &service]).spawn();
        podman.service = Some(KilledOnDrop(service.map_err(|error| error.to_string())?));
        wait_until("podman's service does not listen", || podman.socket.exists());
        Ok(podman)
    }

    /// Runs a command, and returns what it prints.
    pub(crate) fn run(&self, args: &[&str]) -> Result<String, String> {
        let output = self.command().args(args).output().map_err(|error| error.to_string())?;
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(error) }
    }

    fn command(&self) -> Command {
        let mut command = tool("podman");
        let at = |name: &str| self.folder.path().join(name);
        command.env("CONTAINERS_CONF", at("containers.conf")).env("CONTAINERS_STORAGE_CONF", at("storage.conf"));
        command.stdin(Stdio::null());
        command
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.run(&["rm", "--all", "--force", "--time", "0"]);
    }
}

fn unpacked() -> PathBuf {
    workspace().join("target/servers")
}

fn library_path() -> String {
    let root = unpacked();
    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|path| root.join(path).display().to_string()).join(":")
}

/// Returns the command for a program of those packages.
pub(crate) fn tool(name: &str) -> Command {
    let root = unpacked();
    let found =
        ["usr/bin", "usr/sbin"].map(|folder| root.join(folder).join(name)).into_iter().find(|path| path.exists());
    match found {
        Some(path) => {
            let mut command = Command::new(path);
            command.env("LD_LIBRARY_PATH", library_path());
            command
        }
        None => Command::new(name),
    }
}

/// Returns the address at which a process listens: it was told to choose a port.
fn listening_address(process: u32) -> Option<SocketAddr> {
    const LISTENING: &str = "0A";
    let open = fs::read_dir(format!("/proc/{process}/fd")).ok()?.flatten();
    let open: Vec<_> = open.filter_map(|file| fs::read_link(file.path()).ok()).collect();
    let sockets = fs::read_to_string("/proc/net/tcp").ok()?;
    sockets.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (columns.get(1)?, columns.get(3)?, columns.get(9)?);
        let is_own = *state == LISTENING && open.iter().any(|file| file.as_os_str() == &*format!("socket:[{inode}]"));
        let port = u16::from_str_radix(local.split_once(':')?.1, 16).ok()?;
        is_own.then(|| SocketAddr::from(([127, 0, 0, 1], port)))
    })
}
