//! A pool that several owners share, so that no owner can use up the share of another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// The number of owners up to which the shares keep their size.
const OWNERS: u64 = 8;

/// An amount of bytes or places that several owners share.
///
/// One part is common: owners take from it first come, first served. One owner can use at most as much as the common
/// part. The rest is reserved and divided into shares that nobody else can take: an eighth for each owner, less if
/// there are more than eight owners. Whatever some owners take, every other owner keeps its share.
#[derive(Debug)]
pub struct Pool {
    common: u64,
    /// The sum of all shares.
    reserved: u64,
    accounts: Mutex<Accounts>,
}

/// One owner's use of a pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    pub used: u64,
    /// How often the owner was refused more, or something of its own was evicted.
    pub refused: u64,
    /// The time of the last refusal or eviction.
    pub refused_at: Option<Instant>,
}

/// The error of an owner whose share is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("share used up: {used} in use, at most {limit} allowed")]
pub struct ShareUsedUp {
    /// The amount that the owner has.
    pub used: u64,
    /// The amount that the owner may have now.
    pub limit: u64,
}

type Accounts = BTreeMap<Arc<str>, Account>;

impl Account {
    fn refuse(&mut self, times: u64) {
        self.refused = self.refused.saturating_add(times);
        self.refused_at = Some(Instant::now());
    }
}

impl Pool {
    /// Makes a pool whose common part is half of it.
    pub fn halved(total: u64) -> Self {
        Self::new(total / 2, total - total / 2)
    }

    pub fn new(common: u64, reserved: u64) -> Self {
        Self { common, reserved, accounts: Mutex::default() }
    }

    pub fn total(&self) -> u64 {
        self.common.saturating_add(self.reserved)
    }

    /// Takes an amount for an owner: all of it or nothing.
    pub fn take(&self, owner: &Arc<str>, amount: u64) -> Result<(), ShareUsedUp> {
        let mut accounts = self.lock();
        let used = accounts.get(owner).map_or(0, |account| account.used);
        let limit = self.limit_now(&accounts, owner);
        let account = accounts.entry(owner.clone()).or_default();
        if used.saturating_add(amount) > limit {
            account.refuse(1);
            return Err(ShareUsedUp { used, limit });
        }
        account.used += amount;
        Ok(())
    }

    /// Returns whether an owner could take an amount now.
    pub fn has_room(&self, owner: &str, amount: u64) -> bool {
        let accounts = self.lock();
        let used = accounts.get(owner).map_or(0, |account| account.used);
        used.saturating_add(amount) <= self.limit_now(&accounts, owner)
    }

    /// Takes an amount that is in use already, whether there is room for it or not.
    pub fn take_anyway(&self, owner: &Arc<str>, amount: u64) {
        let mut accounts = self.lock();
        let account = accounts.entry(owner.clone()).or_default();
        account.used = account.used.saturating_add(amount);
    }

    /// Counts `times` evictions or refusals for an owner that had too much.
    pub fn refuse(&self, owner: &Arc<str>, times: u64) {
        self.lock().entry(owner.clone()).or_default().refuse(times);
    }

    pub fn give_back(&self, owner: &str, amount: u64) {
        let mut accounts = self.lock();
        if let Some(account) = accounts.get_mut(owner) {
            account.used = account.used.saturating_sub(amount);
        }
    }

    /// Sets the used amounts of the given owners, and those of all others to zero.
    pub fn set_all(&self, used: &BTreeMap<Arc<str>, u64>) {
        let mut accounts = self.lock();
        accounts.values_mut().for_each(|account| account.used = 0);
        for (owner, used) in used {
            accounts.entry(owner.clone()).or_default().used = *used;
        }
    }

    /// Sets the used amounts of all owners to zero.
    pub fn clear(&self) {
        self.set_all(&BTreeMap::new());
    }

    /// Returns how much an owner has beyond its limit; most often zero.
    pub fn excess(&self, owner: &str) -> u64 {
        let accounts = self.lock();
        let used = accounts.get(owner).map_or(0, |account| account.used);
        used.saturating_sub(self.limit_now(&accounts, owner))
    }

    /// Returns the most that one owner can have if the others use no more than their shares.
    pub fn limit(&self) -> u64 {
        self.common
    }

    /// Returns the most that an owner can have now, given what the others have.
    pub fn limit_of(&self, owner: &str) -> u64 {
        self.limit_now(&self.lock(), owner)
    }

    pub fn account(&self, owner: &str) -> Account {
        self.lock().get(owner).copied().unwrap_or_default()
    }

    /// Returns the accounts of all owners that have or had something.
    pub fn accounts(&self) -> BTreeMap<Arc<str>, Account> {
        self.lock().clone()
    }

    pub fn used(&self) -> u64 {
        self.lock().values().fold(0, |used, account| used.saturating_add(account.used))
    }

    fn share(&self, accounts: &Accounts) -> u64 {
        let owners = accounts.values().filter(|account| account.used > 0).count() as u64;
        self.reserved / owners.max(OWNERS)
    }

    fn limit_now(&self, accounts: &Accounts, owner: &str) -> u64 {
        let share = self.share(accounts);
        let others = accounts.iter().filter(|(name, _)| &***name != owner);
        let taken = others.fold(0_u64, |taken, (_, account)| taken.saturating_add(account.used.saturating_sub(share)));
        share.saturating_add(self.common.saturating_sub(taken)).min(self.common)
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owner(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn one_owner_can_take_at_most_the_common_part() {
        let (pool, greedy) = (Pool::halved(160), owner("greedy"));
        pool.take(&greedy, 70).unwrap();
        assert_eq!(pool.take(&greedy, 11), Err(ShareUsedUp { used: 70, limit: 80 }));
        pool.take(&greedy, 10).unwrap();
        assert_eq!(pool.take(&greedy, 1), Err(ShareUsedUp { used: 80, limit: 80 }));
        assert_eq!((pool.account("greedy").used, pool.account("greedy").refused), (80, 2));
        pool.give_back("greedy", 20);
        assert_eq!(pool.take(&greedy, 20), Ok(()));
    }

    #[test]
    fn several_greedy_owners_leave_every_other_owner_its_share() {
        let pool = Pool::halved(160);
        for name in ["a", "b", "c"] {
            while pool.take(&owner(name), 1).is_ok() {}
        }
        assert_eq!(pool.used(), 80 + 3 * 10);
        for name in ["d", "e", "f", "g", "h"] {
            assert_eq!(pool.take(&owner(name), 10), Ok(()), "{name}");
        }
        assert_eq!(pool.used(), 160);
    }

    #[test]
    fn amounts_taken_anyway_count_and_are_reported_as_excess() {
        let (pool, restored) = (Pool::halved(160), owner("restored"));
        pool.take_anyway(&restored, 100);
        assert_eq!(pool.excess("restored"), 20);
        assert_eq!(pool.take(&restored, 1), Err(ShareUsedUp { used: 100, limit: 80 }));
        pool.give_back("restored", 21);
        assert_eq!((pool.excess("restored"), pool.take(&restored, 1)), (0, Ok(())));
    }

    proptest! {
        #[test]
        fn up_to_eight_owners_never_exceed_the_pool_and_each_can_take_its_share(
            takes in prop::collection::vec((0_usize..8, 1_u64..40), 0..200),
        ) {
            let (pool, names) = (Pool::halved(160), ["a", "b", "c", "d", "e", "f", "g", "h"]);
            for (nth, amount) in takes {
                let before = pool.account(names[nth]).used;
                let taken = pool.take(&owner(names[nth]), amount);
                prop_assert!(taken.is_ok() || before + amount > 10, "its own share is its own");
                prop_assert!(pool.used() <= 160);
            }
        }
    }
}
