//! The tail: records as they come, for whoever follows. Shown by the writer, after lines and before the store, so that the data
//! path knows nothing of it. Bounded: so many followers, and so many lines for each; who reads too slowly misses lines, and is
//! told how many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::batches::Taken;
use super::lines::push_row;
use crate::config::ClientIp;
use crate::store::Row;

/// Who may follow at once.
pub const FOLLOWERS_MAX: usize = 16;

/// Lines that wait for one follower.
const LINES_MAX: usize = 1_024;

/// Which records a follower wants.
pub type Wanted = Box<dyn Fn(&Row<'_>) -> bool + Send>;

/// Everybody who follows; clones share them.
#[derive(Clone, Default)]
pub(super) struct Tail {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    followers: Mutex<Vec<Follower>>,
    /// Read without the lock: usually nobody follows.
    count: AtomicUsize,
}

struct Follower {
    wanted: Wanted,
    lines: Sender<Bytes>,
    missed: Arc<AtomicU64>,
}

/// One who follows; ends with it.
pub struct Following {
    lines: Receiver<Bytes>,
    missed: Arc<AtomicU64>,
}

impl Following {
    /// The next JSON line, without its end; none when the log has ended.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.lines.recv().await
    }

    /// How many lines were missed since this was asked last.
    pub fn missed(&self) -> u64 {
        self.missed.swap(0, Ordering::Relaxed)
    }
}

impl Tail {
    /// Follows from now on; none when there are [`FOLLOWERS_MAX`] already.
    pub(super) fn follow(&self, wanted: Wanted) -> Option<Following> {
        let mut followers = self.shared.followers.lock();
        followers.retain(|follower| !follower.lines.is_closed());
        if followers.len() >= FOLLOWERS_MAX {
            return None;
        }
        let (sender, lines) = channel(LINES_MAX);
        let missed = Arc::new(AtomicU64::new(0));
        followers.push(Follower { wanted, lines: sender, missed: Arc::clone(&missed) });
        self.shared.count.store(followers.len(), Ordering::Release);
        Some(Following { lines, missed })
    }

    /// Shows records to those who want them.
    pub(super) fn show(&self, taken: &Taken, client_ip: ClientIp) {
        if self.shared.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut followers = self.shared.followers.lock();
        followers.retain(|follower| !follower.lines.is_closed());
        self.shared.count.store(followers.len(), Ordering::Release);
        for (place, record) in (0..).zip(&taken.records) {
            let row = Row::of(record, client_ip);
            let mut line = None;
            for follower in followers.iter().filter(|follower| (follower.wanted)(&row)) {
                let line = line.get_or_insert_with(|| {
                    let mut line = Vec::with_capacity(768);
                    push_row(&mut line, &row, taken.run, taken.first.map(|first| first + place));
                    line.pop();
                    Bytes::from(line)
                });
                if follower.lines.try_send(line.clone()).is_err() {
                    follower.missed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Nothing comes any more.
    pub(super) fn end(&self) {
        self.shared.followers.lock().clear();
        self.shared.count.store(0, Ordering::Release);
    }
}
