//! Decides which component is compiled next. Slow components wait for each other, and no other component waits for
//! them.
//!
//! There are two lanes. The quick lane has a place for each processor, at least two; the slow lane has one. Every
//! compile begins in the quick lane. It keeps its place for [`PATIENCE`], and longer as long as nobody waits. After
//! that it makes room for a waiting compile. If the slow lane is free, the compile continues there, behind everything
//! else on the machine. If not, it is stopped. It begins again when the slow lane becomes free, or while the quick lane
//! has nothing else to do. So the number of processes, and with it their memory, is limited, and a quick component
//! waits some seconds, no matter how many slow ones there are.
//!
//! Owners take turns; an owner is a plugin's name. An owner compiles one component at a time. With each of its turns,
//! its other requests go to the end of the queue.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// How long a compile keeps its place while others wait: the time that a component of ordinary size takes.
const PATIENCE: Duration = Duration::from_secs(3);

/// The queue of compiles of all plugins. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Queue(Arc<QueueInner>);

#[derive(Debug)]
struct QueueInner {
    /// Number of places in the quick lane.
    quick: usize,
    patience: Duration,
    state: Mutex<State>,
    /// Notified when a compile starts to wait or has ended.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    waiting: VecDeque<Waiting>,
    running: Vec<RunningCompile>,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    owner: Arc<str>,
    /// Whether the compile was displaced before.
    is_slow: bool,
    called: oneshot::Sender<()>,
}

#[derive(Debug)]
struct RunningCompile {
    id: u64,
    owner: Arc<str>,
    lane: Lane,
    is_slow: bool,
    since: Instant,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lane {
    Quick,
    Slow,
}

/// Why a compile ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    /// The compile made room for others, and has to begin again.
    Displaced,
    /// The compile reached its time limit.
    TooLong,
    /// Nobody wants the result any more.
    GivenUp,
}

/// A place in the queue, then in a lane. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Turn {
    queue: Queue,
    id: u64,
}

/// Ends the compile of a turn when it is dropped.
#[derive(Debug)]
pub(crate) struct GiveUp {
    queue: Queue,
    id: u64,
}

// === impl Queue ===

impl Default for Queue {
    fn default() -> Self {
        Self::new(thread::available_parallelism().map_or(1, usize::from).max(2), PATIENCE)
    }
}

impl Queue {
    fn new(quick: usize, patience: Duration) -> Self {
        Self(Arc::new(QueueInner { quick, patience, state: Mutex::default(), changed: Condvar::new() }))
    }

    /// Waits for a place. `is_slow` says that the compile was displaced before. Dropping the future ends the wait.
    pub(crate) async fn turn(&self, owner: &Arc<str>, is_slow: bool) -> Turn {
        let (turn, call) = self.enter(owner.clone(), is_slow);
        // The sender is dropped only after it has sent.
        let _ = call.await;
        turn
    }

    /// Joins the queue. The turn may begin when the receiver gets the call; that is at once if a place is free.
    pub(crate) fn enter(&self, owner: Arc<str>, is_slow: bool) -> (Turn, oneshot::Receiver<()>) {
        let (called, call) = oneshot::channel();
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.waiting.push_back(Waiting { id, owner, is_slow, called });
        self.call(&mut state);
        (Turn { queue: self.clone(), id }, call)
    }

    /// Gives free places to waiting compiles.
    fn call(&self, state: &mut State) {
        while let Some((nth, lane)) = state.next(self.0.quick) {
            let Some(Waiting { id, owner, is_slow, called }) = state.waiting.remove(nth) else { return };
            // The owner's other requests move behind those of all other owners.
            let (rest, others): (VecDeque<_>, VecDeque<_>) =
                state.waiting.drain(..).partition(|waiting| waiting.owner == owner);
            state.waiting = others;
            state.waiting.extend(rest);
            state.running.push(RunningCompile { id, owner, lane, is_slow, since: Instant::now(), end: None });
            // The waiting future may have been dropped; then its turn is dropped too.
            let _ = called.send(());
        }
        self.0.changed.notify_all();
    }

    fn end(&self, id: u64, end: End) {
        let mut state = self.lock();
        if let Some(running) = state.running.iter_mut().find(|running| running.id == id) {
            running.end.get_or_insert(end);
        }
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// Returns the position of the next waiting compile and the lane for it, if a place is free.
    fn next(&self, quick: usize) -> Option<(usize, Lane)> {
        let first = |is_slow: bool| {
            let may = |waiting: &Waiting| waiting.is_slow == is_slow && !self.is_busy(&waiting.owner);
            self.waiting.iter().position(may)
        };
        let has_slow_place = self.in_lane(Lane::Slow) == 0;
        let has_quick_place = self.in_lane(Lane::Quick) < quick;
        let quick_one = || first(false).filter(|_| has_quick_place).map(|nth| (nth, Lane::Quick));
        let slow_one = || {
            let lane = if has_slow_place { Lane::Slow } else { Lane::Quick };
            first(true).filter(|_| has_slow_place || has_quick_place).map(|nth| (nth, lane))
        };
        quick_one().or_else(slow_one)
    }

    fn in_lane(&self, lane: Lane) -> usize {
        self.running.iter().filter(|running| running.lane == lane).count()
    }

    /// Returns whether an owner is compiling something.
    fn is_busy(&self, owner: &str) -> bool {
        self.running.iter().any(|running| &*running.owner == owner)
    }

    /// Returns whether a compile waits for a place in the full quick lane.
    fn wants_room(&self, quick: usize) -> bool {
        let waits = |waiting: &Waiting| !waiting.is_slow && !self.is_busy(&waiting.owner);
        self.in_lane(Lane::Quick) >= quick && self.waiting.iter().any(waits)
    }
}

// === impl Turn ===

impl Turn {
    /// Returns a guard that ends the compile when it is dropped.
    pub(crate) fn give_up(&self) -> GiveUp {
        GiveUp { queue: self.queue.clone(), id: self.id }
    }

    /// Marks the compile as done.
    pub(crate) fn done(&self) {
        self.queue.end(self.id, End::Done);
    }

    /// Waits until the compile is done or has to end. Calls `slow` when the compile moves to the slow lane; `slow` must
    /// not block.
    pub(crate) fn watch(&self, limit: Duration, slow: impl Fn()) -> End {
        let Queue(shared) = &self.queue;
        let mut state = self.queue.lock();
        loop {
            let wants_room = state.wants_room(shared.quick);
            let has_slow_place = state.in_lane(Lane::Slow) == 0;
            let Some(running) = state.running.iter_mut().find(|running| running.id == self.id) else {
                return End::GivenUp;
            };
            let ran = running.since.elapsed();
            let patience = if running.is_slow { Duration::ZERO } else { shared.patience };
            let makes_room = wants_room && running.lane == Lane::Quick && ran >= patience;
            if let Some(end) = running.end {
                return end;
            } else if ran >= limit {
                return End::TooLong;
            } else if makes_room && has_slow_place {
                (running.lane, running.is_slow) = (Lane::Slow, true);
                self.queue.call(&mut state);
                slow();
                continue;
            } else if makes_room {
                // The compile keeps its place until its turn is dropped.
                running.end = Some(End::Displaced);
                return End::Displaced;
            }
            let next = if ran < patience { patience.min(limit) } else { limit };
            let waited = shared.changed.wait_timeout(state, next.saturating_sub(ran));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.waiting.retain(|waiting| waiting.id != self.id);
        state.running.retain(|running| running.id != self.id);
        self.queue.call(&mut state);
    }
}

// === impl GiveUp ===

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.queue.end(self.id, End::GivenUp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    const LONG: Duration = Duration::from_secs(3600);

    fn owner(name: &str) -> Arc<str> {
        name.into()
    }

    /// Returns a turn that needs no waiting.
    fn taken(queue: &Queue, name: &str) -> Turn {
        polled(pin!(queue.turn(&owner(name), false)).as_mut()).expect("a place is free")
    }

    fn polled<T>(future: Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn an_owner_compiles_one_at_a_time_and_its_other_versions_wait_behind_everybody() {
        let queue = Queue::new(1, LONG);
        let (a, b) = (owner("a"), owner("b"));
        let first = taken(&queue, "a");
        let mut second = pin!(queue.turn(&a, false));
        let mut third = pin!(queue.turn(&a, false));
        let mut others = pin!(queue.turn(&b, false));
        assert!(polled(second.as_mut()).is_none() && polled(third.as_mut()).is_none());
        assert!(polled(others.as_mut()).is_none());
        drop(first);
        let second = polled(second.as_mut()).expect("it came first");
        drop(second);
        assert!(polled(third.as_mut()).is_none(), "its owner had two turns");
        let others = polled(others.as_mut()).expect("it is its turn");
        drop(others);
        assert!(polled(third.as_mut()).is_some());
    }

    #[test]
    fn an_owner_that_compiles_leaves_other_places_to_others() {
        let queue = Queue::new(2, LONG);
        let _first = taken(&queue, "a");
        let a = owner("a");
        let mut second = pin!(queue.turn(&a, false));
        assert!(polled(second.as_mut()).is_none());
        let _other = taken(&queue, "b");
    }

    #[test]
    fn a_wait_that_is_given_up_leaves_no_place_taken() {
        let queue = Queue::new(1, LONG);
        let first = taken(&queue, "a");
        {
            let b = owner("b");
            let mut given_up = pin!(queue.turn(&b, false));
            assert!(polled(given_up.as_mut()).is_none());
            // The waiting compile gets the turn, but is not polled again.
            drop(first);
        }
        let _next = taken(&queue, "c");
    }

    #[tokio::test]
    async fn a_slow_compile_makes_room_in_the_slow_lane_and_the_next_one_begins_again_later() {
        let queue = Queue::new(2, Duration::ZERO);
        let [first, second] = ["a", "b"].map(|name| taken(&queue, name));
        let first = Arc::new(first);
        let (moved, was_moved) = std::sync::mpsc::channel();
        let watched = thread::spawn({
            let first = first.clone();
            move || first.watch(LONG, || moved.send(()).unwrap())
        });
        let _third = queue.turn(&owner("c"), false).await;
        was_moved.recv().unwrap();
        let d = owner("d");
        let mut fourth = pin!(queue.turn(&d, false));
        assert!(polled(fourth.as_mut()).is_none());
        assert_eq!(second.watch(LONG, || panic!("the slow lane is taken")), End::Displaced);
        drop(second);
        let _fourth = polled(fourth.as_mut()).expect("the second was stopped");
        let b = owner("b");
        let mut again = pin!(queue.turn(&b, true));
        assert!(polled(again.as_mut()).is_none(), "the slow lane is taken");
        first.done();
        assert_eq!(watched.join().unwrap(), End::Done);
        drop(first);
        let again = polled(again.as_mut()).expect("the slow lane is free");
        assert_eq!(again.queue.lock().in_lane(Lane::Slow), 1);
    }

    #[test]
    fn a_compile_ends_when_its_time_is_over() {
        let queue = Queue::new(1, LONG);
        assert_eq!(taken(&queue, "a").watch(Duration::ZERO, || ()), End::TooLong);
    }

    #[test]
    fn a_slow_compile_uses_the_quick_lane_only_while_nobody_else_wants_it() {
        let queue = Queue::new(2, LONG);
        let slow = |name| polled(pin!(queue.turn(&owner(name), true)).as_mut()).expect("a place is free");
        let [_first, second] = ["a", "b"].map(slow);
        let _third = taken(&queue, "c");
        let d = owner("d");
        let mut fourth = pin!(queue.turn(&d, false));
        assert!(polled(fourth.as_mut()).is_none());
        assert_eq!(second.watch(LONG, || ()), End::Displaced);
        drop(second);
        assert!(polled(fourth.as_mut()).is_some());
    }

    #[test]
    fn a_compile_ends_when_nobody_wants_it_any_more() {
        let queue = Queue::new(1, LONG);
        let turn = taken(&queue, "a");
        drop(turn.give_up());
        assert_eq!(turn.watch(LONG, || ()), End::GivenUp);
    }
}
