//! The jobs, J1 to J9, and the rows of the tables they become: what is asked of which setup, and what has to come back.
//! Not here: how a setup is configured (`contenders/`), and how a measurement is made (`compare/`).

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::bare::REFUSE_PATH;
use crate::contender::Setup;
use crate::report::Settings;
use crate::report::tables::thousands;
use crate::upstream::{LARGE_ITEM_PATH, LARGE_PATH, MEDIUM_ITEM_PATH};

/// The only path that the setups with policies route.
pub const ITEMS_PATH: &str = "/items";

/// Routed by nobody but [`Setup::Plain`] and [`Setup::Tls`].
pub const NOWHERE_PATH: &str = "/nowhere";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[clap(rename_all = "verbatim")]
pub enum Job {
    /// Plain proxying.
    J1,
    /// Gateway: key, limit per address, JSON line, request id.
    J2,
    /// Cache hit, with all of J2; three sizes of bodies.
    J3,
    /// Refusals: 401, 404 and 429, each with its JSON line.
    J4,
    /// Plain proxying behind TLS 1.3.
    J5,
    /// Bodies of 1 MiB.
    J6,
    /// Idle connections.
    J7,
    /// Latency at a fixed rate.
    J8,
    /// Scale: routes, keys, client addresses.
    J9,
}

/// How load is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// wrk: every connection asks again as soon as it has its answer.
    Closed,
    /// oha: at a fixed rate, whatever comes back; latency counts from when a request was due.
    Open,
    /// Connections that asked once and stay.
    Idle,
}

/// Which requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// One path, over and over.
    Path(&'static str),
    /// [`ITEMS_PATH`] only, but put together like the next three, so that they have something fair to be held against.
    One,
    /// Any route of [`Setup::Routes`].
    Routes,
    /// Any key of [`Setup::Keys`].
    Keys,
    /// Any client address out of a range, in `X-Forwarded-For`.
    Addresses,
    /// The same addresses one after the other, beginning with this one.
    AddressesInTurn(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    None,
    Right,
    Wrong,
}

/// How many of the requests reach the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarded {
    All,
    None,
    /// What a limit of one a minute lets through.
    Few,
}

/// What is asked of a setup, and what has to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub setup: Setup,
    pub kind: Kind,
    pub pick: Pick,
    pub key: Key,
    pub status: u16,
    pub forwarded: Forwarded,
    pub is_logged: bool,
}

/// A row of figures for every contender.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// For machines, e.g. `J4-401`.
    pub id: &'static str,
    pub job: Job,
    /// ADDRESSES, IDLE and RATE stand for the settings of the run.
    pub title: &'static str,
    /// What is asked of everybody, in a sentence.
    pub what: &'static str,
    pub ask: Ask,
    /// What a reference is asked instead, and what that is.
    pub reference: Option<(Ask, &'static str)>,
    /// Whether this is held against the first row of its job, of the same contender.
    pub is_beside_first: bool,
}

const PLAIN: Ask = Ask {
    setup: Setup::Plain,
    kind: Kind::Closed,
    pick: Pick::Path(ITEMS_PATH),
    key: Key::None,
    status: 200,
    forwarded: Forwarded::All,
    is_logged: false,
};
const GATEWAY: Ask = Ask { setup: Setup::Gateway, key: Key::Right, is_logged: true, ..PLAIN };
const UNKNOWN_KEY: Ask = Ask { key: Key::Wrong, status: 401, forwarded: Forwarded::None, ..GATEWAY };
const NO_ROUTE: Ask = Ask { pick: Pick::Path(NOWHERE_PATH), status: 404, forwarded: Forwarded::None, ..GATEWAY };
const LIMITED: Ask = Ask { setup: Setup::Limited, status: 429, forwarded: Forwarded::Few, ..GATEWAY };
const REFUSE: Ask = Ask { pick: Pick::Path(REFUSE_PATH), status: 401, forwarded: Forwarded::None, ..PLAIN };

const AS_PLAIN: Option<(Ask, &str)> = Some((PLAIN, "proxies without policies"));
const AS_REFUSE: Option<(Ask, &str)> = Some((REFUSE, "401 to everything, no line"));

/// All rows, by job.
pub const ROWS: &[Row] = &[
    Row {
        id: "J1",
        job: Job::J1,
        title: "plain proxy",
        what: "Every path goes to the upstream; no policy, no log.",
        ask: PLAIN,
        reference: AS_PLAIN,
        is_beside_first: false,
    },
    Row {
        id: "J2",
        job: Job::J2,
        title: "gateway",
        what: "A key, a limit per client address, a JSON line per request, a request id, forwarded headers.",
        ask: GATEWAY,
        reference: AS_PLAIN,
        is_beside_first: false,
    },
    Row {
        id: "J3",
        job: Job::J3,
        title: "cache hit",
        what: "All of J2, answered from memory; the upstream is not asked.",
        ask: Ask { setup: Setup::Cache, forwarded: Forwarded::None, ..GATEWAY },
        reference: AS_PLAIN,
        is_beside_first: false,
    },
    Row {
        id: "J3-8k",
        job: Job::J3,
        title: "cache hit of 8 KiB",
        what: "J3 with answers of 8 KiB.",
        ask: Ask { setup: Setup::Cache, pick: Pick::Path(MEDIUM_ITEM_PATH), forwarded: Forwarded::None, ..GATEWAY },
        reference: Some((Ask { pick: Pick::Path(MEDIUM_ITEM_PATH), ..PLAIN }, "proxies without policies")),
        is_beside_first: false,
    },
    Row {
        id: "J3-1m",
        job: Job::J3,
        title: "cache hit of 1 MiB",
        what: "J3 with answers of 1 MiB: microseconds per request are microseconds per MiB.",
        ask: Ask { setup: Setup::Cache, pick: Pick::Path(LARGE_ITEM_PATH), forwarded: Forwarded::None, ..GATEWAY },
        reference: Some((Ask { pick: Pick::Path(LARGE_ITEM_PATH), ..PLAIN }, "proxies without policies")),
        is_beside_first: false,
    },
    Row {
        id: "J4-401",
        job: Job::J4,
        title: "refused with 401",
        what: "An unknown key; a JSON line per request.",
        ask: UNKNOWN_KEY,
        reference: AS_REFUSE,
        is_beside_first: false,
    },
    Row {
        id: "J4-404",
        job: Job::J4,
        title: "refused with 404",
        what: "A path without a route; a JSON line per request.",
        ask: NO_ROUTE,
        reference: AS_REFUSE,
        is_beside_first: false,
    },
    Row {
        id: "J4-429",
        job: Job::J4,
        title: "refused with 429",
        what: "A client address over its limit; a JSON line per request.",
        ask: LIMITED,
        reference: AS_REFUSE,
        is_beside_first: false,
    },
    Row {
        id: "J5",
        job: Job::J5,
        title: "TLS 1.3",
        what: "J1 behind TLS 1.3, on connections that stay open: records, not handshakes.",
        ask: Ask { setup: Setup::Tls, ..PLAIN },
        reference: Some((Ask { setup: Setup::Tls, ..PLAIN }, "proxies without policies")),
        is_beside_first: false,
    },
    Row {
        id: "J6",
        job: Job::J6,
        title: "bodies of 1 MiB",
        what: "J1 with answers of 1 MiB: microseconds per request are microseconds per MiB.",
        ask: Ask { pick: Pick::Path(LARGE_PATH), ..PLAIN },
        reference: Some((Ask { pick: Pick::Path(LARGE_PATH), ..PLAIN }, "proxies without policies")),
        is_beside_first: false,
    },
    Row {
        id: "J7",
        job: Job::J7,
        title: "IDLE idle connections",
        what: "The setup of J1; connections that each had one request proxied, and then wait.",
        ask: Ask { kind: Kind::Idle, ..PLAIN },
        reference: Some((Ask { kind: Kind::Idle, ..PLAIN }, "proxies without policies")),
        is_beside_first: false,
    },
    Row {
        id: "J8",
        job: Job::J8,
        title: "latency at RATE requests a second",
        what: "The setup of J2, asked at a fixed rate, whatever comes back; latency counts from when a request was due.",
        ask: Ask { kind: Kind::Open, ..GATEWAY },
        reference: Some((Ask { kind: Kind::Open, ..PLAIN }, "proxies without policies")),
        is_beside_first: false,
    },
    Row {
        id: "J9-base",
        job: Job::J9,
        title: "J2 with one route, key and address",
        what: "J2, its requests put together like those below.",
        ask: Ask { pick: Pick::One, ..GATEWAY },
        reference: None,
        is_beside_first: false,
    },
    Row {
        id: "J9-routes",
        job: Job::J9,
        title: "J2 with 10,000 routes",
        what: "Each request takes any of the routes.",
        ask: Ask { setup: Setup::Routes, pick: Pick::Routes, ..GATEWAY },
        reference: None,
        is_beside_first: true,
    },
    Row {
        id: "J9-keys",
        job: Job::J9,
        title: "J2 with 100,000 keys",
        what: "Each request has any of the keys.",
        ask: Ask { setup: Setup::Keys, pick: Pick::Keys, ..GATEWAY },
        reference: None,
        is_beside_first: true,
    },
    Row {
        id: "J9-addresses",
        job: Job::J9,
        title: "J2 with ADDRESSES client addresses",
        what: "Every address has asked shortly before; each request comes from any of them (X-Forwarded-For).",
        ask: Ask { setup: Setup::Addresses, pick: Pick::Addresses, ..GATEWAY },
        reference: None,
        is_beside_first: true,
    },
];

impl Row {
    /// With the numbers of the run.
    pub fn title(&self, settings: &Settings) -> String {
        let Settings { addresses, idle_connections, rate, .. } = settings;
        let mut title = self.title.to_owned();
        for (name, value) in [("ADDRESSES", addresses), ("IDLE", idle_connections), ("RATE", rate)] {
            title = title.replace(name, &thousands(f64::from(*value)));
        }
        title
    }
}

/// The row with this id.
pub fn row(id: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_say_what_was_really_asked() {
        let settings = Settings { addresses: 20_000, idle_connections: 900, rate: 5_000, ..Settings::default() };
        let title = |id: &str| row(id).unwrap().title(&settings);
        assert_eq!(title("J9-addresses"), "J2 with 20,000 client addresses");
        assert_eq!(title("J7"), "900 idle connections");
        assert_eq!(title("J8"), "latency at 5,000 requests a second");
    }

    #[test]
    fn every_job_has_rows_with_ids_of_their_own() {
        for job in Job::value_variants() {
            assert!(ROWS.iter().any(|row| row.job == *job), "{job:?}");
        }
        for row in ROWS {
            assert_eq!(ROWS.iter().filter(|other| other.id == row.id).count(), 1, "{}", row.id);
            assert!(row.id.starts_with(&format!("{:?}", row.job)), "{}", row.id);
        }
    }
}
