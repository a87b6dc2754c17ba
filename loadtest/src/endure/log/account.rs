//! The log's account, as one scrape tells it: accepted + recovered = written + queued + spooled + dropped.
//! Not here: whether the store really has the rows, which is asked of the store (`store.rs`).

use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::configs::{self, KEY_HEADER, PATH};
use super::super::gateway::Gateway;
use super::super::scrape::Scrape;

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// One snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Account {
    pub accepted: u64,
    pub recovered: u64,
    pub written: u64,
    pub queued: u64,
    pub spooled: u64,
    pub dropped: u64,
    /// Those of `dropped` for which the spool had no room.
    pub spool_full: u64,
}

impl Account {
    /// # Errors
    /// Something in it is unaccounted.
    pub fn of(gateway: &Gateway) -> Result<Self, Box<dyn Error>> {
        let scrape = gateway.scrape()?;
        let account = Self::read(&scrape)?;
        // The gauge is read as a number that is not negative, so the sum is made here, too.
        let gauge = scrape.sum("tollgate_log_unaccounted_records", "")?;
        if account.unaccounted() != 0 || gauge != 0 {
            return Err(
                format!("{} records are unaccounted (gauge {gauge}): {account:?}", account.unaccounted()).into()
            );
        }
        Ok(account)
    }

    /// Asks once, and waits until that is stored: the store has its tables then.
    pub fn begun(gateway: &Gateway, patience: Duration) -> Result<(), Box<dyn Error>> {
        gateway.expect(PATH, &format!("{KEY_HEADER}: {}\r\n", configs::key(0)), 200)?;
        Self::settled(gateway, 1, patience).map(drop)
    }

    fn read(scrape: &Scrape) -> Result<Self, String> {
        let state = |name: &str| scrape.sum("tollgate_log_records_total", &format!("state=\"{name}\""));
        Ok(Self {
            accepted: state("accepted")?,
            recovered: state("recovered")?,
            written: state("written")?,
            queued: scrape.sum("tollgate_log_queued_records", "")?,
            spooled: scrape.sum("tollgate_log_spooled_records", "")?,
            dropped: scrape.sum("tollgate_log_records_dropped_total", "")?,
            spool_full: scrape.sum("tollgate_log_records_dropped_total", "reason=\"spool_full\"")?,
        })
    }

    fn unaccounted(&self) -> i64 {
        let known = self.written + self.queued + self.spooled + self.dropped;
        (self.accepted + self.recovered).cast_signed() - known.cast_signed()
    }

    /// Neither stored nor lost.
    pub fn waiting(&self) -> u64 {
        self.queued + self.spooled
    }

    /// Waits until at least so many records are written in all, and nothing waits any more: the last record is left a moment after
    /// its answer was sent.
    ///
    /// # Errors
    /// That is not so after `patience`, or something was dropped.
    pub fn settled(gateway: &Gateway, written_min: u64, patience: Duration) -> Result<Self, Box<dyn Error>> {
        let deadline = Instant::now() + patience;
        loop {
            let account = Self::of(gateway)?;
            if account.dropped > 0 {
                return Err(format!("records were dropped: {account:?}").into());
            }
            if account.waiting() == 0 && account.written >= written_min {
                return Ok(account);
            }
            if Instant::now() > deadline {
                return Err(format!("{written_min} records are not written after {patience:?}: {account:?}").into());
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "tollgate_log_records_total{state=\"accepted\"} 10\ntollgate_log_records_total{state=\"recovered\"} 1\n\
        tollgate_log_records_total{state=\"written\"} 4\ntollgate_log_queued_records 3\ntollgate_log_spooled_records 2\n\
        tollgate_log_records_dropped_total{reason=\"spool_full\"} 1\ntollgate_log_records_dropped_total{reason=\"lines\"} 0\n";

    #[test]
    fn an_account_is_read_and_added_up() {
        let account = Account::read(&Scrape::new(TEXT.to_owned())).unwrap();
        assert_eq!((account.accepted, account.dropped, account.spool_full, account.waiting()), (10, 1, 1, 5));
        assert_eq!(account.unaccounted(), 1);
    }

    #[test]
    fn a_missing_series_is_an_error() {
        assert!(Account::read(&Scrape::new(TEXT.replace("spooled", "other"))).is_err());
    }
}
