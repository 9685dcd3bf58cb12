//! Notifications to the service manager, and the unit.

use crate::harness::{Host, dropsonde, workspace};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

#[test]
fn the_host_notifies_systemd_when_it_is_ready_reloads_is_alive_and_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let heard = || {
        let mut message = [0; 256];
        let count = socket.recv(&mut message).unwrap();
        String::from_utf8(message[..count].to_vec()).unwrap().trim().to_owned()
    };
    // It says so again and again.
    let next = || std::iter::repeat_with(heard).find(|message| message != "WATCHDOG=1").unwrap();
    let mut command = dropsonde();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "300000");
    let mut host = Host::start_as(command, "", &[]);
    assert_eq!(next(), format!("READY=1\nSTATUS=serving on {}", host.url()));
    host.reconfigure("labels = { a = 'b' }\n");
    let reloading = next();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(next(), "READY=1\nSTATUS=reloaded the configuration");
    host.configure("labels = { a-b = 'b' }\n");
    host.signal("HUP");
    assert!(next().starts_with("RELOADING=1\n"));
    let refused = next();
    assert!(refused.starts_with("READY=1\nSTATUS=refused the new configuration: "), "{refused}");
    assert!((0..3).all(|_| heard() == "WATCHDOG=1"));
    host.signal("TERM");
    assert_eq!(next(), "STOPPING=1");
    assert_eq!(host.stop(), 0);
}

#[test]
fn the_binary_accepts_the_arguments_of_the_systemd_unit() {
    let unit = std::fs::read_to_string(workspace().join("host/systemd/dropsonde.service")).unwrap();
    let value = |key: &str| unit.lines().find_map(|line| line.strip_prefix(&format!("{key}="))).unwrap();
    assert_eq!((value("Type"), value("NotifyAccess")), ("notify", "main"));
    let start: Vec<_> = value("ExecStart").split_whitespace().skip(1).collect();
    let (code, _, error) = crate::harness::run(dropsonde().args(&start).args(["--check", "--data", "/nowhere"]));
    assert!(code == 2 && error.contains("--data"), "it says where its data is: {error}");
    let config = tempfile::NamedTempFile::new().unwrap();
    let path = config.path().display().to_string();
    let start: Vec<_> = start.into_iter().map(|word| word.replace("/etc/dropsonde/dropsonde.toml", &path)).collect();
    let (code, out, error) = crate::harness::run(dropsonde().args(&start).args(["--check", "--listen", "127.0.0.1:0"]));
    assert_eq!((code, out.as_str()), (0, "the configuration is fine\n"), "{error}");
}
