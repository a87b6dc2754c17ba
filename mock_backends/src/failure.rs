//! How instances fail: the ways there are, on which paths, and how often.
//! Only describes; the requests that switch failures on are in `control.rs`, what they do to a request in `instance.rs`, and to a connection in `line.rs`.

use std::time::Duration;

use http::StatusCode;
use rand::Rng;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::options::{Latency, parse_duration};

/// Failures of single paths, at most.
const PATHS_MAX: usize = 100;

/// How an instance fails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Failure {
    /// Answers with this status.
    Errors {
        /// 500 unless another was asked for.
        status: StatusCode,
        /// The seconds of `Retry-After`, where it says one.
        retry_after: Option<u32>,
    },
    /// Takes requests and does not answer.
    Hang,
    /// Answers well, but late.
    Slow(Latency),
    /// Answers byte by byte, the header too, with a pause after each.
    Drip(Duration),
    /// Resets the connection once it has read the request.
    Reset,
    /// Resets the connection in the middle of the answer's body.
    ResetBody,
    /// Closes the connection in the middle of the answer's body.
    Truncate,
    /// Answers with something that is not HTTP.
    Garbage,
    /// Answers the first request of a connection well, and closes the connection when another one comes.
    Stale,
    /// Accepts connections, and closes them before anything is read.
    Close,
    /// Listens no more.
    Refuse,
}

/// Everything that is wrong with an instance at the moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Failures {
    /// What was switched on, and off, so often.
    pub changes: u64,
    rules: Vec<Rule>,
}

/// A failure, where and how often.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    /// Of paths that begin with it; of all when there is none.
    path: Option<String>,
    /// Share of the requests that fail, 0 to 1.
    rate: f64,
    failure: Failure,
}

/// The body of `POST /simulate-failure`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wanted {
    mode: Mode,
    status: Option<u16>,
    retry_after: Option<u32>,
    path: Option<String>,
    rate: Option<f64>,
    latency: Option<String>,
    pause: Option<String>,
    /// Mended after this time.
    #[serde(rename = "for")]
    lasts: Option<String>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Errors,
    Hang,
    Slow,
    Drip,
    Reset,
    ResetBody,
    Truncate,
    Garbage,
    Stale,
    Close,
    Refuse,
}

impl Wanted {
    /// Switches the failure on in `failures`; how long it lasts, where that was said.
    ///
    /// # Errors
    /// What is wrong with the wish, and what would be right.
    pub fn apply(self, failures: &mut Failures) -> Result<Option<Duration>, String> {
        let lasts = self.lasts.as_deref().map(parse_duration).transpose()?;
        let rate = self.rate.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&rate) {
            return Err(format!("`rate` is a share between 0 and 1, not {rate}"));
        }
        let failure = self.failure()?;
        if matches!(failure, Failure::Close | Failure::Refuse) {
            if self.path.is_some() || self.rate.is_some() {
                return Err("before a request is read it has no path, and `rate` is no use: leave both out".into());
            }
            if lasts.is_none() {
                return Err(r#"nobody could mend it again: say for how long, as in "for": "2s""#.into());
            }
        }
        failures.set(Rule { path: self.path, rate, failure })?;
        Ok(lasts)
    }

    fn failure(&self) -> Result<Failure, String> {
        let only = |named: bool, field: &str, mode: Mode| match named && self.mode != mode {
            true => Err(format!("`{field}` does not belong to this mode")),
            false => Ok(()),
        };
        only(self.status.is_some(), "status", Mode::Errors)?;
        only(self.retry_after.is_some(), "retry_after", Mode::Errors)?;
        only(self.latency.is_some(), "latency", Mode::Slow)?;
        only(self.pause.is_some(), "pause", Mode::Drip)?;
        Ok(match self.mode {
            Mode::Errors => Failure::Errors {
                status: StatusCode::from_u16(self.status.unwrap_or(500))
                    .map_err(|_| "`status` is a number from 100 to 999")?,
                retry_after: self.retry_after,
            },
            Mode::Hang => Failure::Hang,
            Mode::Slow => Failure::Slow(self.latency.as_deref().unwrap_or("1s").parse()?),
            Mode::Drip => Failure::Drip(parse_duration(self.pause.as_deref().unwrap_or("50ms"))?),
            Mode::Reset => Failure::Reset,
            Mode::ResetBody => Failure::ResetBody,
            Mode::Truncate => Failure::Truncate,
            Mode::Garbage => Failure::Garbage,
            Mode::Stale => Failure::Stale,
            Mode::Close => Failure::Close,
            Mode::Refuse => Failure::Refuse,
        })
    }
}

impl Failures {
    /// What this request meets: the failure of the longest path that fits, as often as it is meant to be.
    pub fn of(&self, path: &str) -> Option<Failure> {
        let fits = |rule: &&Rule| rule.path.as_deref().is_none_or(|prefix| path.starts_with(prefix));
        let rule = self.rules.iter().filter(fits).max_by_key(|rule| rule.path.as_ref().map_or(0, String::len))?;
        (rule.rate >= 1.0 || rand::rng().random_bool(rule.rate)).then_some(rule.failure)
    }

    /// What whoever connects meets.
    pub fn of_connections(&self) -> Option<Failure> {
        let whole = self.rules.iter().find(|rule| rule.path.is_none())?.failure;
        matches!(whole, Failure::Close | Failure::Refuse).then_some(whole)
    }

    fn set(&mut self, rule: Rule) -> Result<(), String> {
        self.rules.retain(|known| known.path != rule.path);
        if self.rules.len() >= PATHS_MAX {
            return Err(format!("{PATHS_MAX} paths fail already"));
        }
        self.changes += 1;
        self.rules.push(rule);
        Ok(())
    }

    /// Mends everything.
    pub fn mend(&mut self) {
        self.changes += 1;
        self.rules.clear();
    }

    /// The instance's own mode, and what single paths do.
    pub fn shown(&self) -> (&'static str, Value) {
        let whole = self.rules.iter().find(|rule| rule.path.is_none());
        let rules =
            self.rules.iter().map(|rule| json!({ "path": rule.path, "mode": rule.failure.name(), "rate": rule.rate }));
        (whole.map_or("healthy", |rule| rule.failure.name()), rules.collect())
    }
}

impl Failure {
    /// The word that switches it on.
    fn name(self) -> &'static str {
        match self {
            Self::Errors { .. } => "errors",
            Self::Hang => "hang",
            Self::Slow(_) => "slow",
            Self::Drip(_) => "drip",
            Self::Reset => "reset",
            Self::ResetBody => "reset_body",
            Self::Truncate => "truncate",
            Self::Garbage => "garbage",
            Self::Stale => "stale",
            Self::Close => "close",
            Self::Refuse => "refuse",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(failures: &mut Failures, body: &str) -> Result<Option<Duration>, String> {
        serde_json::from_str::<Wanted>(body).unwrap().apply(failures)
    }

    #[test]
    fn the_longest_path_decides() {
        let mut failures = Failures::default();
        wants(&mut failures, r#"{"mode": "hang"}"#).unwrap();
        wants(&mut failures, r#"{"mode": "reset", "path": "/users"}"#).unwrap();
        wants(&mut failures, r#"{"mode": "garbage", "path": "/users/1"}"#).unwrap();
        let of = |path: &str| failures.of(path).map(Failure::name);
        assert_eq!((of("/hello"), of("/users/2"), of("/users/1")), (Some("hang"), Some("reset"), Some("garbage")));
    }

    #[test]
    fn a_rate_is_kept_about() {
        let mut failures = Failures::default();
        wants(&mut failures, r#"{"rate": 0.25}"#).unwrap();
        let failed = (0..4_000).filter(|_| failures.of("/").is_some()).count();
        assert!((800..1_200).contains(&failed), "{failed}");
        wants(&mut failures, r#"{"rate": 0}"#).unwrap();
        assert_eq!(failures.of("/"), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (body, says) in [
            (r#"{"mode": "refuse"}"#, "for how long"),
            (r#"{"mode": "close", "for": "1s", "path": "/a"}"#, "no path"),
            (r#"{"mode": "hang", "status": 500}"#, "does not belong"),
            (r#"{"rate": 2}"#, "between 0 and 1"),
            (r#"{"status": 7}"#, "100 to 999"),
            (r#"{"mode": "drip", "pause": "soon"}"#, "20ms"),
        ] {
            let refused = wants(&mut Failures::default(), body).unwrap_err();
            assert!(refused.contains(says), "{body}: {refused}");
        }
    }
}
