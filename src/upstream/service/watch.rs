//! The watch over sources, a task each: when each is asked or looked at, for as long as the service has its place.
//! What takes long, or waits for a disk, waits beside the threads that serve. Not here: what an answer changes.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Service;
use crate::upstream::discovery::{FILE_EVERY, Query, Watched};

/// How often it is looked for registrations that have ended.
const EXPIRY_EVERY: Duration = Duration::from_millis(250);

/// Names that are asked for at the same time are spread over this.
const SPREAD: Duration = Duration::from_millis(200);

pub(super) async fn ask_again_and_again(service: Weak<Service>, index: usize, query: Query) {
    loop {
        let Some(strong) = service.upgrade() else { return };
        let again = strong.before_of(index).again;
        let ask_now = Arc::clone(&strong.ask_now);
        drop(strong);
        tokio::select! {
            () = tokio::time::sleep_until(again.into()) => {}
            () = ask_now.notified() => {}
        }
        let Some(strong) = service.upgrade() else { return };
        let discovery = Arc::clone(&strong.discovery);
        drop(strong);
        let answer = discovery.ask(&query).await;
        let Some(service) = service.upgrade() else { return };
        let said = answer.map(|answer| {
            let listed = service.sources[index].listed(&answer, &service.before_of(index).listed);
            let spread = SPREAD * (getrandom::u32().unwrap_or_default() % 100) / 100;
            (listed, answer.ttl.max(discovery.ttl_min()) + spread)
        });
        // To compile a large pool takes a while, and whoever is drained no more is written down.
        if tokio::task::spawn_blocking(move || service.hear(index, said)).await.is_err() {
            return;
        }
    }
}

pub(super) async fn look_again_and_again(service: Weak<Service>, index: usize, mut watched: Watched) {
    loop {
        // Reading a file may wait for a disk.
        let hearer = Weak::clone(&service);
        let looked = tokio::task::spawn_blocking(move || {
            if let (Some(said), Some(service)) = (watched.look(), hearer.upgrade()) {
                service.hear(index, said.map(|listed| (listed, FILE_EVERY)));
            }
            watched
        });
        let Ok(back) = looked.await else { return };
        watched = back;
        if service.strong_count() == 0 {
            return;
        }
        tokio::time::sleep(FILE_EVERY).await;
    }
}

pub(super) async fn expire_again_and_again(service: Weak<Service>) {
    while let Some(strong) = service.upgrade() {
        // An end is written down, and that waits for a disk.
        if tokio::task::spawn_blocking(move || strong.expire()).await.is_err() {
            return;
        }
        tokio::time::sleep(EXPIRY_EVERY).await;
    }
}
