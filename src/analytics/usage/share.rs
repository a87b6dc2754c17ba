//! Sharing: packed values are taken apart on two threads while a third reads the next, because a report over months takes most
//! of its time there. Few values wait in between, so the memory is bounded whatever the window.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{Builder, ScopedJoinHandle};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::gather::{GROUPS_MAX, Gather, Sum, Timeline, too_many};
use super::plan::Plan;
use super::report::Label;
use crate::store::read::{Reader, Unreadable};
use crate::store::usage::{Minute, Reading};

/// Threads that take packed values apart.
const WORKERS: usize = 2;

/// Packed values that wait; each is at most some hundred kilobytes.
const WAITING_MAX: usize = 8;

/// When a packed value begins, and its bytes.
type Work = (Minute, Vec<u8>);

/// What a window holds.
pub(super) struct Gathered {
    pub(super) groups: FxHashMap<Vec<Label>, Sum>,
    pub(super) timeline: Timeline,
}

/// Reads what a plan says of each hour and day what is to be read, and gathers it. `new` makes a gatherer with nothing in it.
pub(super) fn gather<'q>(
    reader: &mut Reader,
    plan: &Plan,
    reading: &Reading,
    new: &(dyn Fn() -> Gather<'q> + Sync),
) -> Result<Gathered, Unreadable> {
    let mut gather = new();
    for window in &plan.minutes {
        reader.minutes(window.clone(), &mut |row| {
            if plan.takes_minute(row.run, row.minute) { gather.minute(row) } else { Ok(()) }
        })?;
    }
    let mut gathered = Gathered { groups: FxHashMap::default(), timeline: gather.timeline.clone() };
    gathered.groups(&gather)?;
    if plan.days.is_empty() && plan.hours.is_empty() {
        return Ok(gathered);
    }
    for other in packed(reader, plan, reading, new)? {
        gathered.timeline.merge(&other.timeline);
        gathered.groups(&other)?;
    }
    Ok(gathered)
}

impl Gathered {
    fn groups(&mut self, gather: &Gather<'_>) -> Result<(), Unreadable> {
        for (values, sum) in gather.groups() {
            self.groups.entry(values.into_iter().map(Label::from).collect()).or_default().merge(sum);
        }
        if self.groups.len() > GROUPS_MAX { Err(too_many()) } else { Ok(()) }
    }
}

fn packed<'q>(
    reader: &mut Reader,
    plan: &Plan,
    reading: &Reading,
    new: &(dyn Fn() -> Gather<'q> + Sync),
) -> Result<Vec<Gather<'q>>, Unreadable> {
    std::thread::scope(|scope| {
        let (sender, receiver) = sync_channel::<Work>(WAITING_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        let mut workers: Vec<ScopedJoinHandle<'_, Result<Gather<'q>, Unreadable>>> = Vec::new();
        for _ in 0..WORKERS {
            let receiver = Arc::clone(&receiver);
            let working = Builder::new().name("usage".to_owned()).spawn_scoped(scope, move || work(&receiver, new()));
            workers.push(working.map_err(|error| Unreadable::Failed(format!("no thread to read with: {error}")))?);
        }
        // With the last worker the receiver goes, so that nobody waits for one that gave up.
        drop(receiver);
        let mut send = |begin: Minute, bytes: &[u8]| {
            let gone = |_| Unreadable::Failed("a thread that reads has ended".to_owned());
            sender.send((begin, bytes.to_vec())).map_err(gone)
        };
        let days = reader.days(plan.days.clone(), reading, &mut send);
        let read = days.and_then(|()| reader.hours(&plan.hours(), reading, &mut send));
        drop(sender);
        let ended = |_| Err(Unreadable::Failed("a thread that reads has ended".to_owned()));
        // What stopped a worker says more than that it is gone.
        let gathered: Result<Vec<_>, _> =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(ended)).collect();
        let gathered = gathered?;
        read.map(|()| gathered)
    })
}

fn work<'q>(receiver: &Mutex<Receiver<Work>>, mut gather: Gather<'q>) -> Result<Gather<'q>, Unreadable> {
    loop {
        let work = receiver.lock().recv();
        match work {
            Ok((begin, bytes)) => gather.packed(begin, &bytes)?,
            // Nothing more comes.
            Err(_) => return Ok(gather),
        }
    }
}
