use anyhow::{Result, ensure};

/// The unit in the repository, for a binary in /usr/local and a user that exists only while the service runs.
const UNIT: &str = include_str!("../../../systemd/dropsonde.service");

/// Returns the unit for an archive that is unpacked into /usr/local.
pub(super) fn for_archive() -> &'static str {
    UNIT
}

/// Returns the unit for a package that makes a user and installs into /usr.
pub(super) fn for_package() -> Result<String> {
    let (_, unit) = UNIT.split_once("\n\n").unwrap_or(("", UNIT));
    let mut unit = format!(
        "# To change it: `systemctl edit dropsonde`. Tokens are in /var/lib/dropsonde. `systemctl reload dropsonde` reloads the\n\
         # configuration, which the host also does by itself when the file changes.\n\n{unit}"
    );
    for (own, packaged) in [
        ("/usr/local/bin/dropsonde", "/usr/bin/dropsonde"),
        (
            "# The service has its own user, which exists only while the service runs.\nDynamicUser=yes\n",
            "# The package made this user.\nUser=dropsonde\nGroup=dropsonde\n",
        ),
    ] {
        ensure!(unit.contains(own), "host/systemd/dropsonde.service has no longer {own:?}");
        unit = unit.replace(own, packaged);
    }
    Ok(unit)
}
