//! Black box tests: the real program with configurations it reads from files, real sockets, real databases.
//! Each story starts what it needs on private ports and folders, so that all of them run side by side.

#[allow(dead_code)]
mod harness;

mod seen_to_work;
