//! The writer: the only reader of the queue, on its own thread and runtime, independent of the server's.
//! Two stages: the intake takes chunks when they are full or old enough, numbers them, writes lines and shows them to those who
//! follow; the store stage (`storing.rs`) stores them. Lines go on while the store is away, and so does the way to the spool.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::batches::Intake;
use super::lines::Lines;
use super::queue::Queue;
use super::report::DropReport;
use super::shelf::Shelf;
use super::storing::StoreStage;
use super::tail::Tail;
use crate::config::Retention;
use crate::store::{Run, Store};

/// What the writer writes to.
pub(super) struct Targets {
    /// The store, and this run, whose records it is given.
    pub(super) store: Option<(Run, Store)>,
    pub(super) shelf: Shelf,
    pub(super) lines: Option<Lines>,
    pub(super) tail: Tail,
    pub(super) retention: Retention,
}

/// Runs until the queue is closed and empty, or its deadline has passed.
pub(super) fn run(queue: &Queue, targets: Targets) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return stop(queue, &format!("no runtime for the writer: {error}")),
    };
    let Targets { store, shelf, lines, tail, retention } = targets;
    let both = async {
        match store {
            Some(store) => {
                tokio::join!(take(queue, lines, &tail, &shelf), StoreStage::new(queue, store, &shelf, retention).run());
            }
            None => take(queue, lines, &tail, &shelf).await,
        }
    };
    if catch_unwind(AssertUnwindSafe(|| runtime.block_on(both))).is_err() {
        stop(queue, "the writer failed");
    }
}

/// Without a writer everything is lost, and has to be counted.
fn stop(queue: &Queue, why: &str) {
    log::error!("request log: {why}; nothing is logged any more");
    queue.store_failed(why);
    queue.abandon();
}

/// The intake stage.
async fn take(queue: &Queue, mut lines: Option<Lines>, tail: &Tail, shelf: &Shelf) {
    let mut drops = DropReport::default();
    loop {
        match queue.intake() {
            Intake::Done => {
                tail.end();
                return;
            }
            Intake::Wait => queue.intake_ready().await,
            Intake::WaitUntil(due) => {
                tokio::select! {
                    () = queue.intake_ready() => {}
                    () = tokio::time::sleep_until(due.into()) => {}
                }
            }
            Intake::Reopen => {
                if let Some(lines) = &mut lines {
                    lines.reopen();
                }
            }
            Intake::Take(taken) => {
                let (written, failed) = lines.as_mut().map_or((0, 0), |lines| lines.write(&taken));
                queue.lined(written, failed);
                tail.show(&taken, shelf.client_ip);
                match taken.first {
                    Some(_) if !queue.bounds.has_store => queue.done_with_lines(taken.records, written),
                    Some(first) => {
                        queue.hand_over(first, taken);
                        shelf.relieve(queue);
                    }
                    None => queue.recycle(taken.records),
                }
                drops.say(queue);
                // The store stage shares this thread.
                tokio::task::yield_now().await;
            }
        }
    }
}
