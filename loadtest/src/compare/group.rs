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
use crate::report::{Entry, Outcome, RowReport, Sample, Settings};
use crate::stop;

/// What a measurement takes beside its load, and what starting and proving takes, in seconds.
const AROUND: f64 = 1.0;
const START: f64 = 2.0;
const IDLE: f64 = 8.0;
/// Addresses that a contender may have asked in a second, for the estimate of time only.
const ADDRESSES_PER_SECOND: f64 = 15_000.0;
const WARM_UP_SECONDS: u32 = 1;
/// So often a measurement that does not count is made again, in all rounds together: machines stall, and runs are long.
const REPEATS_MAX: usize = 2;

/// Beside the contenders: the upstream itself, asked at a fixed rate.
pub const DIRECT: &str = "direct";

/// One who asks in one way; several rows may show it.
struct Seat {
    /// Which entrant; none is the upstream itself.
    entrant: Option<usize>,
    ask: Ask,
    samples: Vec<Sample>,
    /// Why measurements did not count.
    repeated: Vec<String>,
    /// Why there are no samples.
    trouble: Option<Outcome>,
}

/// A contender in a setup that was started for this group.
struct Stall {
    entrant: usize,
    setup: Setup,
    state: Result<Running, Outcome>,
}

struct Group<'a> {
    bench: &'a Bench,
    plan: &'a Plan,
    rows: &'a [&'a Row],
    entrants: &'a [Entrant],
    stalls: Vec<Stall>,
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

pub fn run(bench: &Bench, plan: &Plan, rows: &[&Row], entrants: &[Entrant], progress: &mut Progress) -> Vec<RowReport> {
    let mut seats = seats(rows, entrants);
    let mut group = Group { bench, plan, rows, entrants, stalls: Vec::new() };
    for seat in &mut seats {
        progress.advance(START);
        seat.trouble = group.open(seat, progress).err();
    }
    for round in 0..=plan.settings.rounds {
        for seat in &mut seats {
            group.turn(seat, round, progress);
            progress.advance(if round == 0 { AROUND } else { round_weight(&seat.ask, plan) });
        }
    }
    rows.iter().map(|row| row_report(row, &seats, entrants, &plan.settings)).collect()
}

impl Group<'_> {
    /// Makes sure that a seat's contender runs in its setup, and has been checked. Those for idle connections are
    /// only checked: they start anew in each round, because memory that was once used is not always given back.
    fn open(&mut self, seat: &Seat, progress: &Progress) -> Result<(), Outcome> {
        let Some(number) = seat.entrant else { return Ok(()) };
        let entrant = &self.entrants[number];
        if let Err(why) = &entrant.version {
            return Err(Outcome::Missing { why: why.clone() });
        }
        let is_idle = seat.ask.kind == Kind::Idle;
        if !is_idle && let Some(stall) = self.stall(seat) {
            return stall.state.as_ref().map(drop).map_err(Clone::clone);
        }
        let (contender, setup) = (entrant.contender.as_ref(), seat.ask.setup);
        progress.say(&format!("starting {} and checking that it does its work ({setup:?})", contender.name()));
        let state = match self.bench.run(contender, setup) {
            Ok(Started::CanNot(why)) => Err(Outcome::CanNot { why: why.to_owned() }),
            Ok(Started::Running(running)) => proven(self.bench, running, entrant),
            Err(error) => Err(failed(contender.name(), setup, &error)),
        };
        if let Err(Outcome::Failed { why }) = &state {
            progress.note(&format!("failed: {why}"));
        }
        let opened = state.as_ref().map(drop).map_err(Clone::clone);
        if !is_idle {
            self.stalls.push(Stall { entrant: number, setup, state });
        }
        opened
    }

    /// One measurement of one seat; round 0 is the warm-up, whose figures are not kept.
    fn turn(&self, seat: &mut Seat, round: u32, progress: &Progress) {
        // A contender for idle connections is new in each round: there is nothing to warm up.
        let is_cold = round == 0 && seat.ask.kind == Kind::Idle;
        while seat.trouble.is_none() && !is_cold {
            let name = self.name(seat);
            let when = if round == 0 {
                "warm-up".to_owned()
            } else {
                format!("round {round} of {}", self.plan.settings.rounds)
            };
            let title = format!("{}, {when}: {name}", self.title(seat));
            progress.say(&title);
            match self.measure(seat, round) {
                Ok(sample) if round > 0 => return seat.samples.push(sample),
                Ok(_) => return,
                Err(error) => {
                    let why = format!("{title}: {error}");
                    progress.note(&format!("does not count: {why}"));
                    if seat.repeated.len() < REPEATS_MAX && !stop::is_stopping() {
                        seat.repeated.push(why);
                    } else {
                        seat.trouble = Some(Outcome::Failed { why });
                    }
                }
            }
        }
    }

    fn measure(&self, seat: &Seat, round: u32) -> io::Result<Sample> {
        let settings = &self.plan.settings;
        let seconds = if round == 0 { WARM_UP_SECONDS } else { settings.seconds };
        let Some(entrant) = seat.entrant else { return measure::direct(self.bench, &seat.ask, settings, seconds) };
        if let Some(Stall { state: Ok(running), .. }) = self.stall(seat) {
            let mut ask = seat.ask;
            if round == 0 && ask.pick == Pick::Addresses {
                // The warm-up needs no million of them.
                ask.pick = Pick::AddressesInTurn(0);
            }
            return measure::load(self.bench, running, &ask, settings, seconds, round);
        }
        match self.bench.run(self.entrants[entrant].contender.as_ref(), seat.ask.setup)? {
            Started::Running(running) => measure::idle(self.bench, &running, &seat.ask, settings),
            Started::CanNot(why) => Err(io::Error::other(why)),
        }
    }

    fn stall(&self, seat: &Seat) -> Option<&Stall> {
        self.stalls.iter().find(|stall| Some(stall.entrant) == seat.entrant && stall.setup == seat.ask.setup)
    }

    fn name(&self, seat: &Seat) -> &'static str {
        seat.entrant.map_or(DIRECT, |entrant| self.entrants[entrant].contender.name())
    }

    /// Of the first row that shows this seat.
    fn title(&self, seat: &Seat) -> String {
        let row = self.rows.iter().find(|row| asked(row, self.entrants).contains(&(seat.entrant, seat.ask)));
        row.map_or_else(String::new, |row| format!("{} {}", row.id, row.title(&self.plan.settings)))
    }
}

fn seats(rows: &[&Row], entrants: &[Entrant]) -> Vec<Seat> {
    let mut seats: Vec<Seat> = Vec::new();
    for row in rows {
        for who in asked(row, entrants) {
            if !seats.iter().any(|seat| (seat.entrant, seat.ask) == who) {
                seats.push(Seat {
                    entrant: who.0,
                    ask: who.1,
                    samples: Vec::new(),
                    repeated: Vec::new(),
                    trouble: None,
                });
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

fn row_report(row: &Row, seats: &[Seat], entrants: &[Entrant], settings: &Settings) -> RowReport {
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
        let repeated = seat.repeated.clone();
        Some(Entry { name, is_reference, does, repeated, outcome, figures: None })
    });
    RowReport {
        id: row.id.to_owned(),
        job: row.job,
        title: row.title(settings),
        what: row.what.to_owned(),
        kind: row.ask.kind,
        is_beside_first: row.is_beside_first,
        entries: entries.collect(),
    }
}
