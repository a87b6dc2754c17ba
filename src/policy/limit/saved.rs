//! Counts that outlive the process: of windows of an hour and longer, and of the calendar. Here they become text and are read again;
//! where they are kept is the store's, and when they are saved is the server's. A count is told by names and wall-clock times, which mean the same
//! in another process: rather too much was used, and rather too late, than too little.

use std::fmt::Write as _;
use std::time::Duration;

use super::algorithm::{Use, Uses};
use super::{Book, Now};

const MILLISECOND: u64 = 1_000_000;

/// What one identity has used of one limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedCount {
    /// The limit with its place.
    pub limit: String,
    /// Who is counted, as text.
    pub identity: String,
    /// What was used: `MILLISECONDS:MILLIONTHS` for each moment, since 1970 and of a unit of cost, with blanks between.
    pub uses: String,
    /// When none of it counts any more, since 1970.
    pub expires: Duration,
}

impl Book {
    /// Whether any of its limits is to outlive the process.
    pub fn has_saved(&self) -> bool {
        self.limits.values().any(|limit| limit.is_saved)
    }

    /// What was counted since this was asked last, or everything; never holds more than a part of one limit's table while it copies.
    pub fn unsaved(&self, now: Now, everything: bool, mut found: impl FnMut(SavedCount)) {
        for limit in self.limits.values().filter(|limit| limit.is_saved) {
            limit.counting.unsaved(now, everything, |one| {
                found(SavedCount {
                    limit: limit.key.to_string(),
                    identity: one.identity.to_string(),
                    uses: text(&one.uses, now.wall_ns()),
                    expires: now.wall + Duration::from_nanos(one.empty_in),
                });
            });
        }
    }

    /// Adds what an earlier process has counted; false where the limit is gone or the text can't be read.
    pub fn add_saved(&self, saved: &SavedCount, now: Now) -> bool {
        let limit = self.limits.get(saved.limit.as_str()).filter(|limit| limit.is_saved);
        let parts = limit.zip(saved.identity.parse().ok()).zip(read(&saved.uses, now.wall_ns()));
        if let Some(((limit, identity), uses)) = &parts {
            limit.counting.add(*identity, uses, now);
        }
        parts.is_some()
    }
}

fn text(uses: &Uses, now: u64) -> String {
    let mut text = String::new();
    for one in uses {
        let moment = now.saturating_sub(one.age).div_ceil(MILLISECOND);
        // Writing to a string can't fail.
        let _ = write!(text, "{}{moment}:{}", if text.is_empty() { "" } else { " " }, one.millionths);
    }
    text
}

fn read(text: &str, now: u64) -> Option<Uses> {
    let one = |part: &str| {
        let (moment, millionths) = part.split_once(':')?;
        let moment = moment.parse::<u64>().ok()?.saturating_mul(MILLISECOND);
        Some(Use { age: now.saturating_sub(moment), millionths: millionths.parse().ok()? })
    };
    text.split(' ').filter(|part| !part.is_empty()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{admitted, at, book_of, from, with_key};
    use super::*;
    use crate::keys::name_id;

    const LIMITS: &str = "plans: {gold: {limit: 9/month per consumer}}\nroutes: {/a: {to: a, limit: [5/h per ip, 100/2h burst 7 per ip, 6/day per ip, 3/min per route]}}";

    fn saved(book: &Book, now: Now, everything: bool) -> Vec<SavedCount> {
        let mut found = Vec::new();
        book.unsaved(now, everything, |one| found.push(one));
        found
    }

    #[test]
    fn another_process_goes_on_where_this_one_ended() {
        let (book, routes) = book_of(LIMITS, None);
        let alice = with_key("alice", "alice-1");
        assert_eq!(admitted(routes["/a"].of(Some(name_id("gold"))).unwrap(), &alice, at(0.0), 3), 3);
        let found = saved(&book, at(1.0), false);
        let limits: Vec<&str> = found.iter().map(|one| &*one.limit).collect();
        assert_eq!(
            limits,
            ["plan gold gold-consumer-month", "route /a ip-3600s", "route /a ip-7200s", "route /a ip-day"]
        );
        assert!(saved(&book, at(1.0), false).is_empty() && saved(&book, at(1.0), true).len() == 4);
        // The other process has the same limits, and another monotonic clock.
        let (other, routes) = book_of(LIMITS, None);
        let later = Now { monotonic: Duration::from_secs(9_000_000), wall: at(10.0).wall };
        assert!(found.iter().all(|one| other.add_saved(one, later)));
        let limits = routes["/a"].of(Some(name_id("gold"))).unwrap();
        let state = limits.admit(&alice, later).fields.unwrap().state;
        assert!(state.to_str().unwrap().starts_with("\"ip-3600s\";r=1;"), "{state:?}");
        for part in ["\"ip-7200s\";r=3", "\"ip-day\";r=2", "\"gold-consumer-month\";r=5", "\"route-60s\";r=2"] {
            assert!(state.to_str().unwrap().contains(part), "{part} {state:?}");
        }
    }

    #[test]
    fn what_is_over_is_not_counted_again_and_what_is_unknown_is_left_out() {
        let (book, routes) = book_of(LIMITS, None);
        assert_eq!(admitted(routes["/a"].of(None).unwrap(), &from("192.0.2.1"), at(0.0), 2), 2);
        let found = saved(&book, at(1.0), false);
        assert!(found.iter().all(|one| one.expires > at(1.0).wall));
        let (other, routes) = book_of(LIMITS, None);
        let later = Now { monotonic: Duration::from_secs(9_000_000), wall: at(90_000.0).wall };
        assert!(found.iter().all(|one| other.add_saved(one, later)));
        assert_eq!(admitted(routes["/a"].of(None).unwrap(), &from("192.0.2.1"), later, 9), 3);
        let gone = SavedCount { limit: "route /b ip-3600s".into(), ..found[0].clone() };
        let broken = SavedCount { uses: "1:".into(), ..found[0].clone() };
        let nobody = SavedCount { identity: "who:1".into(), ..found[0].clone() };
        assert!([gone, broken, nobody].iter().all(|one| !other.add_saved(one, later)));
    }

    #[test]
    fn a_wall_clock_that_was_set_back_forgets_nothing() {
        let (book, routes) = book_of(LIMITS, None);
        assert_eq!(admitted(routes["/a"].of(None).unwrap(), &from("192.0.2.1"), at(0.0), 3), 3);
        let found = saved(&book, at(1.0), false);
        let (other, routes) = book_of(LIMITS, None);
        let earlier =
            Now { monotonic: Duration::from_secs(9_000_000), wall: at(0.0).wall - Duration::from_secs(3_000) };
        assert!(found.iter().all(|one| other.add_saved(one, earlier)));
        assert_eq!(admitted(routes["/a"].of(None).unwrap(), &from("192.0.2.1"), earlier, 9), 2);
    }
}
