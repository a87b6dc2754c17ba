//! The filter of the tail: the same parameters as for single requests, asked of rows as they come.
//! A row is no answer yet: what becomes of it is the request log's.

use super::filter::{Filter, Part};
use super::parameters::Parameters;
use crate::store::Row;

/// Whether a row is wanted, by the parameters of a follower.
///
/// # Errors
/// A parameter that nobody takes, or a value that can't be understood.
pub fn wanted(mut parameters: Parameters) -> Result<impl Fn(&Row<'_>) -> bool + Send + 'static, String> {
    let min_ms = super::requests::min_ms(&mut parameters)?.unwrap_or_default();
    let filter = Filter::take(&mut parameters)?;
    parameters.finish()?;
    Ok(move |row: &Row<'_>| {
        let parts = [
            (Part::Endpoint, Some(row.endpoint)),
            (Part::Method, Some(row.http_method)),
            (Part::DecidedBy, Some(row.decided_by)),
            (Part::Consumer, row.consumer),
            (Part::Key, row.key),
            (Part::Service, row.service),
            (Part::Instance, row.instance),
        ];
        filter.admits_status(row.status_code)
            && row.response_time_ms() >= min_ms
            && parts.into_iter().all(|(part, text)| filter.admits(part, text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ClientIp;
    use crate::request_log::record_for_tests as record;

    #[test]
    fn only_what_is_wanted_is_shown() {
        let record = record();
        let row = Row::of(&record, ClientIp::Full);
        let is_wanted = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            wanted(Parameters::new(pairs)).map(|wanted| wanted(&row))
        };
        assert_eq!(is_wanted(&[]), Ok(true));
        let own = row.status_code.to_string();
        assert_eq!(is_wanted(&[("status", &own), ("endpoint", row.endpoint)]), Ok(true));
        assert_eq!(is_wanted(&[("status", "599")]), Ok(false));
        assert_eq!(is_wanted(&[("endpoint", "/other")]), Ok(false));
        assert_eq!(is_wanted(&[("min_ms", "1000000")]), Ok(false));
        assert!(is_wanted(&[("last", "1h")]).unwrap_err().contains("last"));
    }
}
