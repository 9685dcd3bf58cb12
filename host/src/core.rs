use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::Config;
use crate::exposition::Exposition;
use crate::health::Vitals;
use crate::hub::Hub;
use crate::metrics::HostMetrics;
use crate::plugins::Plugins;
use crate::snapshot::Snapshots;
use crate::tokens::Tokens;
use crate::tracked::Tracked;
use dropsonde_store::{InstanceId, Store};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Mutex;

/// What the parts of the host share. Data flows one way: plugins → store → hub; everyone else reads.
#[derive(Debug)]
pub struct Core {
    pub config: Config,
    pub clock: Clock,
    pub store: Store,
    pub tracked: Tracked,
    pub hub: Hub,
    pub plugins: Plugins,
    pub metrics: HostMetrics,
    pub tokens: Tokens,
    pub snapshots: Snapshots,
    /// Held while all sources are asked at once; when that last began.
    pub fresh: Mutex<Option<Instant>>,
    pub audit: Audit,
    pub vitals: Arc<Vitals>,
    pub exposition: Exposition,
}

impl Core {
    /// Drops the history of an instance that is no longer tracked, and ends its streams.
    pub fn forget(&self, id: &InstanceId) {
        self.store.remove(id);
        self.hub.close(id);
    }
}
