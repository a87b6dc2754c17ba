//! What sources say, put together: at first, and as one list.
//! Not here: what a source is (`discovery`), and what follows from a list (the service).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::Service;
use crate::config;
use crate::upstream::address::Address;
use crate::upstream::discovery::{Addresses, Answers, Found, Listed, Source, Watched, twice};

/// What each source says at first.
pub(super) fn first(
    config: &config::Service,
    sources: &[Source],
    answers: &Answers,
    written: &Addresses,
    before: Option<&Arc<Service>>,
) -> Result<Vec<Found>, Vec<(String, String)>> {
    let mut problems = Vec::new();
    let mut seen: HashSet<Address> = written.iter().map(|listed| listed.address.clone()).collect();
    let mut first = |source: &Source| {
        let known = before.and_then(|before| Some((before, before.sources.iter().position(|one| one == source)?)));
        if let Some((before, index)) = known {
            return before.before_of(index);
        }
        let mut found = Found::nothing_yet();
        let said = match source {
            Source::Registration => return found,
            Source::File(path) => Watched::new(path).first().map(|listed| (listed, Duration::ZERO)),
            _ => source
                .query()
                .map_or_else(|| Err(String::new()), |query| answers.of(query))
                .map(|answer| (source.listed(&answer, &Addresses::new()), answer.ttl)),
        };
        match (source, said) {
            (_, Ok((listed, lasts))) => _ = found.is_now(listed, lasts),
            (Source::Named { index, .. }, Err(problem)) => problems.push((format!("instances[{index}]"), problem)),
            (Source::File(_), Err(problem)) => problems.push(("discover.file".to_owned(), problem)),
            (_, Err(problem)) => found.failed(problem),
        }
        if let Source::Named { index, .. } = source {
            let text = &config.instances[*index].address;
            let again = found.listed.iter().find(|listed| !seen.insert(listed.address.clone()));
            problems.extend(again.map(|listed| (format!("instances[{index}]"), twice(text, &listed.address))));
        }
        found
    };
    let found = sources.iter().map(&mut first).collect();
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

/// All instances; where two sources name the same address, what the first one says of it holds.
pub(super) fn union(written: &Addresses, sources: &[Source], found: &[Found], registered: &Addresses) -> Addresses {
    let mut all: BTreeMap<&Address, &Listed> = written.iter().map(|listed| (&listed.address, listed)).collect();
    let registers = sources.contains(&Source::Registration);
    let registered = registered.iter().filter(|_| registers);
    for listed in found.iter().flat_map(|found| &found.listed).chain(registered) {
        all.entry(&listed.address).or_insert(listed);
    }
    all.into_values().cloned().collect()
}
