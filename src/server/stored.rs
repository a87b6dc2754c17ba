//! Stored answers as an operator names them: by the URL that clients ask for.
//! Not here: how they are purged (`cache`).

use http::{Method, Uri};

use crate::policy::path;
use crate::runtime::Runtime;

/// A URL as stored answers are found by.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// Lower case, with the port where one is written.
    pub(super) host: String,
    /// The normalised path, with the query that counts.
    pub(super) path_and_query: String,
}

impl Target {
    /// What a client's request for this URL is looked up by, as its route says which parts of a query count.
    ///
    /// # Errors
    /// Why it is no such URL.
    pub(super) fn of(url: &str, runtime: &Runtime) -> Result<Self, String> {
        let (uri, host, path) = read(url)?;
        let name = uri.host().unwrap_or_default().to_ascii_lowercase();
        let found = runtime.routes.find(&name, &path, &Method::GET).ok();
        let rule = found.as_ref().and_then(|found| found.route.cache.as_ref());
        let counts =
            rule.zip(uri.query()).and_then(|(rule, query)| rule.query_that_counts(&Method::GET, query.as_bytes()));
        let query = match &counts {
            Some(counts) if counts.is_empty() => String::new(),
            Some(counts) => format!("?{}", String::from_utf8_lossy(counts)),
            None => uri.query().map_or(String::new(), |query| format!("?{query}")),
        };
        Ok(Self { host, path_and_query: path + &query })
    }

    /// The beginning of such URLs.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn prefix(url: &str) -> Result<Self, String> {
        let (uri, host, path) = read(url)?;
        if uri.query().is_some() {
            return Err(format!(
                "`{url}`: a prefix is of the path, and covers every query: leave out what follows `?`"
            ));
        }
        Ok(Self { host, path_and_query: path })
    }
}

fn read(url: &str) -> Result<(Uri, String, String), String> {
    let uri: Uri = url.parse().map_err(|error| format!("`{url}` is no URL: {error}"))?;
    let authority = uri.authority().ok_or_else(|| format!("`{url}` names no host: http://HOST/PATH"))?;
    let host = authority.as_str().to_ascii_lowercase();
    let path = path::normalise(uri.path().as_bytes()).map_err(|why| format!("`{url}`: {why}"))?.into_owned();
    Ok((uri, host, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_keys_are_made() {
        let prefix = Target::prefix("http://Example.com:80/a/../b/").unwrap();
        assert_eq!((prefix.host.as_str(), prefix.path_and_query.as_str()), ("example.com:80", "/b/"));
        for wrong in ["/only/a/path", "http://a/b?c", "http://a/%2f"] {
            assert!(Target::prefix(wrong).is_err(), "{wrong}");
        }
    }
}
