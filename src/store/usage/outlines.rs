//! Outlines: the stored values of an hour or a day that are smaller than the whole, and which of them answer a question.
//! Some tell apart less (`detail.rs`); portions tell apart everything, of those callers that fall into them, so that what one key or
//! one consumer did is found without reading what all did. No SQL.

use std::collections::{BTreeMap, BTreeSet};

use super::{Detail, Dimension, Series, Tally, pack};

/// Into so many slots consumers fall, and keys; every pair of slots is a portion.
const SLOTS: usize = 8;

/// What is read of every hour or day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The value that holds everything.
    Whole,
    /// These outlines by name, each the whole answer or a part of it that no other holds.
    Outlines(Vec<String>),
}

impl Reading {
    /// The outline that every hour or day has that has any.
    pub const ALWAYS: &str = Detail::Instances.name();

    /// The least that tells apart what is needed, where only these consumers and keys are asked for; none named are all.
    pub fn of(needed: &[Dimension], consumers: &[Option<String>], keys: &[Option<String>]) -> Self {
        let detail = Detail::of(needed);
        let knows_callers = matches!(detail, Detail::Callers | Detail::Full);
        if knows_callers && (!consumers.is_empty() || !keys.is_empty()) {
            let (consumers, keys) = (slots(consumers), slots(keys));
            let portions = consumers.iter().flat_map(|consumer| keys.iter().map(move |key| consumer * SLOTS + key));
            return Self::Outlines(portions.map(name).collect());
        }
        Self::outline(detail)
    }

    /// The outline of so much detail.
    pub fn outline(detail: Detail) -> Self {
        if detail == Detail::Full { Self::Whole } else { Self::Outlines(vec![detail.name().to_owned()]) }
    }

    /// All portions, which hold everything together.
    pub fn portions() -> Self {
        Self::Outlines((0..SLOTS * SLOTS).map(name).collect())
    }
}

fn slots(texts: &[Option<String>]) -> BTreeSet<usize> {
    if texts.is_empty() {
        return (0..SLOTS).collect();
    }
    texts.iter().map(|text| slot(text.as_deref())).collect()
}

/// Stored values depend on it: it may never change.
fn slot(text: Option<&str>) -> usize {
    text.map_or(0, |text| crc32fast::hash(text.as_bytes()) as usize % SLOTS)
}

fn name(portion: usize) -> String {
    format!("portion-{portion}")
}

/// The packed outlines of some series by name: those with less detail, and the portions that hold anything.
pub fn outlines<'a>(entries: impl Iterator<Item = (Series<&'a str>, &'a Tally)> + Clone) -> Vec<(String, Vec<u8>)> {
    let outline = |detail: Detail| {
        let mut tallies: BTreeMap<Series<&str>, Tally> = BTreeMap::new();
        for (series, tally) in entries.clone() {
            tallies.entry(detail.outline(&series)).or_default().merge(tally);
        }
        (detail.name().to_owned(), pack(&tallies))
    };
    let mut outlines: Vec<_> = Detail::OUTLINES.into_iter().map(outline).collect();
    let mut portions: BTreeMap<usize, Vec<(Series<&str>, &Tally)>> = BTreeMap::new();
    for (series, tally) in entries.clone() {
        let portion = slot(series.consumer) * SLOTS + slot(series.key);
        portions.entry(portion).or_default().push((series, tally));
    }
    let packed = |(portion, entries): (usize, Vec<_>)| {
        (name(portion), pack(entries.iter().map(|(series, tally): &(Series<&str>, &Tally)| (series, *tally))))
    };
    outlines.extend(portions.into_iter().map(packed));
    outlines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(texts: &[&str]) -> Vec<Option<String>> {
        texts.iter().map(|text| Some((*text).to_owned())).collect()
    }

    fn read(needed: &[Dimension], consumers: &[&str], keys: &[&str]) -> usize {
        match Reading::of(needed, &some(consumers), &some(keys)) {
            Reading::Whole => 0,
            Reading::Outlines(outlines) => outlines.len(),
        }
    }

    #[test]
    fn one_key_is_an_eighth_and_with_its_consumer_one_of_all_portions() {
        use Dimension::{Consumer, Endpoint, Instance, Key};
        assert_eq!(read(&[Instance, Key], &[], &[]), 0);
        assert_eq!(read(&[Instance, Key], &[], &["a"]), SLOTS);
        assert_eq!(read(&[Endpoint, Consumer], &["acme"], &[]), SLOTS);
        assert_eq!(read(&[Endpoint, Consumer, Key], &["acme"], &["a"]), 1);
        assert_eq!(Reading::of(&[Key], &[], &some(&["a"])), Reading::outline(Detail::Consumers));
        assert_eq!(Reading::of(&[Endpoint], &[], &[]), Reading::outline(Detail::Routes));
    }

    #[test]
    fn requests_without_a_key_have_their_portion() {
        let series = Series { endpoint: "/a", ..Series::default() };
        let (tally, other) = (Tally { count: 1, ..Tally::default() }, Series { key: Some("k"), ..series });
        let names: Vec<String> =
            outlines([(series, &tally), (other, &tally)].into_iter()).into_iter().map(|(name, _)| name).collect();
        let Reading::Outlines(none) = Reading::of(&[Dimension::Key, Dimension::Instance], &[], &[None]) else {
            panic!("all is read")
        };
        assert!(none.iter().any(|name| names.contains(name)), "{none:?} {names:?}");
        let all: Vec<&str> = names.iter().map(String::as_str).filter(|name| name.starts_with("portion-")).collect();
        assert_eq!(all, ["portion-0", &format!("portion-{}", slot(Some("k")))]);
    }
}
