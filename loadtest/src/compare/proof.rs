//! Checks before a measurement, with requests by hand: that a contender really does what its setup says.
//! A benchmark that could be won by failing is none. What the load itself brought back is checked in `measure.rs`.

use std::collections::BTreeMap;
use std::io;

use crate::compare::bench::{Bench, Running, Started};
use crate::contender::{Contender, ROUTES, Setup};
use crate::http::{Answer, parse};
use crate::job::{ITEMS_PATH, NOWHERE_PATH};
use crate::lines::Lines;
use crate::upstream::{LARGE_ITEM_PATH, LARGE_PATH, MEDIUM_ITEM_PATH, WATCH_PATH, WATCHED_PATH, body, body_of};

const KEY: &str = "X-API-Key";
const ID: &str = "x-request-id";

/// What one proof sees: the contender, and how often it was asked with which status.
struct Proof<'a> {
    bench: &'a Bench,
    running: &'a Running,
    /// Statuses that were answered, each of which leaves a line.
    statuses: BTreeMap<u16, u64>,
}

/// Fails with what was expected and what was seen.
pub fn prove(bench: &Bench, running: &Running, contender: &dyn Contender) -> io::Result<()> {
    let mut proof = Proof { bench, running, statuses: BTreeMap::new() };
    if matches!(running.setup, Setup::Plain | Setup::Tls) {
        return proof.plain(contender);
    }
    // What was asked until the contender was ready may still be written.
    let id = running.get("/", &[])?.header(ID).to_owned();
    Lines::of(running.lines.clone()).settle_at(&id)?;
    let mut lines = Lines::empty(running.lines.clone())?;
    match running.setup {
        Setup::Plain | Setup::Tls => {}
        Setup::Gateway => proof.gateway()?,
        Setup::Cache => proof.cache()?,
        Setup::Limited => proof.limited()?,
        Setup::Routes => proof.routes()?,
        Setup::Keys => proof.keys()?,
        Setup::Addresses => proof.addresses()?,
        Setup::LimitedAddresses => proof.limited_addresses()?,
    }
    lines.settle(proof.statuses.values().sum())?;
    match lines.bad {
        Some(bad) => fail("JSON lines with the fields agreed on", &bad),
        None if lines.by_status != proof.statuses => fail(
            &format!("a JSON line for each answer, by status {:?}", proof.statuses),
            &format!("{:?}", lines.by_status),
        ),
        None => Ok(()),
    }
}

/// That the limit which the load never reaches is counted: with a lower one, the second request is refused.
pub fn prove_limit(bench: &Bench, contender: &dyn Contender, setup: Setup) -> io::Result<()> {
    match bench.run(contender, setup)? {
        Started::Running(running) => prove(bench, &running, contender)
            .map_err(|error| io::Error::other(format!("with a limit of one request a minute: {error}"))),
        Started::CanNot(why) => fail("a limit per client address", why),
    }
}

fn fail<T>(expected: &str, seen: &str) -> io::Result<T> {
    Err(io::Error::other(format!("expected {expected}; seen: {seen}")))
}

impl Proof<'_> {
    /// Asks, and expects a status.
    fn ask(&mut self, path: &str, headers: &[(&str, &str)], status: u16) -> io::Result<Answer> {
        let answer = self.running.get(path, headers)?;
        *self.statuses.entry(answer.status).or_default() += 1;
        if answer.status != status {
            return fail(&format!("{status} for GET {path} with {headers:?}"), &answer.brief());
        }
        let is_plain = matches!(self.running.setup, Setup::Plain | Setup::Tls);
        if !is_plain && answer.header(ID).is_empty() {
            return fail(&format!("{ID} in the answer to GET {path} with {headers:?}"), &answer.brief());
        }
        if status == 200 && answer.body != body_of(path) {
            return fail(&format!("the upstream's body for GET {path}"), &answer.brief());
        }
        Ok(answer)
    }

    /// Asks for what is forwarded, and returns the answer and what the upstream saw (its headers, and the path as `:path`).
    fn ask_watched(&mut self, path: &str, headers: &[(&str, &str)]) -> io::Result<(Answer, BTreeMap<String, String>)> {
        self.bench.upstream.get(WATCH_PATH, &[])?;
        let answer = self.ask(path, headers, 200)?;
        let head = self.bench.upstream.get(WATCHED_PATH, &[])?.text();
        // As if it were an answer: only the headers are of interest.
        let (first, rest) = head.split_once("\r\n").unwrap_or((&head, ""));
        let seen = parse(format!("HTTP/1.1 200 OK\r\n{rest}\r\n\r\n").as_bytes(), true).map(|seen| seen.headers);
        let mut seen = seen.filter(|_| !head.is_empty()).ok_or_else(|| {
            io::Error::other(format!("expected GET {path} to reach the upstream; seen there: {head:?}"))
        })?;
        seen.insert(":path".to_owned(), first.split(' ').nth(1).unwrap_or_default().to_owned());
        Ok((answer, seen))
    }

    fn key(&self) -> (&'static str, String) {
        (KEY, self.bench.key().to_owned())
    }

    fn plain(&mut self, contender: &dyn Contender) -> io::Result<()> {
        let (answer, _) = self.ask_watched(ITEMS_PATH, &[])?;
        self.ask_watched("/any/other", &[])?;
        self.ask(LARGE_PATH, &[], 200)?;
        if self.running.setup == Setup::Tls && answer.tls.as_deref() != Some("TLSv1_3") {
            return fail("TLS 1.3", &format!("{:?}", answer.tls));
        }
        if contender.name() == crate::contenders::BARE_DRESSED && answer.header(ID).is_empty() {
            return fail("a request id", &answer.brief());
        }
        Ok(())
    }

    /// Keys, routes, request ids, forwarded headers: what all setups but the plain ones share.
    fn gateway(&mut self) -> io::Result<()> {
        let (name, key) = self.key();
        self.ask(ITEMS_PATH, &[], 401)?;
        self.ask(ITEMS_PATH, &[(name, "loadtest-wrong-key")], 401)?;
        self.ask(NOWHERE_PATH, &[(name, &key)], 404)?;
        let (first, seen) = self.ask_watched(ITEMS_PATH, &[(name, &key)])?;
        let second = self.ask(ITEMS_PATH, &[(name, &key)], 200)?;
        let id = first.header(ID);
        if id.len() < 8 || id == second.header(ID) {
            return fail("a request id of its own in each answer", &format!("{id:?} and {:?}", second.header(ID)));
        }
        let host = self.running.program.address.to_string();
        for (name, wanted) in
            [(ID, id), ("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "http"), ("x-forwarded-host", &host)]
        {
            let value = seen.get(name).map_or("", String::as_str);
            // With or without the port.
            if value.is_empty() || !(value == wanted || (name == "x-forwarded-host" && wanted.starts_with(value))) {
                return fail(&format!("{name}: {wanted} at the upstream"), &format!("{seen:?}"));
            }
        }
        self.line(id, ITEMS_PATH, "127.0.0.1")
    }

    /// The line of an answer says what was asked, by whom, and what was answered.
    fn line(&self, id: &str, path: &str, client: &str) -> io::Result<()> {
        let mut lines = Lines::of(self.running.lines.clone());
        lines.settle(self.statuses.values().sum())?;
        let line = lines.with_id(id)?;
        let Some(line) = line else { return fail(&format!("a line with the request id {id}"), &lines.last) };
        let is_right = line["status_code"] == 200
            && line["path"] == path
            && line["client_ip"] == client
            && line["http_method"] == "GET"
            && line["host"].as_str().is_some_and(|host| host.starts_with("127.0.0.1"))
            && line["bytes_out"].as_u64().is_some_and(|bytes| bytes >= body().len() as u64);
        if is_right { Ok(()) } else { fail(&format!("a line for GET {path} by {client}, 200"), &line.to_string()) }
    }

    fn cache(&mut self) -> io::Result<()> {
        let (name, key) = self.key();
        self.ask(ITEMS_PATH, &[], 401)?;
        let before = self.bench.asked()?;
        let mut ids = Vec::new();
        for _ in 0..4 {
            ids.push(self.ask(ITEMS_PATH, &[(name, &key)], 200)?.header(ID).to_owned());
        }
        let asked = self.bench.asked()? - before;
        if asked > 1 {
            return fail("one request at the upstream for four answers", &format!("{asked}"));
        }
        ids.sort_unstable();
        ids.dedup();
        if ids.len() != 4 || ids.iter().any(String::is_empty) {
            return fail("a request id of its own in each answer from the cache", &format!("{ids:?}"));
        }
        for path in [MEDIUM_ITEM_PATH, LARGE_ITEM_PATH] {
            self.ask(path, &[(name, &key)], 200)?;
        }
        // A stored answer must not open the door.
        self.ask(ITEMS_PATH, &[], 401)?;
        self.ask(ITEMS_PATH, &[(name, "loadtest-wrong-key")], 401)?;
        self.ask(NOWHERE_PATH, &[(name, &key)], 404).map(drop)
    }

    fn limited(&mut self) -> io::Result<()> {
        let (name, key) = self.key();
        self.ask(ITEMS_PATH, &[], 401)?;
        self.ask(ITEMS_PATH, &[(name, &key)], 200)?;
        self.ask(ITEMS_PATH, &[(name, &key)], 429)?;
        self.ask(ITEMS_PATH, &[(name, &key)], 429).map(drop)
    }

    fn routes(&mut self) -> io::Result<()> {
        self.gateway()?;
        let (name, key) = self.key();
        for number in [0, 1, 17, 4_999, ROUTES - 2] {
            for path in [format!("/r/{number}"), format!("/r/{number}/items")] {
                let (_, seen) = self.ask_watched(&path, &[(name, &key)])?;
                if seen[":path"] != path {
                    return fail(&format!("the path {path} at the upstream"), &seen[":path"]);
                }
            }
        }
        self.ask("/items/1", &[(name, &key)], 200)?;
        self.ask(&format!("/r/{}", ROUTES - 2), &[], 401)?;
        for path in [format!("/r/{}", ROUTES - 1), "/r/x".to_owned(), "/r/17x".to_owned()] {
            self.ask(&path, &[(name, &key)], 404)?;
        }
        Ok(())
    }

    fn keys(&mut self) -> io::Result<()> {
        self.gateway()?;
        let bench = self.bench;
        let last = bench.keys.len() - 1;
        for number in [1, 2, last / 2, last - 1, last] {
            let key = bench.keys[number].as_str();
            self.ask(ITEMS_PATH, &[(KEY, key)], 200)?;
            let other = if key.ends_with('0') { '1' } else { '0' };
            let near = format!("{}{other}", &key[..key.len() - 1]);
            for wrong in [near.as_str(), &key[..key.len() - 1], &format!("{key}0"), ""] {
                if !bench.keys.iter().any(|key| key == wrong) {
                    self.ask(ITEMS_PATH, &[(KEY, wrong)], 401)?;
                }
            }
        }
        Ok(())
    }

    fn addresses(&mut self) -> io::Result<()> {
        let (name, key) = self.key();
        self.ask(ITEMS_PATH, &[], 401)?;
        for client in ["10.0.0.0", "10.15.66.63"] {
            let (answer, seen) = self.ask_watched(ITEMS_PATH, &[(name, &key), ("X-Forwarded-For", client)])?;
            if !seen.get("x-forwarded-for").is_some_and(|value| value.contains(client)) {
                return fail(&format!("{client} in x-forwarded-for at the upstream"), &format!("{seen:?}"));
            }
            self.line(answer.header(ID), ITEMS_PATH, client)?;
        }
        Ok(())
    }

    fn limited_addresses(&mut self) -> io::Result<()> {
        let (name, key) = self.key();
        for (client, status) in
            [("10.0.0.1", 200), ("10.0.0.1", 429), ("10.0.0.2", 200), ("10.0.0.2", 429), ("10.0.0.1", 429)]
        {
            self.ask(ITEMS_PATH, &[(name, &key), ("X-Forwarded-For", client)], status)?;
        }
        Ok(())
    }
}
