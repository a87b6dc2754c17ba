//! A fixed number of requests at a fixed rate: oha's open loop, and what makes a run count.
//! How oha is run and its report read is `load/open.rs`.

use std::io;
use std::net::SocketAddr;

use super::configs::{self, PATH};
use crate::load::Load;
use crate::load::open::{Oha, Run};

/// The rate has to be reached within this share; otherwise the latencies are those of a generator that was late.
const RATE_TOLERANCE: f64 = 0.02;

/// What is sent.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub per_second: u32,
    pub seconds: u32,
    pub connections: u32,
}

impl Rate {
    pub const fn requests(self) -> u64 {
        self.per_second as u64 * self.seconds as u64
    }

    /// Sends the requests, waits until the last is answered, and wants that each was answered with 200 and the rate was kept.
    pub fn send(self, oha: &Oha, address: SocketAddr) -> io::Result<Load> {
        let key = configs::key(0);
        let Self { per_second: rate, seconds, connections } = self;
        let load = oha.run(&Run { address, path: PATH, key: Some(&key), connections, seconds, rate })?;
        self.check(&load).map_err(io::Error::other)?;
        Ok(load)
    }

    fn check(self, load: &Load) -> Result<(), String> {
        if load.answers != self.requests() || load.not_ok > 0 || load.errors_count() > 0 {
            return Err(format!("{} requests were sent, and not all were answered well: {load:?}", self.requests()));
        }
        let (reached, wanted) = (load.per_second(), f64::from(self.per_second));
        if (reached / wanted - 1.0).abs() > RATE_TOLERANCE {
            return Err(format!(
                "{wanted} requests/s were to be sent, and it were {reached:.0}: this machine is too busy"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const RATE: Rate = Rate { per_second: 1_000, seconds: 5, connections: 1 };

    fn check(change: impl Fn(&mut Load), expected: Option<&str>) {
        let mut load = Load {
            answers: 5_000,
            micros: 5_050_000,
            not_ok: 0,
            errors: BTreeMap::new(),
            p50_us: 1.0,
            p99_us: 2.0,
            p999_us: 3.0,
        };
        change(&mut load);
        let said = RATE.check(&load).err();
        assert_eq!(said.is_some(), expected.is_some(), "{said:?}");
        assert!(said.unwrap_or_default().contains(expected.unwrap_or_default()));
    }

    #[test]
    fn every_request_has_to_be_answered_well() {
        check(|_| (), None);
        check(|load| load.answers = 4_999, Some("not all"));
        check(|load| load.not_ok = 1, Some("not all"));
        check(|load| load.errors = BTreeMap::from([("timeout".to_owned(), 1)]), Some("not all"));
    }

    #[test]
    fn the_rate_has_to_be_kept() {
        check(|load| load.micros = 5_150_000, Some("too busy"));
        check(|load| load.micros = 4_800_000, Some("too busy"));
    }
}
