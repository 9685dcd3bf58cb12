//! The use of pools that plugins, programs and clients share, and reports of those that want more than their share.
//!
//! The rule is that of [`Pool`]: half of each pool is common, and of the other half each owner has a share that nobody
//! else can take. Beyond that an owner is refused, and the refusal is counted.

use crate::Engine;
use crate::frontend::ClientPool;
use crate::plugins::Plugins;
use crate::quota::{ClientId, Crowd};
use dropsonde_model::names::is_reserved;
use dropsonde_store::Pool;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The owner that stands for all plugins that are gone and left history.
const GONE: &str = "dropsonde:gone";

/// The pool that stands for the streams that a client does not read.
const UNREAD: &str = "unread_streams";

/// The time for which a refusal is reported.
const RECENT: Duration = Duration::from_secs(120);

/// A pool that plugins and programs share.
pub(crate) struct SharedPool<'a> {
    /// The pool's name in metrics and on pages: its content and its unit.
    pub(crate) name: &'static str,
    pool: &'a Pool,
    /// The consequence for an owner whose share is used up, for messages.
    beyond: &'static str,
    /// The configuration key that makes the pool larger.
    key: &'static str,
}

/// An owner that wanted more than its share.
#[derive(Debug)]
pub(crate) struct GreedyOwner {
    pool: &'static str,
    owner: Arc<str>,
    pub(crate) why: String,
}

/// The owners that the log has reported as greedy. It logs when an owner becomes greedy, and when that ends.
#[derive(Debug, Default)]
pub(crate) struct GreedyLog(BTreeSet<(&'static str, Arc<str>)>);

/// An owner's use of a pool, as its page shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PoolShare {
    pub(crate) pool: &'static str,
    used: u64,
    /// The most it can have, if others leave it the whole common part.
    most: u64,
    /// Refusals and evictions because its share was used up.
    refused: u64,
}

/// The use of a pool by all its owners.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct PoolUse {
    pool: &'static str,
    used: u64,
    most: u64,
    /// Refusals and evictions because an owner's share was used up.
    refused: u64,
}

/// Returns the use of each pool that plugins and programs share.
pub(crate) fn in_use(engine: &Engine) -> Vec<PoolUse> {
    let sum = |shared: SharedPool<'_>| {
        let refused = shared.pool.accounts().values().map(|account| account.refused).sum();
        PoolUse { pool: shared.name, used: shared.pool.used(), most: shared.pool.total(), refused }
    };
    pools(engine).into_iter().map(sum).collect()
}

/// Returns the pools that plugins and programs share.
pub(crate) fn pools(engine: &Engine) -> Vec<SharedPool<'_>> {
    let in_files = [
        SharedPool {
            name: "history_disk_bytes",
            pool: engine.store.disk(),
            beyond: "its oldest history is dropped",
            key: "store.max_disk",
        },
        SharedPool {
            name: "history_log_bytes",
            pool: engine.store.log(),
            beyond: "its newest rows are written once their block is full, and a crash before that loses them",
            key: "store.max_disk",
        },
    ];
    let in_memory = [
        SharedPool {
            name: "places",
            pool: engine.tracked.places(),
            beyond: "its instances that ended first are forgotten, and further instances are refused",
            key: "poll.max_instances",
        },
        SharedPool {
            name: "history_rows_bytes",
            pool: engine.store.heads(),
            beyond: "further instances have no samples",
            key: "store.max_memory",
        },
        SharedPool {
            name: "history_blocks_bytes",
            pool: engine.store.sealed(),
            beyond: "its oldest history is dropped",
            key: "store.max_memory",
        },
        SharedPool {
            name: "series",
            pool: engine.store.series_pool(),
            beyond: "further series are not in history",
            key: "store.max_series",
        },
        SharedPool {
            name: "metrics_bytes",
            pool: &engine.exposed,
            beyond: "samples of further instances are not on /metrics",
            key: "metrics.max_size",
        },
        SharedPool {
            name: "own_metrics_bytes",
            pool: &engine.exposed_own,
            beyond: "further series that it registered are not on /metrics",
            key: "metrics.max_size",
        },
    ];
    let is_archived = engine.store.archive().on;
    in_memory.into_iter().chain(in_files.into_iter().filter(|_| is_archived)).collect()
}

/// A pool that clients share, and the clients that wanted more than their share.
pub(crate) struct ClientPoolUse {
    pub(crate) pool: &'static str,
    /// The configuration key that makes it larger; empty if there is none.
    key: &'static str,
    /// The number of refusals, of all clients.
    pub(crate) refusals: u64,
    /// The clients that were refused recently, each with its number of refusals.
    greedy: Vec<(ClientId, u64)>,
    /// The clients that had most of the pool when others were refused recently.
    crowd: Option<Crowd>,
}

/// Returns the pools that clients share.
pub(crate) fn of_clients(engine: &Engine) -> Vec<ClientPoolUse> {
    let queues: Vec<_> = engine.plugins.list().iter().filter_map(|plugin| plugin.events()).collect();
    let own = [
        ClientPool { name: "scrapes", key: "", places: engine.exposition.answers() },
        ClientPool { name: UNREAD, key: "", places: engine.hub.unread() },
    ];
    let of_events = ClientPoolUse {
        pool: "event_bytes",
        key: "",
        refusals: queues.iter().map(|queue| queue.bytes().refusals()).sum(),
        greedy: queues.iter().flat_map(|queue| queue.bytes().greedy(RECENT)).collect(),
        crowd: None,
    };
    let front = engine.front();
    let of_front = front.iter().flat_map(|front| front.pools());
    of_front.chain(own).map(ClientPoolUse::of).chain([of_events]).collect()
}

impl ClientPoolUse {
    fn of(ClientPool { name, key, places }: ClientPool<'_>) -> Self {
        Self {
            pool: name,
            key,
            refusals: places.refusals(),
            greedy: places.greedy(RECENT),
            crowd: places.crowd(RECENT),
        }
    }
}

/// Returns an owner's use of each pool of which it has something or was refused something.
pub(crate) fn of_owner(engine: &Engine, owner: &str) -> Vec<PoolShare> {
    let share = |shared: SharedPool<'_>| {
        let account = shared.pool.account(owner);
        let most = shared.pool.limit();
        let share = PoolShare { pool: shared.name, used: account.used, most, refused: account.refused };
        (account.used > 0 || account.refused > 0).then_some(share)
    };
    pools(engine).into_iter().filter_map(share).collect()
}

impl SharedPool<'_> {
    /// Returns each owner's use of the pool and its number of refusals. Plugins that are gone and left history are one
    /// owner.
    pub(crate) fn all(&self, plugins: &Plugins) -> BTreeMap<Arc<str>, (u64, u64)> {
        let mut all = BTreeMap::new();
        for (owner, account) in self.pool.accounts() {
            let (used, refused) = all.entry(if is_there(plugins, &owner) { owner } else { GONE.into() }).or_default();
            *used += account.used;
            *refused += account.refused;
        }
        all
    }

    pub(crate) fn total(&self) -> u64 {
        self.pool.total()
    }

    /// Returns the owners that were refused something recently, and why.
    fn greedy(&self, plugins: &Plugins) -> Vec<GreedyOwner> {
        let accounts = self.pool.accounts().into_iter().filter(|(owner, _)| is_there(plugins, owner));
        let late = accounts.filter(|(_, account)| account.refused_at.is_some_and(|at| at.elapsed() < RECENT));
        late.map(|(owner, account)| {
            let Self { name, beyond, key, .. } = self;
            let why = format!(
                "{owner} wanted more of {name} than its share, and has {}: {beyond} ({} times so far); raise {key}, or \
                 make it use less",
                account.used, account.refused
            );
            GreedyOwner { pool: name, owner, why }
        })
        .collect()
    }
}

/// Returns whether an owner is not a plugin, or is a plugin that is loaded.
fn is_there(plugins: &Plugins, owner: &str) -> bool {
    is_reserved(owner) || plugins.get(owner).is_some()
}

/// Returns the owners and clients that recently wanted more than their share, each with a message.
pub(crate) fn greedy(engine: &Engine) -> Vec<GreedyOwner> {
    let mut all: Vec<_> = pools(engine).iter().flat_map(|pool| pool.greedy(&engine.plugins)).collect();
    for clients in of_clients(engine) {
        all.extend(clients.greedy());
    }
    all
}

impl ClientPoolUse {
    /// Returns the clients that recently wanted more than their share, and those that left nothing to others.
    fn greedy(self) -> Vec<GreedyOwner> {
        let Self { pool, key, refusals: _, greedy, crowd } = self;
        let way_out =
            if key.is_empty() { String::new() } else { format!("; raise {key}, or make the client ask for less") };
        let of_client = |peer: ClientId, why| GreedyOwner { pool, owner: peer.to_string().into(), why };
        let mut all = Vec::new();
        if let Some(Crowd { holders, refused }) = crowd {
            for (peer, held) in holders {
                let why = format!(
                    "client {peer} has {held} of {pool}, and nothing is left for others (refused so far: \
                     {refused}){way_out}"
                );
                all.push(of_client(peer, why));
            }
        }
        for (peer, times) in greedy {
            let why = if pool == UNREAD {
                format!(
                    "client {peer} reads many of its streams more slowly than samples come, and those lose samples; \
                     make it read faster, or open fewer"
                )
            } else {
                format!(
                    "client {peer} wanted more of {pool} than one client can have, and was refused {times} \
                     times{way_out}"
                )
            };
            all.push(of_client(peer, why));
        }
        all
    }
}

impl GreedyLog {
    /// Logs the owners that have become greedy since the last call, and those that no longer are.
    pub(crate) fn look(&mut self, engine: &Engine) {
        let now = greedy(engine);
        for GreedyOwner { pool, owner, why } in &now {
            if self.0.insert((pool, owner.clone())) {
                tracing::warn!(pool, owner = &**owner, "{why}");
            }
        }
        self.0.retain(|(pool, owner)| {
            let is_still = now.iter().any(|greedy| greedy.pool == *pool && greedy.owner == *owner);
            if !is_still {
                tracing::info!(pool, owner = &**owner, "the owner is within its share again");
            }
            is_still
        });
    }
}
