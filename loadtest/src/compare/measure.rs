//! One measurement, and the checks on what it brought back: answers, statuses, requests at the upstream, lines.
//! What fails a check is no figure but an error that says what was seen.

use std::io;
use std::thread;
use std::time::Duration;

use crate::compare::bench::{Bench, Running};
use crate::http::Answer;
use crate::job::{Ask, Forwarded, ITEMS_PATH, Key, Kind, Pick};
use crate::lines::Lines;
use crate::load::{Load, closed, idle, open};
use crate::programs::Core;
use crate::report::{Idle, Sample, Settings};

/// What a limit of one request a minute lets through in a measurement, which is at most a minute long.
const FEW: u64 = 3;
/// At least this share of a fixed rate has to be reached.
const RATE_SHARE_MIN: f64 = 0.95;
/// Short enough for a contender's timers, long enough for buffers to be given back.
const IDLE_PAUSE: Duration = Duration::from_secs(2);
const WRONG_KEY: &str = "loadtest-wrong-key";
/// No fill of addresses runs longer at a time: its lines have to fit the disk.
const FILL_SECONDS_MAX: u32 = 10;

/// What came back, beside what the load generator says itself.
#[derive(Debug)]
struct Seen {
    load: Load,
    asked: u64,
    lines: Option<Lines>,
}

/// Measures `ask` for some seconds.
pub fn load(
    bench: &Bench,
    running: &Running,
    ask: &Ask,
    settings: &Settings,
    seconds: u32,
    seed: u32,
) -> io::Result<Sample> {
    if ask.pick == Pick::Addresses {
        fill(bench, running, ask, settings)?;
    }
    let mut lines = Lines::empty(running.lines.clone())?;
    let asked_before = bench.asked()?;
    let cpu_before = running.program.cpu()?;
    let key = key_value(bench, ask);
    let address = running.program.address;
    let connections = settings.connections;
    let load = match (ask.kind, &bench.oha) {
        (Kind::Open, Some(oha)) => {
            oha.run(&open::Run { address, path: path(ask), key, connections, seconds, rate: settings.rate })?
        }
        _ => {
            let is_tls = running.is_tls();
            bench.wrk.run(&closed::Run {
                core: Core::Load,
                address,
                is_tls,
                pick: ask.pick,
                key,
                connections,
                seconds,
                seed,
            })?
        }
    };
    // Lines first: writing them is part of the cost.
    if ask.is_logged {
        lines.settle(load.answers)?;
    }
    let asked = bench.asked()? - asked_before;
    let cpu = running.program.cpu()?.saturating_sub(cpu_before);
    let (memory_bytes, processes) = running.program.memory()?;
    let mut seen = Seen { load, asked, lines: ask.is_logged.then_some(lines) };
    check(ask, &seen, settings, seconds).map_err(|why| io::Error::other(format!("the work was not done: {why}")))?;
    let answer = running.get(path(ask), &headers(bench, ask))?;
    check_answer(ask, &answer)?;
    if let Some(lines) = &mut seen.lines {
        // The next measurement begins with an empty file, and nothing on its way.
        lines.settle_at(answer.header("x-request-id"))?;
    }
    let cpu_us = Some(cpu.as_secs_f64() * 1e6 / seen.load.answers as f64);
    Ok(Sample { cpu_us, memory_bytes, processes, ..Sample::of(&seen.load) })
}

/// The upstream itself at a fixed rate: what the others add is held against it.
pub fn direct(bench: &Bench, ask: &Ask, settings: &Settings, seconds: u32) -> io::Result<Sample> {
    let oha = bench.oha.as_ref().ok_or_else(|| io::Error::other("oha was not looked for"))?;
    let (address, connections, rate) = (bench.upstream.address, settings.connections, settings.rate);
    let asked_before = bench.asked()?;
    let load = oha.run(&open::Run { address, path: path(ask), key: None, connections, seconds, rate })?;
    let seen = Seen { asked: bench.asked()? - asked_before, load, lines: None };
    check(ask, &seen, settings, seconds).map_err(|why| io::Error::other(format!("the work was not done: {why}")))?;
    let (memory_bytes, processes) = bench.upstream.memory()?;
    Ok(Sample { memory_bytes, processes, ..Sample::of(&seen.load) })
}

/// Opens idle connections to a contender that has just been started.
pub fn idle(bench: &Bench, running: &Running, ask: &Ask, settings: &Settings) -> io::Result<Sample> {
    let address = running.program.address;
    let count = settings.idle_connections;
    // What is allocated once, for the first connections, is no cost of the others.
    drop(idle::Connections::open(address, path(ask), settings.connections)?);
    thread::sleep(IDLE_PAUSE);
    let asked_before = bench.asked()?;
    let (before_bytes, _) = running.program.memory()?;
    let connections = idle::Connections::open(address, path(ask), count)?;
    thread::sleep(IDLE_PAUSE);
    let (after_bytes, processes) = running.program.memory()?;
    let connections = connections.ask_again()?;
    let asked = bench.asked()? - asked_before;
    let answers = u64::from(connections.count()) * 2;
    if asked != answers {
        return Err(io::Error::other(format!(
            "the work was not done: {answers} answers, {asked} requests at the upstream"
        )));
    }
    let idle = Some(Idle { connections: connections.count(), before_bytes, after_bytes });
    Ok(Sample { answers, memory_bytes: after_bytes, processes, idle, ..Sample::default() })
}

/// Has every address ask once.
fn fill(bench: &Bench, running: &Running, ask: &Ask, settings: &Settings) -> io::Result<()> {
    let (mut at, mut seconds) = (0_u32, 1_u32);
    while at < settings.addresses {
        let ask = Ask { pick: Pick::AddressesInTurn(at), ..*ask };
        let sample = load(bench, running, &ask, settings, seconds, 0)?;
        at = at.saturating_add(u32::try_from(sample.answers).unwrap_or(u32::MAX));
        // As long as the rest takes at this speed.
        let rest = f64::from(settings.addresses.saturating_sub(at)) / sample.per_second.unwrap_or(1.0);
        seconds = (rest.ceil() as u32).clamp(1, FILL_SECONDS_MAX);
    }
    Ok(())
}

fn check(ask: &Ask, seen: &Seen, settings: &Settings, seconds: u32) -> Result<(), String> {
    let Load { answers, not_ok, ref errors, .. } = seen.load;
    let refused = if ask.status == 200 { 0 } else { answers };
    let few = if ask.forwarded == Forwarded::Few { FEW } else { 0 };
    // What is on its way when the load ends is served, but not counted by it.
    let all = answers..=answers + u64::from(settings.connections);
    if answers == 0 || seen.load.errors_count() > 0 {
        let took = seen.load.micros as f64 / 1e6;
        return Err(format!("{answers} answers in {took:.1} s, errors of the load: {errors:?}"));
    }
    if not_ok > refused || not_ok + few < refused {
        return Err(format!("{not_ok} of {answers} answers outside 200 to 399, all should be {}", ask.status));
    }
    let is_asked = match ask.forwarded {
        Forwarded::All => all.contains(&seen.asked),
        Forwarded::None => seen.asked == 0,
        Forwarded::Few => seen.asked <= FEW,
    };
    if !is_asked {
        return Err(format!(
            "{answers} answers, {} requests at the upstream, where {:?} should arrive",
            seen.asked, ask.forwarded
        ));
    }
    if ask.kind == Kind::Open && seen.load.per_second() < RATE_SHARE_MIN * f64::from(settings.rate) {
        let (reached, rate) = (seen.load.per_second(), settings.rate);
        return Err(format!(
            "{reached:.0} of {rate} requests a second for {seconds} s: the fixed rate was not reached"
        ));
    }
    let Some(lines) = &seen.lines else { return Ok(()) };
    let expected = lines.by_status.get(&ask.status).copied().unwrap_or_default();
    if let Some(bad) = &lines.bad {
        return Err(format!("a line is not as agreed: {bad}"));
    }
    // What the end of the load cut off has its line, too, with whatever status that has.
    if !all.contains(&lines.count) || expected + few < answers {
        return Err(format!(
            "{answers} answers, {} lines, by status {:?}, all should be {}",
            lines.count, lines.by_status, ask.status
        ));
    }
    Ok(())
}

/// By hand, after the load: the status that the load generator only counts as one of many.
fn check_answer(ask: &Ask, answer: &Answer) -> io::Result<()> {
    // A limit of one a minute may have let this one through.
    let is_few = ask.forwarded == Forwarded::Few && answer.status == 200;
    if answer.status == ask.status || is_few {
        return Ok(());
    }
    Err(io::Error::other(format!("after the load, expected {}, got {}", ask.status, answer.brief())))
}

fn path(ask: &Ask) -> &'static str {
    match ask.pick {
        Pick::Path(path) => path,
        _ => ITEMS_PATH,
    }
}

fn key_value<'a>(bench: &'a Bench, ask: &Ask) -> Option<&'a str> {
    match ask.key {
        Key::None => None,
        Key::Right => Some(bench.key()),
        Key::Wrong => Some(WRONG_KEY),
    }
}

fn headers<'a>(bench: &'a Bench, ask: &Ask) -> Vec<(&'static str, &'a str)> {
    key_value(bench, ask).map(|key| ("X-API-Key", key)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::job::row;

    fn settings() -> Settings {
        Settings { connections: 64, rate: 5_000, ..Settings::default() }
    }

    /// 1,000 answers in a second, with the work done as the row wants it.
    fn done(ask: &Ask) -> Seen {
        let not_ok = if ask.status == 200 { 0 } else { 1_000 };
        let (micros, p50_us, p99_us, p999_us) = (200_000, 1.0, 2.0, 3.0);
        let load = Load { answers: 1_000, micros, not_ok, errors: BTreeMap::new(), p50_us, p99_us, p999_us };
        let mut lines = Lines::of("/nonexistent".into());
        lines.count = 1_000;
        lines.by_status = BTreeMap::from([(ask.status, 1_000)]);
        let asked = if ask.forwarded == Forwarded::All { 1_010 } else { 0 };
        Seen { load, asked, lines: ask.is_logged.then_some(lines) }
    }

    #[track_caller]
    fn check_row(id: &str, change: impl Fn(&mut Seen), expected: Option<&str>) {
        let ask = row(id).unwrap().ask;
        let mut seen = done(&ask);
        change(&mut seen);
        let why = check(&ask, &seen, &settings(), 1).err();
        match expected {
            None => assert_eq!(why, None),
            Some(part) => assert!(why.as_deref().is_some_and(|why| why.contains(part)), "{why:?} lacks {part}"),
        }
    }

    #[test]
    fn work_that_is_done_counts() {
        for id in ["J1", "J2", "J3", "J4-401", "J4-404", "J4-429", "J5", "J6", "J8", "J9-keys"] {
            check_row(id, |_| {}, None);
        }
    }

    #[test]
    fn no_answer_does_not_count() {
        check_row("J1", |seen| seen.load.answers = 0, Some("0 answers in"));
    }

    #[test]
    fn failed_connections_do_not_count() {
        check_row("J1", |seen| seen.load.errors = BTreeMap::from([("read".into(), 1)]), Some("\"read\": 1"));
    }

    #[test]
    fn a_refusal_among_answers_does_not_count() {
        check_row("J2", |seen| seen.load.not_ok = 1, Some("1 of 1000 answers outside 200"));
    }

    #[test]
    fn an_answer_among_refusals_does_not_count() {
        check_row("J4-401", |seen| seen.load.not_ok = 999, Some("all should be 401"));
    }

    #[test]
    fn a_limit_may_let_a_few_through_and_no_more() {
        let pass = |count: u64| {
            move |seen: &mut Seen| {
                seen.load.not_ok -= count;
                seen.asked = count;
                let by_status = BTreeMap::from([(200, count), (429, 1_000 - count)]);
                seen.lines.as_mut().unwrap().by_status = by_status;
            }
        };
        check_row("J4-429", pass(FEW), None);
        check_row("J4-429", pass(FEW + 1), Some("all should be 429"));
    }

    #[test]
    fn answers_that_the_upstream_did_not_give_do_not_count() {
        check_row("J1", |seen| seen.asked = 999, Some("999 requests at the upstream"));
        check_row("J1", |seen| seen.asked = 1_065, Some("1065 requests at the upstream"));
    }

    #[test]
    fn a_cache_that_asks_the_upstream_does_not_count() {
        check_row("J3", |seen| seen.asked = 1, Some("1 requests at the upstream"));
    }

    #[test]
    fn a_missing_line_does_not_count() {
        check_row("J2", |seen| seen.lines.as_mut().unwrap().count = 999, Some("999 lines"));
    }

    #[test]
    fn a_line_with_another_status_does_not_count() {
        let wrong = BTreeMap::from([(200, 999), (502, 1)]);
        check_row("J2", |seen| seen.lines.as_mut().unwrap().by_status = wrong.clone(), Some("502: 1"));
    }

    #[test]
    fn what_the_end_of_the_load_cut_off_may_have_another_status() {
        let cut = |seen: &mut Seen| {
            let lines = seen.lines.as_mut().unwrap();
            lines.count = 1_064;
            lines.by_status = BTreeMap::from([(200, 1_000), (499, 64)]);
        };
        check_row("J2", cut, None);
    }

    #[test]
    fn a_bad_line_does_not_count() {
        check_row("J2", |seen| seen.lines.as_mut().unwrap().bad = Some("no path".into()), Some("no path"));
    }

    #[test]
    fn a_rate_that_is_not_reached_does_not_count() {
        check_row("J8", |seen| seen.load.micros = 250_000, Some("4000 of 5000 requests a second"));
    }
}
