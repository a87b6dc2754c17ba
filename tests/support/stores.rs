//! The stores as the tests of the ledger see them: a place to store to, read with plain SQL, and a store without async.
//! Included by path in the test binaries that need it.

// Each test binary uses its part; a test that fails here may panic.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::mariadb::MariaDb;
use tollgate::config::{ClientIp, Retention, StoreUrl};
use tollgate::record::Record;
use tollgate::store::read::{Hours, Reader, Unreadable};
use tollgate::store::usage::{Histogram, Increments, Minute, Packed, Reading, Series, Tally};
use tollgate::store::{Batch, Beat, Failure, Kept, Moment, Row, Run, Store, Stored, Totals};

/// Seconds.
pub const HOUR: u64 = 3_600;
/// Seconds.
pub const DAY: u64 = 24 * HOUR;

/// A database of its own.
pub enum Place {
    Sqlite(tempfile::TempDir),
    Mariadb(MariaDb),
}

impl Place {
    pub fn sqlite() -> Self {
        Self::Sqlite(tempfile::tempdir().unwrap())
    }

    pub fn mariadb() -> Self {
        Self::Mariadb(MariaDb::start())
    }

    pub fn url(&self) -> StoreUrl {
        match self {
            Self::Sqlite(folder) => StoreUrl::Sqlite(folder.path().join("log.db")),
            Self::Mariadb(database) => StoreUrl::Mysql(database.url()),
        }
    }

    /// A store that is open: a new connection of this run.
    pub fn open(&self, run: &Run) -> Opened {
        let end = SystemTime::now() + Duration::from_secs(30);
        loop {
            match try_open(&self.url(), run) {
                Ok(store) => return store,
                Err(Failure::Away(message)) => assert!(SystemTime::now() < end, "{message}"),
                Err(Failure::Denied(message)) => panic!("{message}"),
            }
        }
    }

    /// Columns separated by tabs, rows by line ends.
    pub fn sql(&self, sql: &str) -> String {
        let folder = match self {
            Self::Mariadb(database) => return database.sql(sql),
            Self::Sqlite(folder) => folder,
        };
        let connection = rusqlite::Connection::open(folder.path().join("log.db")).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        let mut statement = connection.prepare(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut lines = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let cells = (0..columns).map(|column| match row.get_ref(column).unwrap() {
                rusqlite::types::ValueRef::Null => "NULL".to_owned(),
                rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                rusqlite::types::ValueRef::Real(number) => number.to_string(),
                rusqlite::types::ValueRef::Text(text) | rusqlite::types::ValueRef::Blob(text) => {
                    String::from_utf8_lossy(text).into_owned()
                }
            });
            lines.push(cells.collect::<Vec<_>>().join("\t"));
        }
        lines.join("\n")
    }

    pub fn number(&self, sql: &str) -> u64 {
        let answer = self.sql(sql);
        answer.parse().unwrap_or_else(|_| panic!("{sql}: {answer}"))
    }

    /// A sum as the whole number that it is.
    pub fn whole(&self, sum: &str) -> String {
        match self {
            Self::Sqlite(_) => format!("CAST({sum} AS INTEGER)"),
            Self::Mariadb(_) => format!("CAST({sum} AS UNSIGNED)"),
        }
    }

    /// From now on, rows with the endpoint `poison` are refused.
    pub fn poison(&self) {
        self.sql(match self {
            Self::Sqlite(_) => {
                "CREATE TRIGGER poison BEFORE INSERT ON api_logs WHEN NEW.endpoint = 'poison'
                 BEGIN SELECT RAISE(ABORT, 'poison'); END"
            }
            Self::Mariadb(_) => "ALTER TABLE api_logs ADD CONSTRAINT poison CHECK (endpoint <> 'poison')",
        });
    }

    /// The figures of the tables' sizes are those of now.
    pub fn settle(&self) {
        if let Self::Mariadb(database) = self {
            database.sql("ANALYZE TABLE api_logs, api_usage_minute, log_batches");
        }
    }

    /// The tables of the first version, with one run and three requests.
    pub fn make_old_tables(&self) {
        let (schema, id) = match self {
            Self::Sqlite(_) => (include_str!("../../conf/sql/sqlite/0001_request_log.sql"), "x'00'"),
            Self::Mariadb(_) => {
                (include_str!("../../conf/sql/mysql/0001_request_log.sql"), "UNHEX('00112233445566778899aabbccddeeff')")
            }
        };
        let rows = [3, 4, 5].map(|sequence| {
            format!("('2026-01-01 00:00:00.{sequence}00000', '/a', 'GET', 200, 1.5, 0, 1, {sequence}, {id}, '/', 'HTTP/1.1', 0, 'upstream', 0, 0, 1)")
        });
        let fill = format!(
            "INSERT INTO log_runs (run_id, node, version, started_at, beat_at)
             VALUES ({id}, 'old', '0', '2026-01-01 00:00:00', '2026-01-01 00:00:00');
             INSERT INTO api_logs (`timestamp`, endpoint, http_method, status_code, response_time_ms, is_error, run, sequence,
               request_id, path, protocol, attempts, decided_by, bytes_in, bytes_out, generation) VALUES {}",
            rows.join(",")
        );
        match self {
            Self::Sqlite(folder) => {
                let connection = rusqlite::Connection::open(folder.path().join("log.db")).unwrap();
                connection.execute_batch(schema).unwrap();
                connection.execute_batch(&fill).unwrap();
            }
            Self::Mariadb(database) => {
                database.sql(schema);
                database.sql(&fill);
            }
        }
    }

    /// `hours_until` and `days_until` of a run.
    pub fn packed_until(&self, node: &str) -> (String, String) {
        let row = self.sql(&format!("SELECT hours_until, days_until FROM log_runs WHERE node = '{node}'"));
        let (hours, days) = row.split_once('\t').unwrap();
        (hours.to_owned(), days.to_owned())
    }
}

/// A store with the calls of the writer, each waited for.
pub struct Opened {
    store: Store,
    runtime: tokio::runtime::Runtime,
    own: uuid::Uuid,
}

pub fn try_open(url: &StoreUrl, run: &Run) -> Result<Opened, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut store = Store::of(url, run.clone()).map_err(Failure::Denied)?.unwrap();
    runtime.block_on(store.open())?;
    Ok(Opened { store, runtime, own: run.id })
}

impl Opened {
    pub fn insert(&mut self, run: &Run, first: u64, records: &[Record]) -> Stored {
        self.try_insert(run, first, records).unwrap()
    }

    /// As the writer does: until it is stored.
    pub fn insert_until_stored(&mut self, run: &Run, first: u64, records: &[Record]) {
        let end = SystemTime::now() + Duration::from_secs(120);
        while let Err(failure) = self.try_insert(run, first, records) {
            assert!(SystemTime::now() < end, "{failure:?}");
        }
    }

    pub fn try_insert(&mut self, run: &Run, first: u64, records: &[Record]) -> Result<Stored, Failure> {
        self.insert_both(run, first, records, &[])
    }

    /// With requests whose records were dropped.
    pub fn insert_with(&mut self, run: &Run, first: u64, records: &[Record], dropped: &[Record]) -> Stored {
        self.insert_both(run, first, records, dropped).unwrap()
    }

    fn insert_both(
        &mut self,
        run: &Run,
        first: u64,
        records: &[Record],
        dropped: &[Record],
    ) -> Result<Stored, Failure> {
        let rows: Vec<Row<'_>> = records.iter().map(|record| Row::of(record, ClientIp::Full)).collect();
        let dropped: Vec<Row<'_>> = dropped.iter().map(|record| Row::of(record, ClientIp::Full)).collect();
        let mut increments = Increments::default();
        dropped.iter().for_each(|row| increments.add(row));
        let mut unrecorded = Increments::default();
        for ((minute, series), tally) in increments.tallies {
            unrecorded.tallies.insert((minute, series.map(str::to_owned)), tally);
        }
        let last = first + records.len() as u64 - 1;
        let totals = Totals { accepted: last, written: last.min(records.len() as u64), last, ..Totals::default() };
        let totals = if run.id == self.own { totals } else { Totals::default() };
        let batch = Batch { run, first, rows: &rows, unrecorded: &unrecorded };
        self.runtime.block_on(self.store.insert(&batch, &Beat { totals, drops: vec![], has_ended: false }))
    }

    pub fn beat(&mut self, beat: &Beat) {
        self.runtime.block_on(self.store.beat(beat)).unwrap();
    }

    pub fn close(&mut self, beat: &Beat) {
        self.close_with(beat, &Increments::default());
    }

    /// With what the usage counts of records that were dropped at last.
    pub fn close_with(&mut self, beat: &Beat, unrecorded: &Increments<String>) {
        self.runtime.block_on(self.store.close(beat, unrecorded)).unwrap();
    }

    pub fn close_killed(&mut self, run: &Run, last_known: &Beat) {
        self.runtime.block_on(self.store.close_killed(run, last_known)).unwrap();
    }

    /// What the store keeps, as upkeep has seen it.
    pub fn kept(&self) -> Arc<Kept> {
        self.store.kept().unwrap()
    }

    /// One step of upkeep.
    pub fn step(&mut self, keep: &Retention) -> bool {
        self.runtime.block_on(self.store.upkeep(keep)).unwrap()
    }

    /// The same, which may fail.
    pub fn try_step(&mut self, keep: &Retention) -> Result<bool, Failure> {
        self.runtime.block_on(self.store.upkeep(keep))
    }

    /// Upkeep until nothing is left to do.
    pub fn keep_up(&mut self, keep: &Retention) {
        let end = SystemTime::now() + Duration::from_secs(60);
        loop {
            assert!(SystemTime::now() < end, "upkeep has no end");
            match self.runtime.block_on(self.store.upkeep(keep)) {
                Ok(true) | Err(Failure::Away(_)) => {}
                Ok(false) => return,
                Err(failure) => panic!("{failure:?}"),
            }
        }
    }
}

pub fn run_of(node: &str, started: SystemTime) -> Run {
    Run { id: uuid::Uuid::now_v7(), node: node.to_owned(), version: "0".to_owned(), started }
}

/// So many seconds ago.
pub fn ago(seconds: u64) -> SystemTime {
    SystemTime::now() - Duration::from_secs(seconds)
}

/// As the stores write it.
pub fn clock(time: SystemTime) -> String {
    Moment::of(time).to_string()
}

pub fn record(endpoint: &str, started: SystemTime) -> Record {
    Record {
        started,
        duration: Duration::from_micros(12_345),
        endpoint: endpoint.into(),
        method: http::Method::GET,
        status: 200,
        request_id: uuid::Uuid::now_v7(),
        client_request_id: None,
        host: Some("api.example".into()),
        path: "/api/user_service/users".into(),
        protocol: "HTTP/1.1",
        consumer: Some("acme".into()),
        key: Some("acme-2026".into()),
        client_ip: [192, 0, 2, 77].into(),
        service: Some("user_service".into()),
        instance: Some("127.0.0.1:9101".into()),
        attempts: 1,
        retries: Default::default(),
        upstream_time: Some(Duration::from_micros(11_000)),
        timeout: None,
        cache: None,
        decided_by: "upstream",
        blocked: false,
        limit_name: None,
        observed: None,
        bytes_in: 3,
        bytes_out: 512,
        user_agent: Some("test/1 \u{1f600}".into()),
        generation: 1,
    }
}

/// One of many different records; the same number is the same record, up to its id.
pub fn varied(number: u64, started: SystemTime) -> Record {
    let number = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
    let pick = |shift: u32, count: u64| (number >> shift) % count;
    Record {
        duration: Duration::from_micros(1 + (number % 1_000_003)),
        endpoint: ["/a/*", "/b/*", "(none)"][pick(3, 3) as usize].into(),
        status: [200, 200, 404, 503][pick(7, 4) as usize],
        consumer: [None, Some("acme".into())][pick(11, 2) as usize].clone(),
        key: None,
        instance: [None, Some("one".into()), Some("two".into())][pick(13, 3) as usize].clone(),
        upstream_time: [None, Some(Duration::from_micros(number % 10_007))][pick(17, 2) as usize],
        timeout: None,
        decided_by: ["upstream", "cache"][pick(19, 2) as usize],
        blocked: pick(23, 5) == 0,
        bytes_in: pick(5, 1_000),
        bytes_out: pick(9, 100_000),
        ..record("/", started - Duration::from_secs(pick(2, 240)))
    }
}

pub type Usage = BTreeMap<Series<String>, Tally>;

/// What the minutes say, by series.
pub fn minutes(place: &Place, condition: &str) -> Usage {
    let rows = place.sql(&format!(
        "SELECT endpoint, method, status, decided_by, consumer, `key`, service, instance, `count`, errors, blocked, bytes_in,
           bytes_out, duration_us, upstream_us, HEX(histogram) FROM api_usage_minute WHERE {condition}"
    ));
    let mut usage = Usage::new();
    for row in rows.lines() {
        let cells: Vec<&str> = row.split('\t').collect();
        let optional = |place: usize| Some(cells[place].to_owned()).filter(|text| text != "NULL");
        let number = |place: usize| cells[place].parse::<u64>().unwrap();
        let series = Series {
            endpoint: cells[0].to_owned(),
            method: cells[1].to_owned(),
            status: cells[2].parse().unwrap(),
            decided_by: cells[3].to_owned(),
            consumer: optional(4),
            key: optional(5),
            service: optional(6),
            instance: optional(7),
        };
        let mut histogram = Histogram::default();
        histogram.merge_encoded(&bytes(cells[15])).unwrap();
        let tally = Tally {
            count: number(8),
            errors: number(9),
            blocked: number(10),
            bytes_in: number(11),
            bytes_out: number(12),
            duration: number(13),
            upstream: number(14),
            histogram,
        };
        usage.entry(series).or_default().merge(&tally);
    }
    usage
}

/// What the packed hours (`hour`) or days (`day`) say, by series.
pub fn packed(place: &Place, level: &str) -> Usage {
    let mut usage = Usage::new();
    for value in place.sql(&format!("SELECT HEX(packed) FROM api_usage_{level}")).lines() {
        let value = bytes(value);
        let packed = Packed::read(&value).unwrap();
        let texts = packed.texts.clone();
        for entry in packed {
            let entry = entry.unwrap();
            usage.entry(entry.series(&texts).map(str::to_owned)).or_default().merge(&entry.tally().unwrap());
        }
    }
    usage
}

/// What a reader gets of the packed hours and days when it reads these values: everything by time.
pub fn packed_by_time(place: &Place, reading: &Reading) -> [BTreeMap<Minute, Tally>; 2] {
    let mut reader = Reader::open(&place.url(), Duration::from_secs(60)).unwrap();
    let window = Minute(0)..Minute(Minute::DAY * 365 * 1_000);
    let [mut hours, mut days] = [BTreeMap::new(), BTreeMap::new()];
    fn add(level: &mut BTreeMap<Minute, Tally>, begin: Minute, bytes: &[u8]) -> Result<(), Unreadable> {
        for entry in Packed::read(bytes)? {
            level.entry(begin).or_default().merge(&entry?.tally()?);
        }
        Ok(())
    }
    let every = Hours { window: window.clone(), but_days: Minute(0)..Minute(0) };
    reader.hours(&every, reading, &mut |begin, bytes| add(&mut hours, begin, bytes)).unwrap();
    reader.days(window, reading, &mut |begin, bytes| add(&mut days, begin, bytes)).unwrap();
    [hours, days]
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|place| u8::from_str_radix(&hex[2 * place..2 * place + 2], 16).unwrap()).collect()
}

/// How many requests a histogram holds.
pub fn histogram_count(tally: &Tally) -> u64 {
    // Pairs of LEB128: buckets that are skipped, and a count.
    let mut encoded = Vec::new();
    tally.histogram.encode(&mut encoded);
    let (mut numbers, mut number, mut shift) = (Vec::new(), 0_u64, 0);
    for byte in encoded {
        number |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            numbers.push(number);
            (number, shift) = (0, 0);
        }
    }
    numbers.chunks(2).map(|pair| pair[1]).sum()
}
