//! The servers that a host sends to.

pub use crate::access::AccessConfig;
pub use crate::alerts::options::{AlertingOptions, AlertmanagerConfig, Day, Format, MuteConfig, WebhookConfig};
pub use crate::remote_write::options::check as check_remotes;
pub use crate::remote_write::options::{Action, RelabelConfig, RemoteWriteConfig, Since, Version};

use dropsonde_model::InvalidValue;
use std::path::PathBuf;

/// The parts of a configuration about other servers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeliveryOptions {
    pub alerting: AlertingOptions,
    pub remote_write: Vec<RemoteWriteConfig>,
    /// The folder for what must be known after a restart. None: nothing is kept.
    pub data_dir: Option<PathBuf>,
}

impl DeliveryOptions {
    pub fn check(&self) -> Result<(), InvalidValue> {
        self.alerting.check()?;
        crate::remote_write::options::check(&self.remote_write)?;
        let webhooks: Vec<String> = self.alerting.webhooks.iter().map(WebhookConfig::name).collect();
        for (nth, remote) in self.remote_write.iter().enumerate() {
            if webhooks.contains(&remote.name()) {
                let why = format!("{:?} is the name of a webhook, too; give it another name", remote.name());
                return InvalidValue::of(&format!("remote_write[{nth}].name"), &why);
            }
        }
        Ok(())
    }
}
