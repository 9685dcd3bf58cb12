//! Who has how much of what plugins and programs share, and who wants more than there is for it.
//!
//! The rule is that of [`Pool`]: half of each pool is common, and of the other half everyone has a share that nobody else can
//! take. What is beyond is refused to its owner, and counted.

use crate::Engine;
use crate::front::ClientPool;
use crate::places::PeerId;
use crate::plugins::Plugins;
use dropsonde_model::names::is_reserved;
use dropsonde_store::Pool;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The owner of what plugins had that are there no more.
const GONE: &str = "dropsonde:gone";

/// What a client has too many of that it does not read.
const UNREAD: &str = "unread_streams";

/// How long it is worth a word that an owner was refused something.
const RECENT: Duration = Duration::from_secs(120);

/// One of the pools.
pub(crate) struct Shared<'a> {
    /// Its name in metrics and on pages: what it is of, and its unit.
    pub(crate) name: &'static str,
    pool: &'a Pool,
    /// What an owner is refused when its share is used up.
    beyond: &'static str,
    /// What makes the pool larger.
    key: &'static str,
}

/// An owner that wanted more than its share.
#[derive(Debug)]
pub(crate) struct Greedy {
    pool: &'static str,
    owner: Arc<str>,
    pub(crate) why: String,
}

/// What the log says of greedy owners: when they begin to be, and when they end.
#[derive(Debug, Default)]
pub(crate) struct Log(BTreeSet<(&'static str, Arc<str>)>);

/// What an owner has of a pool, as its page shows it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Share {
    pub(crate) pool: &'static str,
    used: u64,
    /// The most it can have, when others leave it all that is common.
    most: u64,
    /// How often it wanted more, or something of it had to go.
    refused: u64,
}

/// All of them.
pub(crate) fn pools(engine: &Engine) -> Vec<Shared<'_>> {
    let in_files = [
        Shared {
            name: "history_disk_bytes",
            pool: engine.store.disk(),
            beyond: "its oldest history goes",
            key: "store.max_disk",
        },
        Shared {
            name: "history_log_bytes",
            pool: engine.store.log(),
            beyond: "its newest rows are written once their block is full, and a crash before costs them",
            key: "store.max_disk",
        },
    ];
    let in_memory = [
        Shared {
            name: "places",
            pool: engine.tracked.places(),
            beyond: "what of it ended first is forgotten, and further instances are refused",
            key: "poll.max_instances",
        },
        Shared {
            name: "history_rows_bytes",
            pool: engine.store.heads(),
            beyond: "further instances have no samples",
            key: "store.max_memory",
        },
        Shared {
            name: "history_blocks_bytes",
            pool: engine.store.sealed(),
            beyond: "its oldest history goes",
            key: "store.max_memory",
        },
        Shared {
            name: "metrics_bytes",
            pool: &engine.exposed,
            beyond: "samples of further instances are not on /metrics",
            key: "metrics.max_size",
        },
    ];
    let is_archived = engine.store.archive().on;
    in_memory.into_iter().chain(in_files.into_iter().filter(|_| is_archived)).collect()
}

/// A pool of clients, and who wanted more of it than its share.
pub(crate) struct OfClients {
    pub(crate) pool: &'static str,
    /// The configuration key that makes it larger; empty if there is none.
    key: &'static str,
    /// How often clients were refused something of it.
    pub(crate) refusals: u64,
    /// The clients that were refused something lately, and how often each was.
    greedy: Vec<(PeerId, u64)>,
}

/// All of them.
pub(crate) fn of_clients(engine: &Engine) -> Vec<OfClients> {
    let queues: Vec<_> = engine.plugins.list().iter().filter_map(|plugin| plugin.events()).collect();
    let own = [
        ClientPool { name: "scrapes", key: "", places: engine.exposition.answers() },
        ClientPool { name: UNREAD, key: "", places: engine.hub.unread() },
    ];
    let of_events = OfClients {
        pool: "event_bytes",
        key: "",
        refusals: queues.iter().map(|queue| queue.bytes().refusals()).sum(),
        greedy: queues.iter().flat_map(|queue| queue.bytes().greedy(RECENT)).collect(),
    };
    let front = engine.front();
    let of_front = front.iter().flat_map(|front| front.pools());
    of_front.chain(own).map(OfClients::of).chain([of_events]).collect()
}

impl OfClients {
    fn of(ClientPool { name, key, places }: ClientPool<'_>) -> Self {
        Self { pool: name, key, refusals: places.refusals(), greedy: places.greedy(RECENT) }
    }
}

/// What an owner has of each pool of which it has, or wanted, something.
pub(crate) fn of_owner(engine: &Engine, owner: &str) -> Vec<Share> {
    let share = |shared: Shared<'_>| {
        let account = shared.pool.account(owner);
        let most = shared.pool.most();
        let share = Share { pool: shared.name, used: account.used, most, refused: account.refused };
        (account.used > 0 || account.refused > 0).then_some(share)
    };
    pools(engine).into_iter().filter_map(share).collect()
}

impl Shared<'_> {
    /// What each owner has of it, and how often it was refused more. Plugins that are gone, and left history, are one.
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

    /// Who was refused something of late, and why.
    fn greedy(&self, plugins: &Plugins) -> Vec<Greedy> {
        let accounts = self.pool.accounts().into_iter().filter(|(owner, _)| is_there(plugins, owner));
        let late = accounts.filter(|(_, account)| account.refused_at.is_some_and(|at| at.elapsed() < RECENT));
        late.map(|(owner, account)| {
            let Self { name, beyond, key, .. } = self;
            let why = format!(
                "{owner} wanted more of {name} than the {} it can have now, and has {}: {beyond}, {} so far; raise {key}, or \
                 have it want less",
                self.pool.most_of(&owner),
                account.used,
                account.refused
            );
            Greedy { pool: name, owner, why }
        })
        .collect()
    }
}

/// Whether an owner is no plugin, or one that is loaded.
fn is_there(plugins: &Plugins, owner: &str) -> bool {
    is_reserved(owner) || plugins.get(owner).is_some()
}

/// Who wanted more of late than its share, and what came of it.
pub(crate) fn greedy(engine: &Engine) -> Vec<Greedy> {
    let clients = of_clients(engine).into_iter().flat_map(|OfClients { pool, key, greedy, .. }| {
        greedy.into_iter().map(move |(peer, times)| {
            let way_out =
                if key.is_empty() { String::new() } else { format!("; raise {key}, or have it ask for less") };
            let why = if pool == UNREAD {
                format!(
                    "client {peer} does not read many of its streams as fast as samples come: those lose samples; have it \
                     read them, or open fewer"
                )
            } else {
                format!(
                    "client {peer} wanted more of {pool} than one client can have, and was refused it {times} times{way_out}"
                )
            };
            Greedy { pool, owner: peer.to_string().into(), why }
        })
    });
    pools(engine).iter().flat_map(|pool| pool.greedy(&engine.plugins)).chain(clients).collect()
}

impl Log {
    /// Says who has become greedy since it was last called, and who is it no more.
    pub(crate) fn look(&mut self, engine: &Engine) {
        let now = greedy(engine);
        for Greedy { pool, owner, why } in &now {
            if self.0.insert((pool, owner.clone())) {
                tracing::warn!(pool, owner = &**owner, "{why}");
            }
        }
        self.0.retain(|(pool, owner)| {
            let is_still = now.iter().any(|greedy| greedy.pool == *pool && greedy.owner == *owner);
            if !is_still {
                tracing::info!(pool, owner = &**owner, "it is within its share again");
            }
            is_still
        });
    }
}
