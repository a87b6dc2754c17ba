//! What the gateway holds: idle, per idle connection, per route, per key, per client address that a limit counts; and what crowds leave
//! behind that it must not hold: addresses made up by a client that is not trusted, and keys that nobody has.
//! Each figure is a fresh gateway's; what it is divided by was counted, or shown to be there, by the gateway itself.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum, value_parser};
use rustls::ClientConfig;
use serde_json::{Value, json};

use super::crowd::{ADDRESSES_MAX, Crowd, forwarded_for};
use super::gateway::Gateway;
use super::idle::{Idle, check_open_files};
use super::resident::Resident;
use super::{configs, folder, grouped, program, start_upstream};
use crate::certificate::Certificate;
use crate::stop::Folder;

#[derive(Args)]
pub struct Memory {
    /// The program to measure, built with `cargo build --release -p tollgate`.
    #[arg(long, default_value = "target/release/tollgate")]
    tollgate: PathBuf,
    /// Only these; the idle gateway is always measured, because the others are compared with it.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Idle connections, plain and with TLS.
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(100..=60_000))]
    connections: u32,
    /// Routes of the gateway with many.
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(10..=100_000))]
    routes: u32,
    /// Keys of the gateway with many.
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u32).range(10..=150_000))]
    keys: u32,
    /// Clients that ask once each, counted by a limit per address.
    #[arg(long, default_value_t = 1_000_000, value_parser = value_parser!(u64).range(1_000..=ADDRESSES_MAX))]
    addresses: u64,
    /// Requests with addresses that a client makes up, and with keys that nobody has.
    #[arg(long, default_value_t = 1_000_000, value_parser = value_parser!(u64).range(1_000..=ADDRESSES_MAX))]
    crowd: u64,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Connections,
    Tls,
    Routes,
    Keys,
    Addresses,
    MadeUp,
    UnknownKeys,
}

const PARTS: [Part; 7] =
    [Part::Connections, Part::Tls, Part::Routes, Part::Keys, Part::Addresses, Part::MadeUp, Part::UnknownKeys];

/// Connections with one request each, before and after what is measured.
const WARM_UP: u32 = 100;

/// Requests before what a crowd leaves behind is measured.
const WARM_CROWD: u64 = 20_000;

/// One line of the table.
struct Row {
    what: String,
    memory: Resident,
    /// What it is compared with.
    before: Resident,
    /// How many of what makes the difference; none where there is nothing to divide by.
    count: Option<(u64, &'static str)>,
}

/// Where the gateways run.
struct Bench {
    tollgate: PathBuf,
    folder: Folder,
    upstream: SocketAddr,
}

pub fn run(options: &Memory) -> Result<ExitCode, Box<dyn Error>> {
    let tollgate = program(&options.tollgate)?;
    let is_asked = |part: &Part| options.only.is_empty() || options.only.contains(part);
    if is_asked(&Part::Connections) || is_asked(&Part::Tls) {
        check_open_files(options.connections)?;
    }
    let folder = folder()?;
    let upstream = start_upstream(folder.path())?;
    let bench = Bench { tollgate, folder, upstream: upstream.address };

    eprintln!("idle");
    let idle = bench.start(None, &configs::plain())?.settled()?;
    let mut rows = vec![Row { what: "idle, 3 routes".into(), memory: idle, before: idle, count: None }];
    for part in PARTS.iter().filter(|part| is_asked(part)) {
        eprintln!("{}", part.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned()));
        let measured = match part {
            Part::Connections => bench.connections(options.connections, None)?,
            Part::Tls => bench.connections(options.connections, Some(&Certificate::make(bench.folder.path())?))?,
            Part::Routes => bench.routes(options.routes, idle)?,
            Part::Keys => bench.keys(options.keys, idle)?,
            Part::Addresses => bench.addresses(options.addresses)?,
            Part::MadeUp => bench.made_up(options.crowd)?,
            Part::UnknownKeys => bench.unknown_keys(options.crowd)?,
        };
        measured.iter().for_each(|row| eprintln!("{}", line(row)));
        rows.extend(measured);
    }
    if options.json {
        println!("{:#}", to_json(&rows));
    } else {
        println!("{}", table(&rows));
    }
    Ok(ExitCode::SUCCESS)
}

impl Bench {
    fn start(&self, tls: Option<&str>, config: &str) -> Result<Gateway, Box<dyn Error>> {
        Gateway::start("tollgate", &self.tollgate, self.folder.path(), self.upstream, tls, config)
    }

    /// Idle connections; what is left of them when they are closed; and whether the same again needs more.
    fn connections(&self, count: u32, tls: Option<&Certificate>) -> Result<Vec<Row>, Box<dyn Error>> {
        let gateway = self.start(tls.map(entry).as_deref(), &configs::plain())?;
        let client: Option<&Arc<ClientConfig>> = tls.map(|tls| &tls.client);
        // What is allocated once, at the first requests, belongs to no connection.
        drop(Idle::open(gateway.address(), WARM_UP, client)?);
        let before = gateway.settled()?;
        let kind = if tls.is_some() { "TLS 1.3" } else { "plain" };
        let mut rows = Vec::new();
        for again in ["", ", once more"] {
            let mut open = Idle::open(gateway.address(), count, client)?;
            let memory = gateway.settled()?;
            let counted = open_connections(&gateway, u64::from(count))?;
            open.ask_again()?;
            let what = format!("{} idle connections, {kind}{again}", grouped(counted));
            rows.push(Row { what, memory, before, count: Some((counted, "connection")) });
            drop(open);
            // The allocator gives memory back while it works, not while nothing happens.
            drop(Idle::open(gateway.address(), WARM_UP, client)?);
            let memory = gateway.settled()?;
            open_connections(&gateway, 0)?;
            rows.push(Row { what: "  after they were closed".into(), memory, before, count: None });
        }
        Ok(rows)
    }

    fn routes(&self, count: u32, before: Resident) -> Result<Vec<Row>, Box<dyn Error>> {
        let gateway = self.start(None, &configs::routes(count as usize))?;
        gateway.expect(&format!("/r/{}/x", count - 1), "", 200)?;
        gateway.expect(&format!("/r/{count}/x"), "", 404)?;
        configured(&gateway, count, "route", before, || configs::routes(count as usize + 1))
    }

    fn keys(&self, count: u32, before: Resident) -> Result<Vec<Row>, Box<dyn Error>> {
        let gateway = self.start(None, &configs::keys(count as usize))?;
        let line = |number: u32| format!("{}: {}\r\n", configs::KEY_HEADER, configs::key(number as usize));
        gateway.expect(configs::PATH, &line(count - 1), 200)?;
        gateway.expect(configs::PATH, &line(count), 401)?;
        configured(&gateway, count, "key", before, || configs::keys(count as usize + 1))
    }

    /// Many clients, each counted by a limit.
    fn addresses(&self, count: u64) -> Result<Vec<Row>, Box<dyn Error>> {
        let gateway = self.start(None, &configs::addresses())?;
        drop(Idle::open(gateway.address(), WARM_UP, None)?);
        let before = gateway.settled()?;
        Crowd { count, line: &forwarded_for, statuses: &[200] }.ask(gateway.address())?;
        let memory = gateway.settled()?;
        let scrape = gateway.scrape()?;
        let entries = scrape.sum("tollgate_limit_entries", "")?;
        let overflowed = scrape.sum("tollgate_limit_overflow_total", "")?;
        // The idle connections came from one more address, 127.0.0.2, which is trusted and so counted as itself.
        if entries + overflowed != count + 1 {
            return Err(format!("{count} addresses asked: {entries} are counted, {overflowed} met a full table").into());
        }
        let warned = gateway.said()?.matches("newcomers are counted together").count();
        if (warned > 0) != (overflowed > 0) {
            return Err(format!("{overflowed} requests met a full table, and there are {warned} warnings of it").into());
        }
        let what = format!("{} client addresses, {} counted apart", grouped(count), grouped(entries));
        Ok(vec![Row { what, memory, before, count: Some((entries, "address")) }])
    }

    /// Many addresses that a client claims who is not trusted: one client, whatever it says.
    fn made_up(&self, count: u64) -> Result<Vec<Row>, Box<dyn Error>> {
        let gateway = self.start(None, &configs::made_up_addresses())?;
        let ask = |count| Crowd { count, line: &forwarded_for, statuses: &[200, 429] }.ask(gateway.address());
        let mut admitted = ask(WARM_CROWD)?.get(&200).copied().unwrap_or_default();
        let before = gateway.settled()?;
        let cpu = gateway.cpu()?;
        admitted += ask(count)?.get(&200).copied().unwrap_or_default();
        let each = gateway.cpu()?.saturating_sub(cpu).as_micros() as f64 / count as f64;
        let (memory, entries) = (gateway.settled()?, gateway.scrape()?.sum("tollgate_limit_entries", "")?);
        if (admitted, entries) != (configs::MADE_UP_LIMIT, 1) {
            return Err(format!("one client counts as {entries}, and {admitted} of its requests were admitted").into());
        }
        let what = format!("{} made up addresses, one client: {each:.1} us CPU each", grouped(count));
        Ok(vec![Row { what, memory, before, count: Some((count, "request")) }])
    }

    /// Many keys that nobody has, each another one.
    fn unknown_keys(&self, count: u64) -> Result<Vec<Row>, Box<dyn Error>> {
        let gateway = self.start(None, &configs::keys(1))?;
        let line =
            |number: u64| format!("{}: tg_{:049}", configs::KEY_HEADER, number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let ask = |count| Crowd { count, line: &line, statuses: &[401] }.ask(gateway.address());
        ask(WARM_CROWD)?;
        let before = gateway.settled()?;
        let cpu = gateway.cpu()?;
        ask(count)?;
        let each = gateway.cpu()?.saturating_sub(cpu).as_micros() as f64 / count as f64;
        let memory = gateway.settled()?;
        let unknown = gateway.scrape()?.sum("tollgate_auth_results_total", "result=\"unknown_key\"")?;
        if unknown != count + WARM_CROWD {
            return Err(format!("{count} unknown keys, and the gateway counted {unknown}").into());
        }
        let what = format!("{} unknown keys: {each:.1} us CPU each", grouped(count));
        Ok(vec![Row { what, memory, before, count: Some((count, "request")) }])
    }
}

/// A gateway whose configuration has many of one thing, before and after it was reloaded with one more.
fn configured(
    gateway: &Gateway,
    count: u32,
    of: &'static str,
    before: Resident,
    next: impl Fn() -> String,
) -> Result<Vec<Row>, Box<dyn Error>> {
    let (memory, count) = (gateway.settled()?, u64::from(count));
    gateway.reload(&next())?;
    Ok(vec![
        Row { what: format!("{} {of}s", grouped(count)), memory, before, count: Some((count, of)) },
        Row { what: "  after a reload with one more".into(), memory: gateway.settled()?, before, count: None },
    ])
}

/// The entry of `listen[].tls`.
fn entry(certificate: &Certificate) -> String {
    format!("{{cert: {}, key: {}}}", certificate.chain.display(), certificate.key.display())
}

/// Fails unless the gateway holds so many connections.
fn open_connections(gateway: &Gateway, wanted: u64) -> Result<u64, Box<dyn Error>> {
    let counted = gateway.scrape()?.sum("tollgate_connections_open", "")?;
    if counted == wanted {
        Ok(counted)
    } else {
        Err(format!("{wanted} connections are open, and the gateway holds {counted}").into())
    }
}

impl Row {
    fn over(&self) -> i64 {
        self.memory.resident as i64 - self.before.resident as i64
    }

    fn each(&self) -> Option<f64> {
        self.count.map(|(count, _)| self.over() as f64 / count as f64)
    }
}

fn table(rows: &[Row]) -> String {
    let mut lines = vec![
        "Resident memory of the gateway in MiB, one worker; the kernel's memory for sockets is not in it".to_owned(),
        String::new(),
        format!("{:<52} {:>8} {:>10} {:>8} {:>9}  each", "", "resident", "anonymous", "peak", "over"),
    ];
    lines.extend(rows.iter().map(line));
    lines.join("\n")
}

fn line(row: &Row) -> String {
    let mib = |bytes: i64| bytes as f64 / f64::from(1 << 20);
    let each = row.each().zip(row.count).map(|(bytes, (_, of))| format!("{} per {of}", size(bytes)));
    format!(
        "{:<52} {:>8.1} {:>10.1} {:>8.1} {:>+9.1}  {}",
        row.what,
        mib(row.memory.resident as i64),
        mib(row.memory.anonymous as i64),
        mib(row.memory.peak as i64),
        mib(row.over()),
        each.unwrap_or_default()
    )
}

fn size(bytes: f64) -> String {
    if bytes.abs() < 1_024.0 { format!("{bytes:.0} bytes") } else { format!("{:.2} KiB", bytes / 1_024.0) }
}

fn to_json(rows: &[Row]) -> Value {
    let rows = rows.iter().map(|row| {
        json!({
            "what": row.what.trim(), "resident_bytes": row.memory.resident, "anonymous_bytes": row.memory.anonymous,
            "peak_bytes": row.memory.peak, "over_bytes": row.over(),
            "count": row.count.map(|(count, _)| count), "of": row.count.map(|(_, of)| of), "bytes_each": row.each(),
        })
    });
    json!({ "threads": 1, "memory": rows.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(resident_kib: u64, before_kib: u64, count: Option<(u64, &'static str)>) -> Row {
        let memory = |kib: u64| Resident { resident: kib << 10, ..Resident::default() };
        Row { what: "x".into(), memory: memory(resident_kib), before: memory(before_kib), count }
    }

    #[test]
    fn each_is_the_difference_divided_by_the_count() {
        assert_eq!(row(5_000, 1_000, Some((1_000, "route"))).each(), Some(4_096.0));
        assert_eq!(row(5_000, 1_000, None).each(), None);
    }

    #[test]
    fn memory_may_also_shrink() {
        assert_eq!(row(1_000, 1_001, None).over(), -1_024);
        assert!(table(&[row(1_024, 2_048, None)]).contains("-1.0"));
    }

    #[test]
    fn sizes_are_said_in_their_unit() {
        assert_eq!((size(312.4), size(4_300.0)), ("312 bytes".to_owned(), "4.20 KiB".to_owned()));
    }

    #[test]
    fn json_has_what_the_table_has() {
        let value = to_json(&[row(5_000, 1_000, Some((1_000, "route")))]);
        assert_eq!(value["memory"][0]["bytes_each"], 4_096.0);
        assert_eq!(value["memory"][0]["of"], "route");
    }
}
