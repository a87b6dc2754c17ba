//! A relay in front of the store's server that can delay what passes: a server far away, or one that has too much to do.
//! Its threads are on the load's core, and end with their connections; the one that accepts ends with the process.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::programs::Core;

/// Bytes that pass at a time: with a delay, this is what passes in it.
const PIECE_BYTES: usize = 16 << 10;

/// A TCP relay on a port of its own.
pub struct Relay {
    pub address: SocketAddr,
    delay_us: Arc<AtomicU64>,
}

impl Relay {
    /// Passes on everything to a server.
    pub fn to(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let relay = Self { address: listener.local_addr()?, delay_us: Arc::default() };
        let delay = Arc::clone(&relay.delay_us);
        thread::spawn(move || {
            // The threads that this one starts are where it is. Where this fails they are wherever the system puts them.
            let _ = stay_on(Core::Load);
            for client in listener.incoming().flatten() {
                // Nobody there: the client's connection ends at once.
                let Ok(server) = TcpStream::connect(server) else { continue };
                let _ = connect(client, server, &delay);
            }
        });
        Ok(relay)
    }

    /// Each piece goes on so much later, in either direction.
    pub fn delay(&self, delay: Duration) {
        self.delay_us.store(delay.as_micros() as u64, Ordering::Relaxed);
    }
}

fn stay_on(core: Core) -> nix::Result<()> {
    let Some(number) = core.number() else { return Ok(()) };
    let mut cores = CpuSet::new();
    cores.set(number)?;
    sched_setaffinity(Pid::from_raw(0), &cores)
}

fn connect(client: TcpStream, server: TcpStream, delay: &Arc<AtomicU64>) -> io::Result<()> {
    for stream in [&client, &server] {
        stream.set_nodelay(true)?;
    }
    let ways = [(client.try_clone()?, server.try_clone()?), (server, client)];
    for (from, to) in ways {
        let delay = Arc::clone(delay);
        thread::spawn(move || {
            let _ = pass(&from, &to, &delay);
            // Both directions end together.
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }
    Ok(())
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, delay: &AtomicU64) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        let delay = Duration::from_micros(delay.load(Ordering::Relaxed));
        if !delay.is_zero() {
            thread::sleep(delay);
        }
        to.write_all(&piece[..read])?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_passes_is_the_same_and_late() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay::to(server.local_addr().unwrap()).unwrap();
        relay.delay(Duration::from_millis(20));
        let mut client = TcpStream::connect(relay.address).unwrap();
        let (mut accepted, _) = server.accept().unwrap();
        let began = Instant::now();
        client.write_all(b"question").unwrap();
        let mut question = [0; 8];
        accepted.read_exact(&mut question).unwrap();
        assert_eq!(&question, b"question");
        assert!(began.elapsed() >= Duration::from_millis(20));
        drop(accepted);
        assert_eq!(client.read(&mut question).unwrap(), 0);
    }
}
