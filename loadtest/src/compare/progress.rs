//! What is being measured and how long it still takes: a bar on a terminal, a line for each measurement elsewhere.
//! On standard error; results go to standard output.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Work is counted in the seconds it was expected to take.
pub struct Progress {
    bar: Option<ProgressBar>,
    total: f64,
    done: f64,
    begun: Instant,
}

impl Progress {
    pub fn new(total: f64) -> Self {
        let style =
            ProgressStyle::with_template("{bar:30} {wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = stderr().is_terminal().then(|| ProgressBar::new(total.ceil() as u64).with_style(style));
        Self { bar, total, done: 0.0, begun: Instant::now() }
    }

    /// Says what comes next.
    pub fn say(&self, what: &str) {
        let message = format!("{what}; {}", left(self.total, self.done, self.begun.elapsed()));
        match &self.bar {
            Some(bar) => bar.set_message(message),
            None => eprintln!("{message}"),
        }
    }

    /// Something that stays to be read, such as a failure.
    pub fn note(&self, what: &str) {
        match &self.bar {
            Some(bar) => bar.println(what),
            None => eprintln!("{what}"),
        }
    }

    pub fn advance(&mut self, weight: f64) {
        self.done += weight;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done as u64);
        }
    }

    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// An estimate from the plan at first, more and more from how long things really took.
fn left(total: f64, done: f64, elapsed: Duration) -> String {
    let pace = if done > 0.0 { elapsed.as_secs_f64() / done } else { 1.0 };
    let seconds = (total - done).max(0.0) * pace;
    if seconds < 90.0 { format!("about {seconds:.0} s left") } else { format!("about {:.0} min left", seconds / 60.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_follows_the_pace_so_far() {
        assert_eq!(left(60.0, 0.0, Duration::ZERO), "about 60 s left");
        assert_eq!(left(60.0, 30.0, Duration::from_secs(60)), "about 60 s left");
        assert_eq!(left(600.0, 300.0, Duration::from_secs(300)), "about 5 min left");
        assert_eq!(left(60.0, 70.0, Duration::from_secs(60)), "about 0 s left");
    }
}
