//! An answer that is being received: its writer adds pieces, and any number of readers follow as they come, its own client
//! among them, so that a slow client keeps no others waiting. One that breaks off is an error for who reads it: no reader
//! takes it for whole.
//! What turns out not to be storable (it grew too large, or there is no room) goes on for those who read it already: the
//! pieces that all have read are given up, and who falls too far behind is cut off.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use pingora_cache::key::HashBinary;
use pingora_core::{Error, ErrorType, Result};
use tokio::sync::Notify;

use super::entry::{Body, Entry};
use super::memory::{Cache, Place};

/// Tables of answers that are being received; requests for different things seldom meet in one.
const TABLES: usize = 32;

/// Of an answer that is not kept: how many bytes its own client may be behind, and how many others.
const BEHIND_MAX: usize = 16 << 20;
const OTHERS_BEHIND_MAX: usize = 1 << 20;

/// The reader of the writer's own client.
pub(super) const OWN: usize = 0;

/// All answers that are being received.
#[derive(Default)]
pub(super) struct Fills {
    tables: [Mutex<HashMap<HashBinary, Vec<Arc<Filling>>>>; TABLES],
}

/// Room for an answer that is being received, as long as this lives.
pub struct Reservation {
    cache: &'static Cache,
    bytes: AtomicU64,
}

/// One answer that is being received.
pub(super) struct Filling {
    /// Tells it from others of the same key.
    tag: [u8; 8],
    pub(super) place: Place,
    /// The answer without its body.
    pub(super) entry: Entry,
    state: Mutex<State>,
    changed: Notify,
    /// Given back when the last reader is gone, too.
    reservation: Arc<Reservation>,
}

struct State {
    /// Where each begins, and its bytes.
    pieces: VecDeque<(usize, Bytes)>,
    length: usize,
    /// Whether every piece is here still.
    kept: bool,
    end: End,
    /// Where readers are; [`GONE`] where there is none any more.
    readers: Vec<usize>,
}

const GONE: usize = usize::MAX;

enum End {
    Open,
    Whole(Arc<Body>),
    /// Whole, but not kept.
    Passed,
    Broken,
}

/// What a reader finds.
enum Found {
    Piece(Bytes),
    NotYet,
    End,
    Broken,
}

impl Fills {
    fn table(&self, primary: &HashBinary) -> &Mutex<HashMap<HashBinary, Vec<Arc<Filling>>>> {
        &self.tables[usize::from(primary[0]) % TABLES]
    }

    pub(super) fn add(&self, filling: &Arc<Filling>) {
        let mut table = self.table(&filling.place.primary).lock();
        table.entry(filling.place.primary).or_default().push(Arc::clone(filling));
    }

    pub(super) fn remove(&self, filling: &Arc<Filling>) {
        let mut table = self.table(&filling.place.primary).lock();
        if let Some(fillings) = table.get_mut(&filling.place.primary) {
            fillings.retain(|other| !Arc::ptr_eq(other, filling));
            if fillings.is_empty() {
                table.remove(&filling.place.primary);
            }
        }
    }

    /// The newest of a variant that others may follow; without a variance, the newest of all.
    pub(super) fn find(&self, primary: &HashBinary, variance: Option<HashBinary>) -> Option<Arc<Filling>> {
        let table = self.table(primary).lock();
        let mut fillings = table.get(primary)?.iter().rev();
        fillings
            .find(|filling| (variance.is_none() || filling.entry.variance == variance) && filling.state.lock().kept)
            .cloned()
    }

    /// The one with this tag.
    pub(super) fn find_tagged(&self, primary: &HashBinary, tag: Option<&[u8]>) -> Option<Arc<Filling>> {
        let table = self.table(primary).lock();
        table.get(primary)?.iter().find(|filling| tag == Some(filling.tag())).cloned()
    }
}

impl Reservation {
    /// Room for so many bytes; none where too much is being received.
    pub fn of(cache: &'static Cache, bytes: u64) -> Option<Self> {
        cache.reserve(bytes).then(|| Self { cache, bytes: AtomicU64::new(bytes) })
    }

    /// Room for so many bytes in all; false where there is none.
    fn grow(&self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes.load(Ordering::Relaxed));
        if more > 0 && !self.cache.reserve(more) {
            return false;
        }
        self.bytes.fetch_add(more, Ordering::Relaxed);
        true
    }

    /// Counts what is held, whether there is room for it or not.
    fn set(&self, bytes: u64) {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        self.cache.hold(bytes.saturating_sub(before));
        self.cache.release(before.saturating_sub(bytes));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.cache.release(self.bytes.load(Ordering::Relaxed));
    }
}

impl Filling {
    pub(super) fn new(place: Place, entry: Entry, reservation: Arc<Reservation>) -> Self {
        // The first reader is that of the writer's own client.
        let readers = vec![0];
        let state = State { pieces: VecDeque::new(), length: 0, kept: true, end: End::Open, readers };
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let tag = COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        Self { tag, place, entry, state: Mutex::new(state), changed: Notify::new(), reservation }
    }

    pub(super) fn tag(&self) -> &[u8] {
        &self.tag
    }

    /// Adds a piece; false from the moment on when the answer is not kept any more.
    pub(super) fn add(&self, piece: &[u8], bytes_max: u64) -> bool {
        let kept = {
            let mut state = self.state.lock();
            let begin = state.length;
            state.length += piece.len();
            let length = state.length as u64;
            state.kept = state.kept && length <= bytes_max && self.reservation.grow(length);
            // Copied: what comes is part of a larger buffer.
            state.pieces.push_back((begin, Bytes::copy_from_slice(piece)));
            if !state.kept {
                state.give_up_what_is_read();
                self.reservation.set(state.held() as u64);
            }
            state.kept
        };
        self.changed.notify_waiters();
        kept
    }

    /// How much has come, and whether it was kept.
    pub(super) fn has_come(&self) -> (usize, bool) {
        let state = self.state.lock();
        (state.length, state.kept)
    }

    /// The body, when everything has come; it is kept in the place of the pieces.
    pub(super) fn take_body(&self) -> Arc<Body> {
        let pieces = self.state.lock().pieces.iter().map(|(_, piece)| piece.clone()).collect();
        Arc::new(Body::of(pieces))
    }

    /// Everything has come.
    pub(super) fn ends(&self, body: Option<Arc<Body>>) {
        {
            let mut state = self.state.lock();
            state.end = match body {
                Some(body) => {
                    state.pieces = VecDeque::new();
                    // From here on it is counted where it is stored.
                    self.reservation.set(0);
                    End::Whole(body)
                }
                None => End::Passed,
            };
        }
        self.changed.notify_waiters();
    }

    /// Nothing more will come.
    pub(super) fn breaks_off(&self) {
        self.state.lock().end = End::Broken;
        self.changed.notify_waiters();
    }

    /// One reader more, from the beginning on; none where that is not kept any more.
    pub(super) fn follow(self: &Arc<Self>) -> Option<Follower> {
        let mut state = self.state.lock();
        if !state.kept {
            return None;
        }
        state.readers.push(0);
        Some(Follower { filling: Arc::clone(self), number: state.readers.len() - 1, offset: 0, end: usize::MAX })
    }

    /// The reader of the writer's own client.
    pub(super) fn follow_own(self: &Arc<Self>) -> Follower {
        Follower { filling: Arc::clone(self), number: OWN, offset: 0, end: usize::MAX }
    }

    fn find(&self, number: usize, offset: usize, end: usize) -> Found {
        let mut state = self.state.lock();
        if offset >= end {
            return Found::End;
        }
        if let End::Whole(body) = &state.end {
            return body.read(offset, end).map_or(Found::End, Found::Piece);
        }
        if offset >= state.length {
            return match state.end {
                End::Broken => Found::Broken,
                End::Passed | End::Whole(_) => Found::End,
                End::Open => Found::NotYet,
            };
        }
        let piece = state.piece(offset, end);
        if let Some(piece) = &piece {
            state.readers[number] = offset + piece.len();
        }
        piece.map_or(Found::Broken, Found::Piece)
    }
}

impl State {
    /// What is there from `offset` on; none where it was given up. Of an answer that is not kept all of it at once, so that
    /// its reader does not fall behind.
    fn piece(&self, offset: usize, end: usize) -> Option<Bytes> {
        let at = self.pieces.partition_point(|(begin, _)| *begin <= offset).checked_sub(1)?;
        let (begin, piece) = &self.pieces[at];
        let part = piece.slice(offset - begin..piece.len().min(end - begin));
        if self.kept || at + 1 == self.pieces.len() {
            return Some(part);
        }
        let mut all = BytesMut::from(&*part);
        for (begin, piece) in self.pieces.range(at + 1..).take_while(|(begin, _)| *begin < end) {
            all.extend_from_slice(&piece[..piece.len().min(end - begin)]);
        }
        Some(all.freeze())
    }

    fn give_up_what_is_read(&mut self) {
        let own = self.readers[OWN].max(self.length.saturating_sub(BEHIND_MAX));
        let others = self.readers[OWN + 1..].iter().copied().min().unwrap_or(GONE);
        let needed = own.min(others.max(self.length.saturating_sub(OTHERS_BEHIND_MAX)));
        while self.pieces.front().is_some_and(|(begin, piece)| begin + piece.len() <= needed) {
            self.pieces.pop_front();
        }
    }

    fn held(&self) -> usize {
        self.length - self.pieces.front().map_or(self.length, |(begin, _)| *begin)
    }
}

/// Reads an answer as it comes, whole or one range of it.
pub(super) struct Follower {
    filling: Arc<Filling>,
    number: usize,
    offset: usize,
    end: usize,
}

impl Follower {
    /// What comes next; none at the end.
    ///
    /// # Errors
    /// Where the answer broke off, or this reader fell too far behind one that is not kept.
    pub(super) async fn read(&mut self) -> Result<Option<Bytes>> {
        loop {
            let changed = self.filling.changed.notified();
            let mut changed = std::pin::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            match self.filling.find(self.number, self.offset, self.end) {
                Found::Piece(piece) => {
                    self.offset += piece.len();
                    return Ok(Some(piece));
                }
                Found::End => return Ok(None),
                Found::Broken => {
                    return Error::e_explain(ErrorType::ConnectionClosed, "the shared answer broke off");
                }
                Found::NotYet => changed.await,
            }
        }
    }

    /// Reads only a part.
    pub(super) fn seek(&mut self, start: usize, end: usize) {
        (self.offset, self.end) = (start, end);
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.filling.state.lock().readers[self.number] = GONE;
    }
}
