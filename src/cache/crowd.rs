//! Many requests at once for one thing: one asks an instance, the others wait for it, up to a bound; and a stale answer is
//! refreshed by one request in the background. Not here: the answer that comes while they wait (`filling.rs`).
//! Which keys are not worth waiting for is remembered in a fixed number of places: one that is overwritten costs a wait.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use pingora_cache::CacheKey;
use pingora_cache::key::{CacheHashKey, HashBinary};
use pingora_cache::lock::{CacheKeyLockImpl, CacheLock};

/// How long one request may keep the others waiting for the header of its answer; then another one may try.
const WRITER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a request waits for others in all; then it goes to an instance by itself.
pub const WAIT_MAX: Duration = Duration::from_secs(10);

/// Remembered keys; a power of two.
const PLACES: usize = 8192;

/// Refreshes in the background at once; a stale answer that finds no place is refreshed by a later request.
const REFRESHES_MAX: usize = 1024;

static LOCK: LazyLock<CacheLock> = LazyLock::new(|| CacheLock::new(WRITER_TIMEOUT));
static REFRESHING: LazyLock<Mutex<HashSet<HashBinary>>> = LazyLock::new(Mutex::default);

/// The lock that requests for one key share; Pingora wants it to live for ever.
pub fn lock() -> &'static CacheKeyLockImpl {
    &*LOCK
}

/// Keys that something was true of the last time.
pub struct Memory {
    places: Box<[AtomicU64]>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { places: std::iter::repeat_with(AtomicU64::default).take(PLACES).collect() }
    }
}

impl Memory {
    /// From now on it is true of this key.
    pub fn remember(&self, key: &CacheKey) {
        let (place, mark) = self.place(key);
        place.store(mark, Ordering::Relaxed);
    }

    /// It is not true of this key any more.
    pub fn forget(&self, key: &CacheKey) {
        let (place, mark) = self.place(key);
        let _ = place.compare_exchange(mark, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether it was true of this key.
    pub fn knows(&self, key: &CacheKey) -> bool {
        let (place, mark) = self.place(key);
        place.load(Ordering::Relaxed) == mark
    }

    fn place(&self, key: &CacheKey) -> (&AtomicU64, u64) {
        let hash = u128::from_be_bytes(key.primary_bin());
        (&self.places[(hash >> 64) as usize % PLACES], (hash as u64).max(1))
    }
}

/// The right to refresh one stale answer; nobody else has it as long as this lives.
#[derive(Debug)]
pub struct Refresh(HashBinary);

impl Refresh {
    /// None where somebody else refreshes it, or too many are refreshed at once.
    pub fn begin(key: &CacheKey) -> Option<Self> {
        let key = key.combined_bin();
        let mut refreshing = REFRESHING.lock();
        // Made only where it is right: dropping one takes the key out.
        (refreshing.len() < REFRESHES_MAX && refreshing.insert(key)).then(|| Self(key))
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        REFRESHING.lock().remove(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refresh_at_a_time() {
        let (key, other) = (CacheKey::new("crowd a", ""), CacheKey::new("crowd b", ""));
        let first = Refresh::begin(&key).unwrap();
        assert!(Refresh::begin(&key).is_none() && Refresh::begin(&other).is_some());
        drop(first);
        assert!(Refresh::begin(&key).is_some());
    }

    #[test]
    fn what_is_remembered_is_of_one_key() {
        let memory = Memory::default();
        let (key, other) = (CacheKey::new("a", ""), CacheKey::new("b", ""));
        memory.remember(&key);
        assert!(memory.knows(&key) && !memory.knows(&other));
        memory.forget(&other);
        assert!(memory.knows(&key));
        memory.forget(&key);
        assert!(!memory.knows(&key));
    }
}
