//! Items that are made on several threads and taken in their order.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The most threads that make items.
const MOST_THREADS: usize = 4;

/// How many items may be made before they are taken, for each thread.
const AHEAD: usize = 2;

/// Bytes of the stack of a thread that makes items.
const STACK: usize = 512 << 10;

/// Makes `count` items with `make`, and passes them to `take` in their order. `make` is called on several threads, that
/// of the caller among them; `take` on that of the caller. An error of `take` ends it.
pub(super) fn make_in_order<T: Send, E>(
    count: usize,
    make: &(dyn Fn(usize) -> T + Sync),
    take: &mut dyn FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST_THREADS).min(count);
    let items = Items {
        state: Mutex::new(State { next: 0, taken: 0, is_over: false, made: HashMap::new() }),
        changed: Condvar::new(),
        count,
        ahead: threads * AHEAD,
    };
    thread::scope(|scope| {
        // Whatever ends this, the other threads end too.
        let _end = End(&items);
        for _ in 1..threads {
            let help = || {
                let _end = EndIfPanicking(&items);
                while let Some(nth) = items.claim_or_wait() {
                    items.keep(nth, make(nth));
                }
            };
            // Without it, the others do its work.
            let _ = thread::Builder::new().name("unpack".to_owned()).stack_size(STACK).spawn_scoped(scope, help);
        }
        (0..count).try_for_each(|nth| take(nth, items.get(nth, make)))
    })
}

struct Items<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    count: usize,
    ahead: usize,
}

struct State<T> {
    /// The next item that nobody makes yet.
    next: usize,
    /// The item that is taken next.
    taken: usize,
    is_over: bool,
    made: HashMap<usize, T>,
}

impl<T> Items<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims the next item, unless too many wait to be taken.
    fn claim(&self, state: &mut State<T>) -> Option<usize> {
        let nth = state.next;
        let is_free = nth < self.count && nth < state.taken.saturating_add(self.ahead);
        is_free.then(|| {
            state.next += 1;
            nth
        })
    }

    /// Claims the next item; waits while too many wait to be taken. Returns nothing when there are no more.
    fn claim_or_wait(&self) -> Option<usize> {
        let mut state = self.lock();
        loop {
            if state.is_over || state.next >= self.count {
                return None;
            }
            if let Some(nth) = self.claim(&mut state) {
                return Some(nth);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn keep(&self, nth: usize, item: T) {
        self.lock().made.insert(nth, item);
        self.changed.notify_all();
    }

    /// Returns an item. While another thread makes it, this one makes others.
    fn get(&self, nth: usize, make: &(dyn Fn(usize) -> T + Sync)) -> T {
        let mut state = self.lock();
        state.taken = nth;
        self.changed.notify_all();
        loop {
            if let Some(item) = state.made.remove(&nth) {
                return item;
            }
            if state.is_over {
                drop(state);
                return make(nth);
            }
            match self.claim(&mut state) {
                Some(claimed) => {
                    drop(state);
                    let item = make(claimed);
                    if claimed == nth {
                        return item;
                    }
                    state = self.lock();
                    state.made.insert(claimed, item);
                }
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }
}

struct End<'a, T>(&'a Items<T>);

impl<T> Drop for End<'_, T> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Nobody waits for the item of a thread that panicked.
struct EndIfPanicking<'a, T>(&'a Items<T>);

impl<T> Drop for EndIfPanicking<'_, T> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn items_are_taken_in_their_order_and_each_is_made_once() {
        let made = AtomicUsize::new(0);
        let mut taken = Vec::new();
        let make = |nth: usize| {
            made.fetch_add(1, Ordering::Relaxed);
            nth * 2
        };
        let result: Result<(), ()> = make_in_order(1000, &make, &mut |nth, item| {
            taken.push((nth, item));
            Ok(())
        });
        assert_eq!((result, made.into_inner()), (Ok(()), 1000));
        assert!(taken.iter().enumerate().all(|(nth, item)| *item == (nth, nth * 2)));
        let none: Result<(), ()> = make_in_order(0, &|nth| nth, &mut |_, _| Err(()));
        assert_eq!(none, Ok(()));
    }

    #[test]
    fn an_error_ends_it_and_few_items_are_made_in_vain() {
        let made = AtomicUsize::new(0);
        let make = |nth: usize| {
            made.fetch_add(1, Ordering::Relaxed);
            nth
        };
        let result = make_in_order(1000, &make, &mut |nth, _| if nth == 10 { Err(nth) } else { Ok(()) });
        assert_eq!(result, Err(10));
        assert!(made.into_inner() <= 11 + MOST_THREADS * AHEAD);
    }
}
