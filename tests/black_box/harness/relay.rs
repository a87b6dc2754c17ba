//! A relay in front of a server: what passes through it can be delayed, cut in the middle, or never arrive.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::milliseconds;

/// A TCP relay on a port of its own.
pub struct Relay {
    pub address: SocketAddr,
    faults: Arc<Faults>,
    accepting: JoinHandle<()>,
}

#[derive(Default)]
struct Faults {
    /// Milliseconds before each piece goes on.
    delay: AtomicU64,
    /// Bytes from the client after which a connection is cut; 0 is never.
    cut_after: AtomicU64,
    cuts: AtomicU64,
    swallows: AtomicBool,
}

impl Relay {
    /// Passes on everything to a server.
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let faults = Arc::new(Faults::default());
        let shared = Arc::clone(&faults);
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // Nobody there: the client's connection ends at once.
                let Ok(server) = TcpStream::connect(server).await else { continue };
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let (up, down) = (Arc::clone(&shared), Arc::clone(&shared));
                tokio::spawn(async move {
                    let up = tokio::spawn(pass(from_client, to_server, up, true));
                    let down = tokio::spawn(pass(from_server, to_client, down, false));
                    // Both directions end together.
                    tokio::select! { _ = up => {}, _ = down => {} }
                });
            }
        });
        Self { address, faults, accepting }
    }

    /// Each piece goes on so much later.
    pub fn delay(&self, milliseconds: u64) {
        self.faults.delay.store(milliseconds, Ordering::Relaxed);
    }

    /// Connections are cut after so many bytes from the client; never with 0.
    pub fn cut_after(&self, bytes: u64) {
        self.faults.cut_after.store(bytes, Ordering::Relaxed);
    }

    /// Nothing arrives any more, and nobody is told: a firewall in between. What was on its way is lost, and its connection
    /// stays silent for ever; connections that are made afterwards work.
    pub fn swallow(&self, swallows: bool) {
        self.faults.swallows.store(swallows, Ordering::Relaxed);
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> u64 {
        self.faults.cuts.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: Arc<Faults>, from_client: bool) {
    let (mut piece, mut passed, mut is_silent) = (vec![0; 16 << 10], 0, false);
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        is_silent |= faults.swallows.load(Ordering::Relaxed);
        if is_silent {
            continue;
        }
        let delay = faults.delay.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(milliseconds(delay)).await;
        }
        passed += read as u64;
        let cut_after = faults.cut_after.load(Ordering::Relaxed);
        if from_client && cut_after > 0 && passed > cut_after {
            // Half of the piece still arrives.
            let _ = to.write_all(&piece[..read / 2]).await;
            faults.cuts.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
