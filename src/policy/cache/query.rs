//! The query that tells answers apart: without the parameters that no answer depends on, sorted where the route says so.
//! Instances get this one, too, so that nothing which is not part of the key can change a stored answer.
//! Parameters are compared as they were sent: another spelling of the same bytes is another parameter.

use crate::config::CachedQuery;

/// The compiled `query` of a route's cache.
#[derive(Clone, Debug, Default)]
pub(super) struct QueryRule {
    names: Vec<Vec<u8>>,
    beginnings: Vec<Vec<u8>>,
    sort: bool,
}

impl QueryRule {
    pub(super) fn compile(config: &CachedQuery) -> Self {
        let (mut names, mut beginnings) = (Vec::new(), Vec::new());
        for name in &config.ignore {
            match name.strip_suffix('*') {
                Some(beginning) => beginnings.push(beginning.as_bytes().to_vec()),
                None => names.push(name.as_bytes().to_vec()),
            }
        }
        Self { names, beginnings, sort: config.sort }
    }

    /// The query in the form that counts; none where that is how it came.
    pub(super) fn apply(&self, query: &[u8]) -> Option<Vec<u8>> {
        if !self.sort && self.names.is_empty() && self.beginnings.is_empty() {
            return None;
        }
        let mut parameters: Vec<&[u8]> = query.split(|byte| *byte == b'&').collect();
        parameters.retain(|parameter| !self.ignores(name_of(parameter)));
        if self.sort {
            // The order of parameters with one name may mean something.
            parameters.sort_by(|one, other| name_of(one).cmp(name_of(other)));
        }
        let counts = parameters.join(&b'&');
        (counts != query).then_some(counts)
    }

    fn ignores(&self, name: &[u8]) -> bool {
        self.names.iter().any(|ignored| ignored == name)
            || self.beginnings.iter().any(|beginning| name.starts_with(beginning))
    }
}

fn name_of(parameter: &[u8]) -> &[u8] {
    parameter.split(|byte| *byte == b'=').next().unwrap_or(parameter)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ignore: &[&str], sort: bool, query: &str, counts: &str) {
        let config = CachedQuery { ignore: ignore.iter().map(|name| (*name).to_owned()).collect(), sort };
        let applied = QueryRule::compile(&config).apply(query.as_bytes());
        let applied = applied.unwrap_or_else(|| query.as_bytes().to_vec());
        assert_eq!(String::from_utf8(applied).unwrap(), counts);
    }

    #[test]
    fn what_is_ignored_and_sorted() {
        check(&[], false, "b=1&a=2", "b=1&a=2");
        check(&["utm_*", "fbclid"], false, "a=1&utm_source=x&fbclid=y&b=2&utm_", "a=1&b=2");
        check(&["utm_*"], false, "utm_source=x", "");
        check(&["page"], false, "pages=1&page", "pages=1");
        check(&[], true, "b=2&a=1&b=1&a", "a=1&a&b=2&b=1");
        check(&[], true, "", "");
    }
}
