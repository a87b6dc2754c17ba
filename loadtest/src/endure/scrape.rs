//! Reads the gateway's own series: Prometheus' text format, as far as the gateway writes it.
//! A series that is not there is an error, never a zero: a check that reads the wrong name must not pass.

/// What `/metrics` said.
pub struct Scrape(String);

impl Scrape {
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The sum over all series of this name whose labels hold `label`, e.g. `result="success"`; every series for an empty one.
    pub fn sum(&self, name: &str, label: &str) -> Result<u64, String> {
        let values: Vec<f64> = self.0.lines().filter_map(|line| value(line, name, label)).collect();
        if values.is_empty() {
            return Err(format!("/metrics has no {name} with {label:?}"));
        }
        Ok(values.iter().sum::<f64>() as u64)
    }
}

/// Records that are not in the store yet, in memory and on disk.
pub fn waiting(scrape: &Scrape) -> Result<u64, String> {
    Ok(scrape.sum("tollgate_log_queued_records", "")? + scrape.sum("tollgate_log_spooled_records", "")?)
}

fn value(line: &str, name: &str, label: &str) -> Option<f64> {
    let rest = line.strip_prefix(name)?;
    let (labels, value) = match rest.strip_prefix('{') {
        Some(rest) => rest.rsplit_once("} ")?,
        None => ("", rest.strip_prefix(' ')?),
    };
    if labels.contains(label) { value.trim().parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# HELP a_total x\n# TYPE a_total counter\na_total{r=\"/a} b\",x=\"1\"} 3\na_total{x=\"2\"} 4\na 5\nab 6\n";

    #[test]
    fn series_are_summed_by_name_and_label() {
        let scrape = Scrape::new(TEXT.to_owned());
        assert_eq!(scrape.sum("a_total", ""), Ok(7));
        assert_eq!(scrape.sum("a_total", "x=\"1\""), Ok(3));
        assert_eq!(scrape.sum("a", ""), Ok(5));
    }

    #[test]
    fn a_missing_series_is_an_error() {
        let scrape = Scrape::new(TEXT.to_owned());
        assert!(scrape.sum("b", "").is_err() && scrape.sum("a_total", "x=\"9\"").is_err());
    }
}
