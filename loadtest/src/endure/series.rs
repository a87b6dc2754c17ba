//! The memory of a gateway over time, and whether it grows: the last minute against the second, median against median.
//! The first minute is left out, because a gateway fills its pools and tables then.

/// A reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Since the load began.
    pub seconds: f64,
    pub resident: u64,
    pub anonymous: u64,
}

/// What the last minute may be, as a multiple of the second.
pub const GROWTH_MAX: f64 = 1.03;

/// The second and the last minute, and what one is to the other.
#[derive(Debug, PartialEq)]
pub struct Growth {
    pub second_minute: f64,
    pub last_minute: f64,
    pub ratio: f64,
}

impl Growth {
    /// None where a minute has no samples: below three minutes the second and the last are not apart.
    pub fn of(samples: &[Sample], end_seconds: f64) -> Option<Self> {
        if end_seconds < 180.0 {
            return None;
        }
        let between = |from: f64, to: f64| {
            let within = samples.iter().filter(move |sample| sample.seconds > from && sample.seconds <= to);
            let resident: Vec<f64> = within.map(|sample| sample.resident as f64).collect();
            (!resident.is_empty()).then(|| median(resident.into_iter()))
        };
        let (second_minute, last_minute) = (between(60.0, 120.0)?, between(end_seconds - 60.0, end_seconds)?);
        Some(Self { second_minute, last_minute, ratio: last_minute / second_minute })
    }

    pub fn is_bounded(&self) -> bool {
        self.ratio <= GROWTH_MAX
    }
}

/// Not a number when there are no values.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(minutes: usize, resident: impl Fn(f64) -> f64) -> Option<Growth> {
        let samples: Vec<Sample> = (1..=minutes * 6)
            .map(|number| number as f64 * 10.0)
            .map(|seconds| Sample { seconds, resident: resident(seconds) as u64, anonymous: 0 })
            .collect();
        Growth::of(&samples, minutes as f64 * 60.0)
    }

    #[test]
    fn growth_in_the_first_minute_is_none() {
        let growth = growth(10, |seconds| if seconds <= 60.0 { 1e6 * seconds } else { 1e8 }).unwrap();
        assert_eq!((growth.ratio, growth.is_bounded()), (1.0, true));
    }

    #[test]
    fn steady_growth_is_found() {
        // A hundredth more each minute.
        let growth = growth(10, |seconds| 1e8 * (1.0 + seconds / 6_000.0)).unwrap();
        assert!(growth.ratio > 1.07 && !growth.is_bounded());
    }

    #[test]
    fn one_spike_is_no_growth() {
        let growth = growth(3, |seconds| if seconds == 170.0 { 2e8 } else { 1e8 }).unwrap();
        assert!(growth.is_bounded());
    }

    #[test]
    fn below_three_minutes_or_without_samples_nothing_is_said() {
        assert_eq!(growth(2, |_| 1e8), None);
        assert_eq!(Growth::of(&[], 600.0), None);
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert!(median(std::iter::empty()).is_nan());
    }
}
