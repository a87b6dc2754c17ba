//! Black box tests: the real program with configurations it reads from files, real sockets, real databases.
//! Each story starts what it needs on private ports and folders, so that all of them run side by side.

#[allow(dead_code)] // a kit: not every story needs every tool
mod harness;

mod admin;
mod cache;
mod cli;
mod flood;
mod forwarding;
mod http_traps;
mod log;
mod paths;
mod seen_to_work;
mod shutdown_and_reload;
mod tls;
mod under_load;
mod upstream;
