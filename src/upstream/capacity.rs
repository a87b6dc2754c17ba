//! How many requests a service bears at once, and the short queue of those that wait for a place.
//! First in, first out: while anybody waits, nobody who comes later gets in. A place that is free again gives one waiter its turn; one that can't use
//! it, or leaves, passes it on. Whatever ends an exchange gives its place back. Not here: what one instance bears, which selection looks at (`pool.rs`).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config;

/// The places of one service; they live on through reloads.
#[derive(Debug, Default)]
pub struct Capacity {
    line: Mutex<Line>,
    refused: AtomicU64,
    waited: AtomicU64,
    waited_micros: AtomicU64,
}

/// What a service bears, as its configuration says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Requests at once; none is any number.
    pub concurrent_max: Option<u32>,
    /// Requests that may wait.
    pub length: usize,
    /// For how long.
    pub wait: Duration,
}

#[derive(Debug, Default)]
struct Line {
    inside: u32,
    waiting: VecDeque<Arc<Notify>>,
    /// Whether somebody's turn it is, who has not come to it yet.
    has_turn: bool,
    /// Places that became free meanwhile.
    freed: u32,
}

/// A place in a service; dropping it gives it back.
#[derive(Debug)]
pub struct Place(Arc<Capacity>);

/// What came of asking for a place.
#[derive(Debug, PartialEq, Eq)]
pub enum Entered<T> {
    /// It is in.
    In(T),
    /// There is no place, and none became free in time.
    Full,
    /// The client left.
    Gone,
}

/// Counts of a service's places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapacityView {
    /// Requests that have a place.
    pub inside: u32,
    /// Requests that wait for one.
    pub waiting: usize,
    /// Requests that got none.
    pub refused: u64,
    /// Requests that waited, however it ended.
    pub waited: u64,
    /// For how long, all together.
    pub wait_time: Duration,
}

impl Bounds {
    /// None where the service bears any number.
    pub fn of(service: &config::Service) -> Option<Self> {
        if service.concurrent_max.is_none() && service.instance_concurrent_max.is_none() {
            return None;
        }
        let (length, wait) = service.queue.as_ref().map_or((0, Duration::ZERO), |queue| (queue.length, queue.wait.0));
        Some(Self { concurrent_max: service.concurrent_max, length, wait })
    }
}

impl Capacity {
    /// Takes a place, unless there is one in `place` already, and does `begin` in it; waits in line while there is no place, or `begin` returns none.
    /// `begin` is called with the line locked, so nobody gets in between its look and its deed. `gone` ends when the client leaves.
    pub(super) async fn enter<T>(
        self: &Arc<Self>,
        bounds: Bounds,
        place: &mut Option<Place>,
        mut begin: impl FnMut() -> Option<T>,
        gone: impl Future<Output = ()>,
    ) -> Entered<T> {
        // Those in line may wait for the very place that it has: it only needs another instance, and waits for nobody but that.
        let is_inside = place.is_some();
        let waiter = {
            let mut line = self.line.lock();
            if (is_inside || (line.waiting.is_empty() && !line.has_turn))
                && let Some(begun) = self.get_in(&mut line, bounds, place, &mut begin)
            {
                return Entered::In(begun);
            }
            if line.waiting.len() >= bounds.length {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Entered::Full;
            }
            let waiter = Arc::new(Notify::new());
            if is_inside {
                line.waiting.push_front(Arc::clone(&waiter));
            } else {
                line.waiting.push_back(Arc::clone(&waiter));
            }
            waiter
        };
        let mut waiting = Waiting { capacity: self, waiter, since: Instant::now(), has_left: false };
        let mut gone = pin!(gone);
        let mut over = pin!(tokio::time::sleep(bounds.wait));
        loop {
            tokio::select! {
                biased;
                () = waiting.waiter.notified() => {
                    let mut line = self.line.lock();
                    if let Some(begun) = self.get_in(&mut line, bounds, place, &mut begin) {
                        waiting.has_left = true;
                        line.turn_is_over();
                        return Entered::In(begun);
                    }
                    // Not for this one: it stays the first.
                    line.waiting.push_front(Arc::clone(&waiting.waiter));
                    line.turn_is_over();
                }
                () = &mut over => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    return Entered::Full;
                }
                () = &mut gone => return Entered::Gone,
            }
        }
    }

    fn get_in<T>(
        self: &Arc<Self>,
        line: &mut Line,
        bounds: Bounds,
        place: &mut Option<Place>,
        begin: &mut impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if place.is_none() && bounds.concurrent_max.is_some_and(|max| line.inside >= max) {
            return None;
        }
        let begun = begin()?;
        if place.is_none() {
            line.inside += 1;
            *place = Some(Place(Arc::clone(self)));
        }
        Some(begun)
    }

    /// Where it stands.
    pub fn view(&self) -> CapacityView {
        let line = self.line.lock();
        CapacityView {
            inside: line.inside,
            waiting: line.waiting.len(),
            refused: self.refused.load(Ordering::Relaxed),
            waited: self.waited.load(Ordering::Relaxed),
            wait_time: Duration::from_micros(self.waited_micros.load(Ordering::Relaxed)),
        }
    }
}

impl Line {
    /// A place is free: the first in line gets its turn, or whoever has one hears of it afterwards.
    fn free(&mut self) {
        if self.has_turn {
            self.freed += 1;
        } else if let Some(first) = self.waiting.pop_front() {
            self.has_turn = true;
            first.notify_one();
        } else {
            self.freed = 0; // nobody waits for them
        }
    }

    /// Whoever had the turn has used it, or could not.
    fn turn_is_over(&mut self) {
        self.has_turn = false;
        if self.freed > 0 {
            self.freed -= 1;
            self.free();
        }
    }
}

impl Place {
    /// An instance of the service has room again.
    pub fn has_left_an_instance(&self) {
        self.0.line.lock().free();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut line = self.0.line.lock();
        line.inside -= 1;
        line.free();
    }
}

/// Somebody in line; dropping it leaves the line, and passes the turn on where it had come.
struct Waiting<'a> {
    capacity: &'a Arc<Capacity>,
    waiter: Arc<Notify>,
    since: Instant,
    has_left: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let micros = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.capacity.waited.fetch_add(1, Ordering::Relaxed);
        self.capacity.waited_micros.fetch_add(micros, Ordering::Relaxed);
        if self.has_left {
            return;
        }
        let mut line = self.capacity.line.lock();
        match line.waiting.iter().position(|other| Arc::ptr_eq(other, &self.waiter)) {
            Some(position) => {
                line.waiting.remove(position);
            }
            // Its turn had come: another's now.
            None => {
                line.freed += 1;
                line.turn_is_over();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn bounds(max: u32, length: usize, wait: u64) -> Bounds {
        Bounds { concurrent_max: Some(max), length, wait: Duration::from_millis(wait) }
    }

    async fn enter(capacity: &Arc<Capacity>, bounds: Bounds) -> (Entered<()>, Option<Place>) {
        let mut place = None;
        let entered = capacity.enter(bounds, &mut place, || Some(()), std::future::pending()).await;
        (entered, place)
    }

    #[tokio::test]
    async fn who_comes_first_gets_in_first() {
        let (capacity, bounds) = (Arc::new(Capacity::default()), bounds(1, 10, 60_000));
        let (_, first) = enter(&capacity, bounds).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..10 {
            let (capacity, order) = (Arc::clone(&capacity), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let (entered, place) = enter(&capacity, bounds).await;
                assert_eq!(entered, Entered::In(()));
                order.lock().push(number);
                tokio::task::yield_now().await;
                drop(place);
            }));
            tokio::task::yield_now().await;
        }
        assert_eq!(capacity.view().waiting, 10);
        assert_eq!(enter(&capacity, bounds).await.0, Entered::Full);
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), (0..10).collect::<Vec<_>>());
        let view = capacity.view();
        assert_eq!((view.inside, view.waiting, view.refused, view.waited), (0, 0, 1, 10));
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_leaves_the_line_and_passes_its_turn_on() {
        let (capacity, bounds) = (Arc::new(Capacity::default()), bounds(1, 10, 60_000));
        let (_, first) = enter(&capacity, bounds).await;
        let mut one = Box::pin(enter(&capacity, bounds));
        let mut two = Box::pin(enter(&capacity, bounds));
        let mut three = Box::pin(enter(&capacity, bounds));
        for waiter in [&mut one, &mut two, &mut three] {
            assert!(futures_util::future::FutureExt::now_or_never(waiter.as_mut()).is_none());
        }
        drop(two);
        drop(first); // the turn is `one`'s, who never looks
        drop(one);
        assert_eq!(three.await.0, Entered::In(()));
    }

    #[tokio::test]
    async fn who_has_a_place_does_not_wait_for_those_who_wait_for_it() {
        let (capacity, bounds) = (Arc::new(Capacity::default()), bounds(1, 10, 60_000));
        let (_, mut place) = enter(&capacity, bounds).await;
        let mut waiter = Box::pin(enter(&capacity, bounds));
        assert!(futures_util::future::FutureExt::now_or_never(waiter.as_mut()).is_none());
        let again = capacity.enter(bounds, &mut place, || Some(()), std::future::pending()).await;
        assert_eq!((again, capacity.view().inside), (Entered::In(()), 1));
        drop(place);
        assert_eq!(waiter.await.0, Entered::In(()));
    }

    #[tokio::test]
    async fn the_wait_is_bounded_and_ends_with_the_client() {
        let (capacity, bounds) = (Arc::new(Capacity::default()), bounds(1, 10, 30));
        let (_, _first) = enter(&capacity, bounds).await;
        let begun = Instant::now();
        assert_eq!(enter(&capacity, bounds).await.0, Entered::Full);
        assert!(begun.elapsed() >= Duration::from_millis(30));
        let gone = capacity.enter(bounds, &mut None, || Some(()), async {}).await;
        assert_eq!(gone, Entered::Gone);
        assert_eq!(capacity.view().waiting, 0);
    }

    /// Random arrivals, lengths of stay, departures of waiters, and instances beside the service's own bound: never more inside than may be,
    /// and nobody waits while there is room for all.
    #[test]
    fn never_more_than_there_are_places_and_no_wake_up_is_lost() {
        use rand::Rng as _;
        const SERVICE: u32 = 5;
        const EACH: usize = 2;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
        let capacity = Arc::new(Capacity::default());
        let instances: Arc<[AtomicUsize; 4]> = Arc::default();
        let (most, full) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        runtime.block_on(async {
            let mut tasks = Vec::new();
            for _ in 0..200 {
                let (capacity, instances) = (Arc::clone(&capacity), Arc::clone(&instances));
                let (most, full) = (Arc::clone(&most), Arc::clone(&full));
                tasks.push(tokio::spawn(async move {
                    for _ in 0..20 {
                        let (leaves, stays, first) = {
                            let mut random = rand::rng();
                            (random.random_ratio(1, 4), random.random_range(0..300), random.random_range(0..4))
                        };
                        let mut place = None;
                        let choose = || {
                            let room = |it: &usize| instances[*it].load(Ordering::SeqCst) < EACH;
                            let chosen = (first..first + 4).map(|it| it % 4).find(room)?;
                            instances[chosen].fetch_add(1, Ordering::SeqCst);
                            Some(chosen)
                        };
                        let entering = capacity.enter(bounds(SERVICE, 1_000, 60_000), &mut place, choose, async {
                            if leaves {
                                tokio::time::sleep(Duration::from_millis(1)).await;
                            } else {
                                std::future::pending::<()>().await;
                            }
                        });
                        match entering.await {
                            Entered::In(chosen) => {
                                let inside = capacity.view().inside as usize;
                                most.fetch_max(inside, Ordering::SeqCst);
                                assert!(instances[chosen].load(Ordering::SeqCst) <= EACH);
                                tokio::time::sleep(Duration::from_micros(stays)).await;
                                instances[chosen].fetch_sub(1, Ordering::SeqCst);
                            }
                            Entered::Full => {
                                full.fetch_add(1, Ordering::SeqCst);
                            }
                            Entered::Gone => assert!(leaves),
                        }
                    }
                }));
            }
            for task in tasks {
                // With a wait of a minute, a lost wake-up shows as a task that does not end.
                tokio::time::timeout(Duration::from_secs(50), task).await.expect("somebody waits for ever").unwrap();
            }
        });
        assert!(most.load(Ordering::SeqCst) <= SERVICE as usize);
        assert_eq!(full.load(Ordering::SeqCst), 0);
        let view = capacity.view();
        assert_eq!((view.inside, view.waiting), (0, 0));
        assert!(!capacity.line.lock().has_turn);
    }
}
