//! Partitions of `api_logs`: one for each day (UTC), so that retention drops a day without reading it. The first takes
//! everything older, the last, `later`, everything newer; there are always some days ahead, so that it stays empty.
//! The log works without partitions: where this user may not make them, rows are deleted instead.

use std::time::{Duration, SystemTime};

use super::super::usage::Minute;
use super::super::{Failure, Moment};
use super::failure::{Meaning, meaning};
use super::link::{Link, value};
use super::migrate::{lock, unlock};

/// Days that have a partition before they come.
const DAYS_AHEAD: u32 = 7;

/// Days of old requests that get a partition of their own, when a table from before is divided.
const DAYS_BEHIND: u32 = 366;

/// A lock was not given in time.
const LOCK_WAIT: u16 = 1205;

const LATER: &str = "later";

/// A day, counted from 1970 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Day(u32);

impl Day {
    fn of(time: SystemTime) -> Self {
        Self(Minute::of(time).0 / Minute::DAY)
    }

    fn plus(self, days: u32) -> Self {
        Self(self.0.saturating_add(days))
    }

    /// As a date, with something between year, month and day.
    fn text(self, between: &str) -> String {
        let Moment { year, month, day, .. } = Moment::of(Minute(self.0.saturating_mul(Minute::DAY)).time());
        format!("{year:04}{between}{month:02}{between}{day:02}")
    }

    /// Names sort as the days do.
    fn partition(self) -> String {
        format!("p{}", self.text(""))
    }
}

/// Divides the table, where this user may; what was done.
pub(super) async fn begin(link: &mut Link, now: SystemTime) -> Result<Option<String>, Failure> {
    if !names(link).await?.is_empty() {
        return Ok(None);
    }
    let oldest = "SELECT TIMESTAMPDIFF(DAY, '1970-01-01', MIN(`timestamp`)) FROM api_logs";
    let oldest: Option<u32> = link.first(oldest, vec![]).await?;
    let today = Day::of(now);
    let first = oldest.map_or(today, |day| Day(day.clamp(today.0.saturating_sub(DAYS_BEHIND), today.0)));
    let sql = format!(
        "ALTER TABLE api_logs PARTITION BY RANGE COLUMNS(`timestamp`) ({})",
        list(first, today.plus(DAYS_AHEAD))
    );
    match link.change(&sql).await? {
        Ok(()) => Ok(Some("api_logs is partitioned by day".to_owned())),
        Err((code, text)) => {
            log::warn!(
                "request log: api_logs can't be partitioned by day (error {code}: {text}); rows will be deleted one by one"
            );
            Ok(None)
        }
    }
}

/// The partitions from a day to a day, and the last one.
fn list(first: Day, last: Day) -> String {
    let days = (first.0..=last.0).map(Day);
    let days = days.map(|day| format!("PARTITION {} VALUES LESS THAN ('{}')", day.partition(), day.plus(1).text("-")));
    let later = format!("PARTITION {LATER} VALUES LESS THAN (MAXVALUE)");
    days.chain([later]).collect::<Vec<_>>().join(", ")
}

/// The partitions, in their order; none where the table is not divided.
async fn names(link: &mut Link) -> Result<Vec<String>, Failure> {
    let sql = "SELECT partition_name FROM information_schema.partitions WHERE table_schema = DATABASE()
               AND table_name = 'api_logs' AND partition_name IS NOT NULL ORDER BY partition_ordinal_position";
    Ok(link.text_rows(sql).await?.iter().filter_map(|row| value(row, 0)).collect())
}

/// Makes the partitions of the coming days.
pub(super) async fn ahead(link: &mut Link, now: SystemTime) -> Result<(), Failure> {
    if missing(&names(link).await?, now).is_none() || !lock(link, Duration::ZERO).await? {
        return Ok(());
    }
    // Another gateway may have been faster.
    let result = match missing(&names(link).await?, now) {
        Some((first, last)) => {
            change(link, &format!("ALTER TABLE api_logs REORGANIZE PARTITION {LATER} INTO ({})", list(first, last)))
                .await
        }
        None => Ok(true),
    };
    unlock(link).await?;
    result.map(|_| ())
}

/// The first and the last day that have no partition yet.
fn missing(names: &[String], now: SystemTime) -> Option<(Day, Day)> {
    let [.., newest, later] = names else { return None };
    let is_ours = later == LATER && newest.len() == 9 && newest.starts_with('p');
    let today = Day::of(now);
    let first = (0..=DAYS_AHEAD).map(|days| today.plus(days)).find(|day| day.partition() > *newest)?;
    is_ours.then_some((first, today.plus(DAYS_AHEAD)))
}

/// The oldest partition, if all its days lie before a time; before which time nothing is left without it.
pub(super) async fn oldest_before(link: &mut Link, before: Minute) -> Result<Option<(String, Minute)>, Failure> {
    let day = Day(before.0 / Minute::DAY);
    let oldest = names(link).await?.into_iter().next();
    let oldest = oldest.filter(|name| name != LATER && *name < day.partition());
    Ok(oldest.map(|name| (name, Minute(day.0.saturating_mul(Minute::DAY)))))
}

/// The oldest partition of all, unless it is of today; before which time nothing is left without it.
pub(super) async fn oldest(link: &mut Link, now: SystemTime) -> Result<Option<(String, Minute)>, Failure> {
    let today = Day::of(now);
    let names = names(link).await?;
    let Some(oldest) = names.into_iter().next().filter(|name| name != LATER && *name < today.partition()) else {
        return Ok(None);
    };
    let day = (0..today.0).rev().map(Day).find(|day| day.partition() == oldest);
    Ok(day.map(|day| (oldest, Minute(day.plus(1).0.saturating_mul(Minute::DAY)))))
}

/// Drops a partition; false where others read the table for so long that it has to be tried again.
pub(super) async fn drop(link: &mut Link, name: &str) -> Result<bool, Failure> {
    change(link, &format!("ALTER TABLE api_logs DROP PARTITION {name}")).await
}

/// Whether the table is divided by day.
pub(super) async fn are_there(link: &mut Link) -> Result<bool, Failure> {
    Ok(names(link).await?.last().is_some_and(|name| name == LATER))
}

/// A change that waits briefly for those who read: everybody else waits behind it. False when that was not enough.
async fn change(link: &mut Link, sql: &str) -> Result<bool, Failure> {
    link.text("SET SESSION lock_wait_timeout = 1").await?;
    let result = link.change(sql).await?;
    link.text("SET SESSION lock_wait_timeout = 8").await?;
    match result {
        Ok(()) => Ok(true),
        Err((LOCK_WAIT, _)) => Ok(false),
        Err((code, text)) => {
            let message = format!("{}: partitions of api_logs: error {code}: {text}", link.server);
            Err(if meaning(code) == Meaning::Away { Failure::Away(message) } else { Failure::Denied(message) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> SystemTime {
        format!("{text}T12:00:00Z").parse::<jiff::Timestamp>().unwrap().into()
    }

    #[test]
    fn partitions_have_the_days_name_and_end_with_it() {
        let first = Day::of(day("2026-02-28"));
        assert_eq!(
            list(first, first.plus(1)),
            "PARTITION p20260228 VALUES LESS THAN ('2026-03-01'), \
             PARTITION p20260301 VALUES LESS THAN ('2026-03-02'), PARTITION later VALUES LESS THAN (MAXVALUE)"
        );
    }

    #[test]
    fn a_week_ahead_is_made() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let check = |list: &[&str]| {
            missing(&names(list), day("2026-03-01")).map(|(first, last)| (first.text("-"), last.text("-")))
        };
        let days = |first: &str| Some((first.to_owned(), "2026-03-08".to_owned()));
        assert_eq!(check(&["p20260301", "p20260307", "later"]), days("2026-03-08"));
        // Nobody was there for weeks: the days between are not worth a partition.
        assert_eq!(check(&["p20260101", "later"]), days("2026-03-01"));
        assert_eq!(check(&["p20260308", "later"]), None);
        assert_eq!(check(&[]), None);
        assert_eq!(check(&["some", "other"]), None);
    }
}
