//! From samples to figures: medians over the rounds, and ratios within a round, because machines drift.

use serde_json::{Value, json};

/// One scenario in one round.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub cpu_us: f64,
    pub per_second: f64,
}

/// All rounds of one scenario.
pub struct Row {
    pub name: &'static str,
    pub what: &'static str,
    /// The row it is compared with.
    pub beside: &'static str,
    pub samples: Vec<Sample>,
}

/// What is said about a row.
#[derive(Debug, PartialEq)]
struct Figures {
    cpu_us: f64,
    cpu_us_min: f64,
    cpu_us_max: f64,
    over_us: f64,
    ratio: f64,
    per_second: f64,
}

pub fn table(rows: &[Row], connections: u32) -> String {
    let mut lines = vec![
        format!(
            "CPU microseconds per request of the whole proxy, {connections} keep-alive connections; medians, ratios within a round"
        ),
        String::new(),
        format!(
            "{:<14} {:>8} {:>15}   {:>7} {:>6}  {:<13} {:>10}  what",
            "", "CPU us", "min to max", "over", "ratio", "beside", "requests/s"
        ),
    ];
    for row in rows {
        let figures = figures(row, rows);
        let spread = format!("{:.1} to {:.1}", figures.cpu_us_min, figures.cpu_us_max);
        lines.push(format!(
            "{:<14} {:>8.2} {:>15}   {:>+7.2} {:>6.2}  {:<13} {:>10.0}  {}",
            row.name, figures.cpu_us, spread, figures.over_us, figures.ratio, row.beside, figures.per_second, row.what
        ));
    }
    lines.join("\n")
}

pub fn to_json(rows: &[Row], connections: u32) -> Value {
    let scenarios = rows.iter().map(|row| {
        let figures = figures(row, rows);
        let rounds: Vec<f64> = row.samples.iter().map(|sample| sample.cpu_us).collect();
        json!({
            "scenario": row.name, "what": row.what, "beside": row.beside,
            "cpu_us_per_request": figures.cpu_us, "cpu_us_per_request_rounds": rounds,
            "over_us": figures.over_us, "ratio": figures.ratio, "requests_per_second": figures.per_second,
        })
    });
    json!({ "connections": connections, "scenarios": scenarios.collect::<Vec<_>>() })
}

fn figures(row: &Row, rows: &[Row]) -> Figures {
    let beside = rows.iter().find(|other| other.name == row.beside).unwrap_or(row);
    let pairs = || row.samples.iter().zip(&beside.samples);
    Figures {
        cpu_us: median(row.samples.iter().map(|sample| sample.cpu_us)),
        cpu_us_min: row.samples.iter().map(|sample| sample.cpu_us).fold(f64::INFINITY, f64::min),
        cpu_us_max: row.samples.iter().map(|sample| sample.cpu_us).fold(0.0, f64::max),
        over_us: median(pairs().map(|(own, other)| own.cpu_us - other.cpu_us)),
        ratio: median(pairs().map(|(own, other)| own.cpu_us / other.cpu_us)),
        per_second: median(row.samples.iter().map(|sample| sample.per_second)),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
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

    fn row(name: &'static str, beside: &'static str, cpu: &[f64]) -> Row {
        let samples = cpu.iter().map(|cpu_us| Sample { cpu_us: *cpu_us, per_second: 1e6 / cpu_us }).collect();
        Row { name, what: "", beside, samples }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was half as fast in the second round; that is no difference between the two.
        let rows = [row("bare", "bare", &[20.0, 40.0, 20.0]), row("plain", "bare", &[22.0, 44.0, 22.0])];
        let figures = figures(&rows[1], &rows);
        assert_eq!((figures.cpu_us, figures.over_us), (22.0, 2.0));
        assert!((figures.ratio - 1.1).abs() < 1e-9);
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }
}
