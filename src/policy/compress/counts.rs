//! How many answers are being compressed, which is bounded, since each holds an encoder's memory for as long as it takes; and what
//! was compressed since the start. One for the process: memory is the process's.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Answers that are compressed at once, at up to 1.6 MB each.
const AT_ONCE_MAX: usize = 512;

static COUNTS: Counts = Counts::new();

/// What was compressed since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Compressed {
    /// Answers that are being compressed.
    pub now: u64,
    /// Answers that were, whole.
    pub answers: u64,
    /// Bytes of their bodies, before and after.
    pub bytes: (u64, u64),
    /// Answers that were sent as they are because too many were being compressed.
    pub left: u64,
}

/// What was compressed since the start.
pub fn compressed() -> Compressed {
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    Compressed {
        now: COUNTS.now.load(Ordering::Relaxed) as u64,
        answers: read(&COUNTS.answers),
        bytes: (read(&COUNTS.bytes_in), read(&COUNTS.bytes_out)),
        left: read(&COUNTS.left),
    }
}

struct Counts {
    now: AtomicUsize,
    answers: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    left: AtomicU64,
}

/// A place among the answers that are compressed at once; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place(&'static AtomicUsize);

impl Counts {
    const fn new() -> Self {
        Self {
            now: AtomicUsize::new(0),
            answers: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            left: AtomicU64::new(0),
        }
    }

    fn take(&'static self, max: usize) -> Option<Place> {
        let taken = self.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| (now < max).then_some(now + 1));
        if taken.is_err() {
            self.left.fetch_add(1, Ordering::Relaxed);
        }
        // Not made where there is none: it would give back what it did not take.
        taken.is_ok().then(|| Place(&self.now))
    }
}

impl Place {
    /// One more; none, and counted, where there is no room.
    pub(super) fn take() -> Option<Self> {
        COUNTS.take(AT_ONCE_MAX)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One answer is whole.
pub(super) fn ended(bytes_in: u64, bytes_out: u64) {
    COUNTS.answers.fetch_add(1, Ordering::Relaxed);
    COUNTS.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
    COUNTS.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let counts: &'static Counts = Box::leak(Box::new(Counts::new()));
        let first = counts.take(2);
        let _second = counts.take(2).unwrap();
        assert!(counts.take(2).is_none());
        drop(first);
        assert!(counts.take(2).is_some());
        assert_eq!((counts.left.load(Ordering::Relaxed), counts.now.load(Ordering::Relaxed)), (1, 1));
    }
}
