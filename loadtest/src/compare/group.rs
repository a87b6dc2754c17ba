//! Rows that are measured together: their contenders run side by side, and take turns in each round.
//! What two rows ask in the same way is measured once a round. Ratios are taken within a round, because machines drift.

use std::io;
use std::thread;
use std::time::Duration;

use crate::compare::bench::{Bench, Running, Started};
use crate::compare::progress::Progress;
use crate::compare::{Entrant, Plan, measure, proof};
use crate::contender::Setup;
use crate::contenders::BARE_DRESSED;
use crate::job::{Ask, Forwarded, Kind, Pick, Row};
use crate::report::{Entry, Outcome, RowReport, Sample};

/// What a measurement takes beside its load, and what starting and proving takes, in seconds.
const AROUND: f64 = 1.0;
const START: f64 = 2.0;
const IDLE: f64 = 8.0;
/// Addresses that a contender may have asked in a second, for the estimate of time only.
const ADDRESSES_PER_SECOND: f64 = 15_000.0;
const WARM_UP_SECONDS: u32 = 1;

/// Beside the contenders: the upstream itself, asked at a fixed rate.
pub const DIRECT: &str = "direct";

/// One who asks in one way; several rows may show it.
struct Seat {
    /// Which entrant; none is the upstream itself.
    entrant: Option<usize>,
    ask: Ask,
    samples: Vec<Sample>,
    /// Why there are no samples.
    trouble: Option<Outcome>,
}

/// A contender in a setup that was started for this group.
struct Stall {
    entrant: usize,
    setup: Setup,
    state: Result<Running, Outcome>,
}

/// What all groups take, in seconds.
pub fn weight(plan: &Plan, entrants: usize) -> f64 {
    let settings = &plan.settings;
    let rounds = f64::from(settings.rounds);
    let row = |row: &&&Row| {
        let warm = f64::from(WARM_UP_SECONDS) + AROUND + START;
        (warm + rounds * round_weight(&row.ask, plan)) * entrants as f64
    };
    plan.groups.iter().flatten().collect::<Vec<_>>().iter().map(row).sum()
}

fn round_weight(ask: &Ask, plan: &Plan) -> f64 {
    let settings = &plan.settings;
    let load = f64::from(settings.seconds) + AROUND;
    match (ask.kind, ask.pick) {
        (Kind::Idle, _) => IDLE,
        (_, Pick::Addresses) => load + f64::from(settings.addresses) / ADDRESSES_PER_SECOND,
        _ => load,
    }
}

pub fn run(
    bench: &Bench,
    plan: &Plan,
    rows: &[&Row],
    entrants: &[Entrant],
    progress: &mut Progress,
) -> io::Result<Vec<RowReport>> {
    let mut seats = seats(rows, entrants);
    let stalls = open_stalls(bench, &seats, entrants, progress);
    for seat in &mut seats {
        let Some(entrant) = seat.entrant else { continue };
        if let Err(why) = &entrants[entrant].version {
            seat.trouble = Some(Outcome::Missing { why: why.clone() });
        } else if let Some(Stall { state: Err(trouble), .. }) = stall(&stalls, seat) {
            seat.trouble = Some(trouble.clone());
        }
    }
    for round in 0..=plan.settings.rounds {
        for seat in &mut seats {
            let weight = if round == 0 { AROUND } else { round_weight(&seat.ask, plan) };
            // A contender for idle connections is new in each round: there is nothing to warm up.
            if seat.trouble.is_none() && !(round == 0 && seat.ask.kind == Kind::Idle) {
                turn(bench, plan, seat, stall(&stalls, seat), rows, entrants, round, progress);
            }
            progress.advance(weight);
        }
    }
    Ok(rows.iter().map(|row| row_report(row, &seats, entrants)).collect())
}

/// One measurement of one seat; round 0 is the warm-up, whose figures are not kept.
#[allow(clippy::too_many_arguments, reason = "everything a measurement is about")]
fn turn(
    bench: &Bench,
    plan: &Plan,
    seat: &mut Seat,
    stall: Option<&Stall>,
    rows: &[&Row],
    entrants: &[Entrant],
    round: u32,
    progress: &Progress,
) {
    let settings = &plan.settings;
    let name = seat.entrant.map_or(DIRECT, |entrant| entrants[entrant].contender.name());
    let row = rows.iter().find(|row| row.ask == seat.ask || row.reference.is_some_and(|(ask, _)| ask == seat.ask));
    let title = row.map_or_else(String::new, |row| format!("{} {}", row.id, row.title));
    let when = if round == 0 { "warm-up".to_owned() } else { format!("round {round} of {}", settings.rounds) };
    progress.say(&format!("{title}, {when}: {name}"));
    let seconds = if round == 0 { WARM_UP_SECONDS } else { settings.seconds };
    let sample = match (seat.entrant, stall) {
        (None, _) => measure::direct(bench, &seat.ask, settings, seconds),
        (Some(_), Some(Stall { state: Ok(running), .. })) => {
            // The warm-up needs no million addresses.
            let pick =
                if round == 0 && seat.ask.pick == Pick::Addresses { Pick::AddressesInTurn(0) } else { seat.ask.pick };
            measure::load(bench, running, &Ask { pick, ..seat.ask }, settings, seconds, round)
        }
        (Some(entrant), _) => idle(bench, plan, &entrants[entrant], &seat.ask),
    };
    match sample {
        Ok(sample) if round > 0 => seat.samples.push(sample),
        Ok(_) => {}
        Err(error) => {
            let why = format!("{name}, {title}, {when}: {error}");
            progress.note(&format!("failed: {why}"));
            seat.trouble = Some(Outcome::Failed { why });
        }
    }
}

/// Starts a contender anew, because memory that was once used is not always given back.
fn idle(bench: &Bench, plan: &Plan, entrant: &Entrant, ask: &Ask) -> io::Result<Sample> {
    let contender = entrant.contender.as_ref();
    match bench.run(contender, ask.setup)? {
        Started::CanNot(why) => Err(io::Error::other(why)),
        Started::Running(running) => {
            proof::prove(bench, &running, contender)?;
            measure::idle(bench, &running, ask, &plan.settings)
        }
    }
}

fn seats(rows: &[&Row], entrants: &[Entrant]) -> Vec<Seat> {
    let mut seats: Vec<Seat> = Vec::new();
    for row in rows {
        for who in asked(row, entrants) {
            if !seats.iter().any(|seat| (seat.entrant, seat.ask) == who) {
                seats.push(Seat { entrant: who.0, ask: who.1, samples: Vec::new(), trouble: None });
            }
        }
    }
    seats
}

/// Who is asked what in a row, in the order of the table.
fn asked(row: &Row, entrants: &[Entrant]) -> Vec<(Option<usize>, Ask)> {
    let mut asked = Vec::new();
    if let (Kind::Open, Some((ask, _))) = (row.ask.kind, row.reference) {
        asked.push((None, ask));
    }
    for (number, entrant) in entrants.iter().enumerate() {
        let contender = &entrant.contender;
        let ask = if contender.is_reference() { row.reference.map(|(ask, _)| ask) } else { Some(row.ask) };
        // What never reaches the upstream is not dressed for it.
        let ask = ask.filter(|ask| contender.name() != BARE_DRESSED || ask.forwarded != Forwarded::None);
        asked.extend(ask.map(|ask| (Some(number), ask)));
    }
    asked
}

/// Starts and proves every contender in every setup that is asked for, except those for idle connections.
fn open_stalls(bench: &Bench, seats: &[Seat], entrants: &[Entrant], progress: &mut Progress) -> Vec<Stall> {
    let mut stalls: Vec<Stall> = Vec::new();
    for seat in seats {
        progress.advance(START);
        let Some(entrant) = seat.entrant.filter(|entrant| entrants[*entrant].version.is_ok()) else { continue };
        if stall(&stalls, seat).is_some() || seat.ask.kind == Kind::Idle {
            continue;
        }
        let (contender, setup) = (entrants[entrant].contender.as_ref(), seat.ask.setup);
        progress.say(&format!("starting {} and checking that it does its work ({setup:?})", contender.name()));
        let state = match bench.run(contender, setup) {
            Ok(Started::CanNot(why)) => Err(Outcome::CanNot { why: why.to_owned() }),
            Ok(Started::Running(running)) => proven(bench, running, &entrants[entrant]),
            Err(error) => Err(failed(contender.name(), setup, &error)),
        };
        if let Err(Outcome::Failed { why }) = &state {
            progress.note(&format!("failed: {why}"));
        }
        stalls.push(Stall { entrant, setup, state });
    }
    stalls
}

fn proven(bench: &Bench, running: Running, entrant: &Entrant) -> Result<Running, Outcome> {
    let (contender, setup) = (entrant.contender.as_ref(), running.setup);
    let proof = proof::prove(bench, &running, contender).and_then(|()| match setup {
        Setup::Gateway | Setup::Cache | Setup::Routes | Setup::Keys => {
            proof::prove_limit(bench, contender, Setup::Limited)
        }
        Setup::Addresses => proof::prove_limit(bench, contender, Setup::LimitedAddresses),
        Setup::Plain | Setup::Tls | Setup::Limited | Setup::LimitedAddresses => Ok(()),
    });
    match proof {
        Ok(()) => {
            // Let what started settle before anybody is measured.
            thread::sleep(Duration::from_millis(200));
            Ok(running)
        }
        Err(error) => Err(failed(contender.name(), setup, &error)),
    }
}

fn failed(name: &str, setup: Setup, error: &io::Error) -> Outcome {
    Outcome::Failed { why: format!("{name}, {setup:?}: {error}") }
}

fn stall<'a>(stalls: &'a [Stall], seat: &Seat) -> Option<&'a Stall> {
    stalls.iter().find(|stall| Some(stall.entrant) == seat.entrant && stall.setup == seat.ask.setup)
}

fn row_report(row: &Row, seats: &[Seat], entrants: &[Entrant]) -> RowReport {
    let entries = asked(row, entrants).into_iter().filter_map(|who| {
        let seat = seats.iter().find(|seat| (seat.entrant, seat.ask) == who)?;
        let contender = who.0.map(|entrant| entrants[entrant].contender.as_ref());
        let is_reference = contender.is_none_or(|contender| contender.is_reference());
        let does = match contender {
            None => Some("the upstream itself".to_owned()),
            Some(contender) if contender.is_reference() && row.ask != who.1 => {
                row.reference.map(|(_, does)| does.to_owned())
            }
            Some(_) => None,
        };
        let outcome = seat.trouble.clone().unwrap_or(Outcome::Measured { rounds: seat.samples.clone() });
        let name = contender.map_or(DIRECT, |contender| contender.name()).to_owned();
        Some(Entry { name, is_reference, does, outcome, figures: None })
    });
    RowReport {
        id: row.id.to_owned(),
        job: row.job,
        title: row.title.to_owned(),
        what: row.what.to_owned(),
        kind: row.ask.kind,
        is_beside_first: row.is_beside_first,
        entries: entries.collect(),
    }
}
