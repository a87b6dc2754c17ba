//! What the stories stand on: the real gateway as a child process, scripted backends, raw connections, load.
//! Everything is private to its test (ports, folders, servers) and ends with it; nothing is ever skipped:
//! a program that is missing is a failed test that says what to install.

mod answer;
mod ask;
mod backend;
mod browser;
mod config;
mod disk;
mod dns;
mod gateway;
mod http2_backend;
mod load;
mod mariadb;
mod metrics;
mod mocks;
mod program;
#[path = "../../support/redis.rs"]
mod redis;
mod relay;
mod terminal;
pub mod tls;
mod wire;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use answer::Answer;
pub use ask::Ask;
pub use backend::{Backend, Reply, Seen};
pub use browser::Page;
pub use config::{Config, digest};
pub use disk::Disk;
pub use dns::{Dns, Mood};
pub use gateway::Gateway;
pub use http2_backend::{Http2Backend, Http2Reply};
pub use load::{Load, burst};
pub use mariadb::Mariadb;
pub use metrics::Metrics;
pub use mocks::Mocks;
pub use nix::sys::signal::Signal;
pub use program::{Folder, tollgate};
pub use redis::{Redis, servers};
pub use relay::Relay;
pub use terminal::{Terminal, plain};
pub use tls::Authority;
pub use wire::Wire;

/// A loopback address nobody listens on. The ports lie below those the kernel hands out to outgoing connections,
/// so that none of these takes one between here and the program that will listen on it.
pub fn free_address() -> SocketAddr {
    const FIRST: u32 = 11_000;
    const COUNT: u32 = 21_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static RESERVED: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    // Two test processes at once begin at different places.
    let seed = std::process::id().wrapping_mul(7919);
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + seed.wrapping_add(step) % COUNT) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        // Held for the life of the tests, so that another test process at the same time passes this port over.
        let Ok(reservation) = UdpSocket::bind(address) else { continue };
        if TcpListener::bind(address).is_ok() {
            RESERVED.lock().expect("reservations").push(reservation);
            return address;
        }
    }
    panic!("no free port between {FIRST} and {}", FIRST + COUNT);
}

/// Waits until the condition holds; fails with `what` after `within`.
pub async fn eventually<F, T>(what: &str, within: Duration, mut holds: F)
where
    F: FnMut() -> T,
    T: Future<Output = bool>,
{
    let deadline = Instant::now() + within;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// So many seconds.
pub const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// So many milliseconds.
pub const fn milliseconds(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
