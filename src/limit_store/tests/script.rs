//! Property tests of `decide.lua`, run by a real server that takes the time from its arguments: never one admitted that the exact
//! model refuses, all limits or none, and waits that are the truth.

use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;
use redis::{Connection, cmd};

use super::models::Model;
use super::server::{Redis, servers};
use crate::limit_store::link::DECIDE;
use crate::limit_store::{Answer, Ask, Kind, Rule};

const SECOND: u64 = 1_000_000;
const START: u64 = 1_800_000_000 * SECOND;

/// A server, and the script with a time of ours.
struct Told {
    _server: Redis,
    connection: Connection,
    digest: String,
}

impl Told {
    fn start(program: &'static str) -> Self {
        let server = Redis::start_with(program, &[]);
        let mut connection = server.connect().unwrap();
        let text = DECIDE.replace("redis.call('TIME')", "{ARGV[#ARGV - 1], ARGV[#ARGV]}");
        assert_ne!(text, DECIDE);
        let digest = cmd("SCRIPT").arg("LOAD").arg(text).query(&mut connection).unwrap();
        Self { _server: server, connection, digest }
    }

    fn ask(&mut self, word: &str, asks: &[Ask], now: u64) -> Answer {
        let mut command = cmd("EVALSHA");
        command.arg(&self.digest).arg(asks.len());
        asks.iter().for_each(|ask| {
            command.arg(&ask.key);
        });
        command.arg(word);
        asks.iter().for_each(|ask| {
            command.arg(ask.packed().as_slice());
        });
        command.arg(now / SECOND).arg(now % SECOND);
        let numbers: Vec<i64> = command.query(&mut self.connection).unwrap();
        Answer::read(&numbers, asks.len()).unwrap()
    }
}

/// Keys that no other case has.
fn fresh(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test:{{limits}}:{name}:{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Bounds of periods of irregular length, as a calendar has them.
fn periods(now: u64) -> [u64; 4] {
    const LENGTHS: [u64; 3] = [23 * 3_600 * SECOND, 25 * 3_600 * SECOND, 24 * 3_600 * SECOND];
    let round: u64 = LENGTHS.iter().sum();
    let mut bounds = vec![(now / round - 1) * round];
    while bounds[bounds.len() - 1] <= now + 2 * round {
        let next = bounds[bounds.len() - 1] + LENGTHS[(bounds.len() - 1) % 3];
        bounds.push(next);
    }
    let present = bounds.iter().rposition(|bound| *bound <= now).unwrap();
    [bounds[present - 1], bounds[present], bounds[present + 1], bounds[present + 2]]
}

fn kinds() -> impl Strategy<Value = Kind> {
    // Long enough that nothing expires by the server's own clock while a case runs.
    let window = || prop_oneof![Just(60 * SECOND), Just(61 * SECOND + 7), Just(3_600 * SECOND), Just(86_400 * SECOND)];
    prop_oneof![
        window().prop_map(|window| Kind::SlidingWindow { window }),
        window().prop_map(|window| Kind::SlidingLog { window }),
        (window(), 1_u32..30).prop_map(|(window, burst)| Kind::TokenBucket { window, burst }),
        window().prop_map(|length| Kind::FixedWindow { length }),
        Just(Kind::Calendar),
    ]
}

fn window_of(kind: Kind) -> u64 {
    match kind {
        Kind::SlidingWindow { window } | Kind::SlidingLog { window } | Kind::TokenBucket { window, .. } => window,
        Kind::FixedWindow { length } => length,
        Kind::Calendar => 86_400 * SECOND,
    }
}

fn rules() -> impl Strategy<Value = Rule> {
    (kinds(), 1_u32..20, 1_u32..4, prop::bool::weighted(0.8)).prop_map(|(kind, count, cost, enforced)| {
        let most = if let Kind::TokenBucket { burst, .. } = kind { burst } else { count };
        Rule { kind, enforced, cost: cost.min(most), count }
    })
}

fn check(told: &mut Told, rules: &[Rule], steps: &[(u64, u32)]) -> Result<(), TestCaseError> {
    let keys: Vec<String> = rules.iter().map(|_| fresh("key")).collect();
    let mut models: Vec<Model> = rules.iter().map(|rule| Model::new(*rule)).collect();
    let longest = rules.iter().map(|rule| window_of(rule.kind)).max().unwrap();
    let mut now = START;
    for (step, scale) in steps {
        now += step * longest / 100 / (1 << scale);
        let bounds = periods(now);
        let asks: Vec<Ask> =
            rules.iter().zip(&keys).map(|(rule, key)| Ask { key: key.clone(), rule: *rule, periods: bounds }).collect();
        let looked = told.ask("look", &asks, now);
        let answer = told.ask("decide", &asks, now);
        let refused = rules.iter().zip(&answer.verdicts).any(|(rule, verdict)| rule.enforced && verdict.wait > 0);
        for ((rule, model), (verdict, seen)) in
            rules.iter().zip(&mut models).zip(answer.verdicts.iter().zip(&looked.verdicts))
        {
            prop_assert_eq!(verdict.wait, seen.wait, "looking says the same as deciding");
            if verdict.wait == 0 {
                prop_assert!(model.admits(now, &bounds), "one too many by {:?} at {}", rule, now);
                let taken = if refused { 0 } else { u64::from(rule.cost) };
                prop_assert_eq!(verdict.remaining + taken, seen.remaining, "{:?}", rule);
                if !refused {
                    model.add(now);
                }
            } else {
                prop_assert!(!model.has_to_admit(now, &bounds), "refused without need by {:?} at {}", rule, now);
            }
        }
        // The wait is the truth, for one limit and for all of them. What was admitted has changed the others.
        let wait = answer.verdicts.iter().map(|verdict| verdict.wait).max().unwrap();
        if refused {
            // Bounds of a calendar hold for a while only, and the longest wait may be that of a bucket.
            let asks_at =
                |at: u64| -> Vec<Ask> { asks.iter().map(|ask| Ask { periods: periods(at), ..ask.clone() }).collect() };
            let later = told.ask("look", &asks_at(now + wait), now + wait);
            prop_assert!(later.verdicts.iter().all(|verdict| verdict.wait == 0));
            let sooner = told.ask("look", &asks_at(now + wait - 1), now + wait - 1);
            prop_assert!(sooner.verdicts.iter().any(|verdict| verdict.wait > 0), "the wait is too long");
        }
    }
    Ok(())
}

#[test]
fn the_script_admits_what_the_definition_admits_and_never_more() {
    for program in servers() {
        let told = std::cell::RefCell::new(Told::start(program));
        let strategy = (prop::collection::vec(rules(), 1..4), prop::collection::vec((0_u64..100, 0_u32..8), 1..120));
        let mut runner = proptest::test_runner::TestRunner::default();
        let run = runner.run(&strategy, |(rules, steps)| check(&mut told.borrow_mut(), &rules, &steps));
        run.unwrap_or_else(|error| panic!("{program}: {error}"));
    }
}

#[test]
fn a_clock_that_is_set_back_admits_no_more_and_locks_nobody_out() {
    let mut told = Told::start("redis-server");
    let window = 60 * SECOND;
    for kind in [
        Kind::SlidingWindow { window },
        Kind::SlidingLog { window },
        Kind::TokenBucket { window, burst: 2 },
        Kind::FixedWindow { length: window },
    ] {
        for back in [1, 30 * SECOND, 59 * SECOND, 3_600 * SECOND, 86_400 * SECOND] {
            let rule = Rule { kind, enforced: true, cost: 1, count: 2 };
            let asks = [Ask { key: fresh("back"), rule, periods: [0; 4] }];
            for _ in 0..2 {
                assert_eq!(told.ask("decide", &asks, START).verdicts[0].wait, 0);
            }
            let answer = told.ask("decide", &asks, START - back);
            let wait = answer.verdicts[0].wait;
            assert!(wait > 0, "{kind:?} {back}: a fresh allowance");
            assert!(wait <= 2 * window + window / 8, "{kind:?} {back}: waits {wait}");
            assert_eq!(told.ask("decide", &asks, START - back + wait).verdicts[0].wait, 0, "{kind:?} {back}");
        }
    }
}

#[test]
fn what_is_used_stays_used_when_a_limit_changes() {
    let mut told = Told::start("redis-server");
    let window = 3_600 * SECOND;
    for (before, after) in [
        (Kind::SlidingWindow { window }, Kind::SlidingWindow { window }),
        (Kind::SlidingLog { window }, Kind::SlidingLog { window }),
        (Kind::TokenBucket { window, burst: 10 }, Kind::TokenBucket { window, burst: 4 }),
        (Kind::FixedWindow { length: window }, Kind::FixedWindow { length: window }),
    ] {
        let rule = Rule { kind: before, enforced: true, cost: 1, count: 10 };
        let lower = Rule { kind: after, count: 4, ..rule };
        let ask = Ask { key: fresh("change"), rule, periods: [0; 4] };
        for _ in 0..6 {
            assert_eq!(told.ask("decide", std::slice::from_ref(&ask), START).verdicts[0].wait, 0);
        }
        let verdict = told.ask("decide", &[Ask { rule: lower, ..ask.clone() }], START).verdicts[0];
        assert!(verdict.wait > 0 && verdict.remaining == 0, "{before:?}: {verdict:?}");
        assert_eq!(told.ask("decide", &[ask], START).verdicts[0].remaining, 3, "{before:?}");
    }
}

#[test]
fn a_period_far_from_the_servers_clock_is_an_error() {
    let mut told = Told::start("redis-server");
    let rule = Rule { kind: Kind::Calendar, enforced: true, cost: 1, count: 2 };
    let ask = Ask { key: fresh("far"), rule, periods: periods(START) };
    let mut command = cmd("EVALSHA");
    command.arg(&told.digest).arg(1).arg(&ask.key).arg("decide").arg(ask.packed().as_slice());
    command.arg(START / SECOND + 10 * 86_400).arg(0);
    let error = command.query::<Vec<i64>>(&mut told.connection).unwrap_err();
    assert_eq!(error.code(), Some("CLOCK"), "{error}");
}

#[test]
fn every_key_expires() {
    let mut told = Told::start("redis-server");
    let window = 60 * SECOND;
    let kinds = [
        Kind::SlidingWindow { window },
        Kind::SlidingLog { window },
        Kind::TokenBucket { window, burst: 9 },
        Kind::FixedWindow { length: window },
        Kind::Calendar,
    ];
    for kind in kinds {
        let rule = Rule { kind, enforced: true, cost: 3, count: 9 };
        let ask = Ask { key: fresh("expires"), rule, periods: periods(START) };
        told.ask("look", std::slice::from_ref(&ask), START);
        let lives = |told: &mut Told| cmd("PTTL").arg(&ask.key).query::<i64>(&mut told.connection).unwrap();
        assert_eq!(lives(&mut told), -2, "{kind:?}: looking leaves nothing behind");
        told.ask("decide", std::slice::from_ref(&ask), START);
        let lives = lives(&mut told);
        let longest = if kind == Kind::Calendar { 25 * 3_600_000 } else { 64_000 };
        assert!(lives > 0 && lives <= longest + 1, "{kind:?}: {lives}");
    }
}
