//! Who has how much of what plugins and programs share, and who wants more than there is for it.
//!
//! The rule is that of [`Pool`]: half of each pool is common, and of the other half everyone has a share that nobody else can
//! take. What is beyond is refused to its owner, and counted.

use crate::core::Core;
use dropsonde_store::Pool;
use serde::Serialize;
use std::time::Duration;

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
pub(crate) fn pools(core: &Core) -> [Shared<'_>; 3] {
    [
        Shared {
            name: "places",
            pool: core.tracked.places(),
            beyond: "what of it ended first is forgotten, and further instances are refused",
            key: "poll.max_instances",
        },
        Shared {
            name: "history_rows_bytes",
            pool: core.store.heads(),
            beyond: "rows of further instances are not kept",
            key: "store.max_memory",
        },
        Shared {
            name: "history_blocks_bytes",
            pool: core.store.sealed(),
            beyond: "its oldest history goes",
            key: "store.max_memory",
        },
    ]
}

/// What an owner has of each pool of which it has, or wanted, something.
pub(crate) fn of_owner(core: &Core, owner: &str) -> Vec<Share> {
    let share = |shared: Shared<'_>| {
        let account = shared.pool.account(owner);
        let most = shared.pool.most();
        let share = Share { pool: shared.name, used: account.used, most, refused: account.refused };
        (account.used > 0 || account.refused > 0).then_some(share)
    };
    pools(core).into_iter().filter_map(share).collect()
}

impl Shared<'_> {
    /// What each owner has of it.
    pub(crate) fn all(&self) -> Vec<(std::sync::Arc<str>, u64, u64)> {
        let accounts = self.pool.accounts().into_iter();
        accounts.map(|(owner, account)| (owner, account.used, account.refused)).collect()
    }

    pub(crate) fn total(&self) -> u64 {
        self.pool.total()
    }

    /// Who was refused something of late, and why.
    fn greedy(&self) -> Vec<String> {
        let accounts = self.pool.accounts().into_iter();
        let late = accounts.filter(|(_, account)| account.refused_at.is_some_and(|at| at.elapsed() < RECENT));
        late.map(|(owner, account)| {
            let Self { name, beyond, key, .. } = self;
            format!(
                "{owner} has used up its share of {name} ({} of at most {}): {beyond}, {} so far; nobody else is affected; \
                 raise {key}, or have it want less",
                account.used,
                self.pool.most(),
                account.refused
            )
        })
        .collect()
    }
}

/// Who wanted more of late than its share, and what came of it.
pub(crate) fn greedy(core: &Core) -> Vec<String> {
    pools(core).iter().flat_map(Shared::greedy).collect()
}
