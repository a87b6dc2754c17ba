//! Crowds: many clients, each asking once: keep-alive connections on which every request has another header line, such as another address in
//! `X-Forwarded-For`. Every answer is looked at; the first whose status was not expected ends the measurement.

use std::collections::BTreeMap;
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

/// Answers by status.
pub type Statuses = BTreeMap<u16, u64>;

/// So many requests, and what they may be answered.
pub struct Crowd<'a> {
    pub count: u64,
    /// The header line of a request, without its end, by the request's number.
    pub line: &'a (dyn Fn(u64) -> String + Sync),
    pub statuses: &'a [u16],
}

impl Crowd<'_> {
    /// Asks; what was answered how often.
    pub fn ask(&self, gateway: SocketAddr) -> io::Result<Statuses> {
        let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CONNECTIONS)
                .map(|_| {
                    scope.spawn(|| {
                        let outcome = self.client(gateway, &next, &is_over);
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
                let tenths = next.load(Ordering::Relaxed).min(self.count) * 10 / self.count;
                if tenths > told {
                    eprintln!("  {} of {} have asked", grouped(tenths * self.count / 10), grouped(self.count));
                    told = tenths;
                }
            }
            let mut statuses = Statuses::new();
            for client in clients {
                let answered = client.join().map_err(|_| io::Error::other("a client panicked"))??;
                answered.into_iter().for_each(|(status, count)| *statuses.entry(status).or_default() += count);
            }
            Ok(statuses)
        })
    }

    fn client(&self, gateway: SocketAddr, next: &AtomicU64, is_over: &AtomicBool) -> io::Result<Statuses> {
        let (mut stream, mut statuses) = (connect(gateway)?, Statuses::new());
        while !is_over.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.count {
                break;
            }
            let line = (self.line)(number);
            let request = format!("GET {PATH} HTTP/1.1\r\nHost: {gateway}\r\n{line}\r\n\r\n");
            let answer = ask(&mut stream, request.as_bytes())?;
            if !self.statuses.contains(&answer.status) {
                return Err(io::Error::other(format!("asked with {line}: {}", answer.brief())));
            }
            *statuses.entry(answer.status).or_default() += 1;
        }
        Ok(statuses)
    }
}

/// Another address in each request.
pub fn forwarded_for(number: u64) -> String {
    let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + (number % ADDRESSES_MAX) as u32);
    format!("X-Forwarded-For: {address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_stay_in_their_network() {
        assert_eq!(forwarded_for(0), "X-Forwarded-For: 10.0.0.0");
        assert_eq!(forwarded_for(ADDRESSES_MAX - 1), "X-Forwarded-For: 10.255.255.255");
    }
}
