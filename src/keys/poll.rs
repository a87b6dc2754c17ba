//! Polls the key store: its stamp every second, and its keys when the stamp is another one. So every change, revocation included,
//! is in force within five seconds. While the store is away the keys that were read last stay in force, and it is said aloud: once
//! in the messages, all the time in metrics and `/health`. Blocks on a thread of its own; no request waits for it.
//! A gateway that starts while the store is away serves with the keys of the file. Whoever shows another key is told that the
//! gateway can't tell (503), not that the key is wrong.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::live::Stored;
use crate::config::StoreUrl;
use crate::store::Failure;
use crate::store::keys::KeyStore;
use crate::words::counted;

/// Between two looks at the stamp.
const EVERY: Duration = Duration::from_secs(1);

/// How long the start waits for the first answer.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);

/// A key store that is polled as long as this lives.
pub struct KeyPoll {
    status: Arc<Mutex<Status>>,
    wake: SyncSender<()>,
}

/// Where the store stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// Whether the last question was answered.
    pub up: bool,
    /// When the keys were known to be the store's at last; none before the first time.
    pub read: Option<Instant>,
    /// Why the last question was not answered.
    pub problem: Option<String>,
    /// Keys in the store, revoked ones included.
    pub keys: usize,
}

impl KeyPoll {
    /// Polls this store into `stored`, and calls `renew` after every change. Waits a moment for the first answer; when none
    /// comes the gateway starts all the same.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(
        url: StoreUrl,
        stored: Arc<Stored>,
        renew: impl Fn() -> Vec<String> + Send + 'static,
    ) -> std::io::Result<Self> {
        let status = Arc::new(Mutex::new(Status { up: false, read: None, problem: None, keys: 0 }));
        let (wake, woken) = sync_channel(1);
        let (answered, answer) = sync_channel(1);
        let mut polling = Polling { url, store: None, stored, status: Arc::clone(&status), renew: Box::new(renew) };
        std::thread::Builder::new().name("key-store".to_owned()).spawn(move || {
            polling.poll();
            let _ = answered.send(()); // nobody waits any more when it took too long
            polling.go_on(&woken);
        })?;
        if answer.recv_timeout(FIRST_TIMEOUT).is_err() {
            log::error!("key store: no answer yet; only keys of the file are known until it answers");
        }
        Ok(Self { status, wake })
    }

    /// Looks at the store now: something was changed through this gateway.
    pub fn wake(&self) {
        // It is full when it is going to look anyway.
        let _ = self.wake.try_send(());
    }

    /// Where the store stands.
    pub fn status(&self) -> Status {
        self.status.lock().clone()
    }
}

struct Polling {
    url: StoreUrl,
    store: Option<KeyStore>,
    stored: Arc<Stored>,
    status: Arc<Mutex<Status>>,
    renew: Box<dyn Fn() -> Vec<String> + Send>,
}

impl Polling {
    fn go_on(mut self, woken: &Receiver<()>) {
        // The end of the other side is the end of the gateway.
        while woken.recv_timeout(EVERY) != Err(RecvTimeoutError::Disconnected) {
            self.poll();
        }
    }

    fn poll(&mut self) {
        match self.look() {
            Ok(()) => {
                let mut status = self.status.lock();
                if status.problem.take().is_some() {
                    log::info!("key store: it answers again");
                }
                (status.up, status.read) = (true, Some(Instant::now()));
                status.keys = self.stored.load().as_ref().map_or(0, |stored| stored.keys.len());
            }
            Err(failure) => {
                self.store = None;
                let mut status = self.status.lock();
                if status.problem.is_none() {
                    let consequence = match status.read {
                        Some(_) => "the keys that were read last stay in force, and changes wait",
                        None => "only keys of the file are known, all others are answered with 503",
                    };
                    log::error!("key store: {}: {consequence}", failure.message());
                }
                status.problem = Some(failure.message().to_owned());
                status.up = false;
            }
        }
    }

    fn look(&mut self) -> Result<(), Failure> {
        if self.store.is_none() {
            self.store = KeyStore::open(&self.url)?;
        }
        let Some(store) = &mut self.store else { return Ok(()) };
        let stamp = store.stamp()?;
        if self.stored.load().as_ref().is_some_and(|stored| stored.stamp == stamp) {
            return Ok(());
        }
        let stored = store.read()?;
        log::info!("key store: {}", counted(stored.keys.len() as u64, "key"));
        self.stored.store(Some(Arc::new(stored)));
        for overruled in (self.renew)() {
            log::warn!("keys: {overruled}");
        }
        Ok(())
    }
}
