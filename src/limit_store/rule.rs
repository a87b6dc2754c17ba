//! What the script is asked and what it answers, as plain numbers: one [`Ask`] and one [`Verdict`] a limit.
//! Times are microseconds of the server's clock, which is what Redis' TIME gives.

use smallvec::SmallVec;

/// How a limit counts. Windows in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Never more than the count in any window; 17 slots.
    SlidingWindow {
        /// The window.
        window: u64,
    },
    /// Never more than the count in any window; every admission in a sorted set.
    SlidingLog {
        /// The window.
        window: u64,
    },
    /// `count` tokens come back in each window (GCRA).
    TokenBucket {
        /// The window.
        window: u64,
        /// Tokens that fit in.
        burst: u32,
    },
    /// The count in each period that begins at a multiple of this length since 1970.
    FixedWindow {
        /// The period.
        length: u64,
    },
    /// The count in each period between bounds that come with the question.
    Calendar,
}

/// The numbers of one limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rule {
    /// How it counts.
    pub kind: Kind,
    /// Whether it refuses, or only counts.
    pub enforced: bool,
    /// What one request takes.
    pub cost: u32,
    /// What may be taken.
    pub count: u32,
}

/// One limit of a request.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Under which key it is counted.
    pub key: String,
    /// The limit's numbers.
    pub rule: Rule,
    /// For [`Kind::Calendar`]: when the period before the present one begins, this one, the next, and the one after that.
    pub periods: [u64; 4],
}

/// What one limit says. Microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Until it would admit; 0: it does.
    pub wait: u64,
    /// What is left.
    pub remaining: u64,
    /// Until there is more; 0 when nothing is used.
    pub more_in: u64,
}

/// What all limits of a request say, in the order of the questions.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The server's clock.
    pub now: u64,
    /// One a limit.
    pub verdicts: SmallVec<[Verdict; 4]>,
}

/// Bytes of a packed question: two of one byte, two of four, five of eight.
const PACKED: usize = 2 + 2 * 4 + 5 * 8;

impl Ask {
    /// The numbers as `decide.lua` unpacks them: `<BBI4I4ddddd`.
    pub(super) fn packed(&self) -> [u8; PACKED] {
        let (kind, window, numbers) = match self.rule.kind {
            Kind::SlidingWindow { window } => (1, window, [0; 4]),
            Kind::SlidingLog { window } => (2, window, [0; 4]),
            Kind::TokenBucket { window, burst } => (3, window, [u64::from(burst), 0, 0, 0]),
            Kind::FixedWindow { length } => (4, length, [0; 4]),
            Kind::Calendar => (4, 0, self.periods),
        };
        let mut packed = [0; PACKED];
        packed[0] = kind;
        packed[1] = u8::from(self.rule.enforced);
        packed[2..6].copy_from_slice(&self.rule.cost.to_le_bytes());
        packed[6..10].copy_from_slice(&self.rule.count.to_le_bytes());
        // Exact: windows and times in microseconds are far below 2^53.
        packed[10..18].copy_from_slice(&(window as f64).to_le_bytes());
        for (place, number) in packed[18..].chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&(number as f64).to_le_bytes());
        }
        packed
    }
}

impl Answer {
    /// Reads `{now, wait, remaining, more_in, ...}`; none where that is not what came.
    pub(super) fn read(numbers: &[i64], asks: usize) -> Option<Self> {
        let (now, rest) = numbers.split_first()?;
        if rest.len() != 3 * asks {
            return None;
        }
        let number = |number: &i64| u64::try_from(*number).ok();
        let verdict = |three: &[i64]| {
            Some(Verdict { wait: number(&three[0])?, remaining: number(&three[1])?, more_in: number(&three[2])? })
        };
        let verdicts = rest.chunks_exact(3).map(verdict).collect::<Option<_>>()?;
        Some(Self { now: number(now)?, verdicts })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_three_numbers_a_limit() {
        let verdict = Verdict { wait: 1, remaining: 2, more_in: 3 };
        assert_eq!(Answer::read(&[9, 1, 2, 3], 1).unwrap().verdicts.as_slice(), [verdict]);
        for (numbers, asks) in
            [(&[][..], 0), (&[9, 1, 2], 1), (&[9, 1, 2, 3], 2), (&[9, -1, 2, 3], 1), (&[-9, 1, 2, 3], 1)]
        {
            assert_eq!(Answer::read(numbers, asks), None, "{numbers:?}");
        }
    }
}
