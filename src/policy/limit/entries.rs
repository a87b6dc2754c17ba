//! The entries of a shard, in parts of 256: a list that grows never moves what it holds, so no memory lies idle between its sizes.
//! A place stays an entry's own until another is removed: then the last one takes the place of that one.

use std::ops::{Index, IndexMut};

use super::identity::Identity;

/// Entries of one part.
const PART: usize = 256;

/// What one identity has used.
pub(super) struct Entry<U> {
    pub identity: Identity,
    pub used: U,
}

/// A list of entries.
pub(super) struct Entries<U> {
    /// All full but the last.
    parts: Vec<Vec<Entry<U>>>,
    len: usize,
}

impl<U> Entries<U> {
    /// None yet.
    pub const fn new() -> Self {
        Self { parts: Vec::new(), len: 0 }
    }

    pub const fn len(&self) -> usize {
        self.len
    }

    /// Adds an entry behind the others.
    pub fn push(&mut self, entry: Entry<U>) {
        if self.len.is_multiple_of(PART) {
            self.parts.push(Vec::with_capacity(PART));
        }
        if let Some(part) = self.parts.last_mut() {
            part.push(entry);
            self.len += 1;
        }
    }

    /// Removes the entry at a place; the last one takes it.
    pub fn swap_remove(&mut self, place: usize) {
        let last = self.parts.last_mut().and_then(Vec::pop);
        if self.parts.last().is_some_and(Vec::is_empty) {
            self.parts.pop();
        }
        if let Some(last) = last {
            self.len -= 1;
            if place < self.len {
                self[place] = last;
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Entry<U>> {
        self.parts.iter().flatten()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry<U>> {
        self.parts.iter_mut().flatten()
    }
}

impl<U> Index<usize> for Entries<U> {
    type Output = Entry<U>;

    fn index(&self, place: usize) -> &Entry<U> {
        &self.parts[place / PART][place % PART]
    }
}

impl<U> IndexMut<usize> for Entries<U> {
    fn index_mut(&mut self, place: usize) -> &mut Entry<U> {
        &mut self.parts[place / PART][place % PART]
    }
}
