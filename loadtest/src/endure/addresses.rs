//! Many clients, each asking once: keep-alive connections on which every request names another address in `X-Forwarded-For`.
//! Every answer is looked at; the first that is not 200 ends the measurement.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::configs::PATH;
use super::grouped;
use super::stream::{ask, connect};

const CONNECTIONS: u64 = 16;

/// The addresses are those of 10.0.0.0/8.
pub const ADDRESSES_MAX: u64 = 1 << 24;

/// Asks once from each of so many addresses.
pub fn ask_from(gateway: SocketAddr, count: u64) -> io::Result<()> {
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                scope.spawn(|| {
                    let outcome = client(gateway, &next, count, &is_over);
                    if outcome.is_err() {
                        is_over.store(true, Ordering::Relaxed);
                    }
                    outcome
                })
            })
            .collect();
        let mut told = 0;
        while !clients.iter().all(thread::ScopedJoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(200));
            let tenths = next.load(Ordering::Relaxed).min(count) * 10 / count;
            if tenths > told {
                eprintln!("  {} of {} addresses have asked", grouped(tenths * count / 10), grouped(count));
                told = tenths;
            }
        }
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| io::Error::other("a client panicked"))?)
    })
}

fn client(gateway: SocketAddr, next: &AtomicU64, count: u64, is_over: &AtomicBool) -> io::Result<()> {
    let mut stream = connect(gateway)?;
    while !is_over.load(Ordering::Relaxed) {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return Ok(());
        }
        let address = address(number);
        let request = format!("GET {PATH} HTTP/1.1\r\nHost: {gateway}\r\nX-Forwarded-For: {address}\r\n\r\n");
        let answer = ask(&mut stream, request.as_bytes())?;
        if answer.status != 200 {
            return Err(io::Error::other(format!("asked as {address}: {}", answer.brief())));
        }
    }
    Ok(())
}

fn address(number: u64) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + (number % ADDRESSES_MAX) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay_in_their_network() {
        assert_eq!(address(0), Ipv4Addr::new(10, 0, 0, 0));
        assert_eq!(address(ADDRESSES_MAX - 1), Ipv4Addr::new(10, 255, 255, 255));
    }
}
