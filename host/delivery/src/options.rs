//! The servers that a host sends to.

pub use crate::access::AccessConfig;
pub use crate::alerts::options::{AlertingOptions, AlertmanagerConfig, Day, Format, MuteConfig, WebhookConfig};
pub use crate::read_through::options::ReadThroughConfig;
pub use crate::samples::destination::check as check_destinations;
pub use crate::samples::destination::{
    Destination, DestinationConfig, OtlpConfig, Protocol, RemoteWriteConfig, Version,
};
pub use crate::samples::relabel::{Action, RelabelConfig};
pub use crate::samples::since::Since;

use crate::read_through::DESTINATION;
use dropsonde_model::InvalidValue;
use std::path::PathBuf;

/// The parts of a configuration about other servers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DeliveryOptions {
    pub alerting: AlertingOptions,
    /// Servers that get samples.
    pub destinations: Vec<Destination>,
    /// A database that has longer history.
    pub read_through: Option<ReadThroughConfig>,
    /// The folder for what must be known after a restart. None: nothing is kept.
    pub data_dir: Option<PathBuf>,
}

impl DeliveryOptions {
    pub fn check(&self) -> Result<(), InvalidValue> {
        self.alerting.check()?;
        check_destinations(&self.destinations)?;
        self.read_through.as_ref().map_or(Ok(()), ReadThroughConfig::check)?;
        let webhooks: Vec<String> = self.alerting.webhooks.iter().map(WebhookConfig::name).collect();
        for destination in &self.destinations {
            let (key, name) = (destination.protocol.key(), destination.name());
            if webhooks.contains(&name) {
                let why = format!("{name:?} is the name of a webhook, too; give it another name");
                return InvalidValue::of(&format!("{key}[].name"), &why);
            }
            if name == DESTINATION {
                return InvalidValue::of(&format!("{key}[].name"), "is that of [read_through] in metrics");
            }
        }
        Ok(())
    }
}
