//! Outlines: the stored values of an hour or a day that are smaller than the whole, and which of them answer a question.
//! Some tell apart less (`detail.rs`); portions tell apart everything, of those keys or those consumers that fall into them, so that
//! what one key or one consumer did is found without reading what all did. No SQL.

use std::collections::{BTreeMap, BTreeSet};

use super::{Detail, Dimension, Series, Tally, pack};

/// Into so many portions keys fall, and consumers. Each of both families holds everything.
const PORTIONS: usize = 16;

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
        match (knows_callers, keys, consumers) {
            (true, [_, ..], _) => Self::portions_of(Family::Key, keys),
            (true, [], [_, ..]) => Self::portions_of(Family::Consumer, consumers),
            _ => Self::outline(detail),
        }
    }

    fn portions_of(family: Family, texts: &[Option<String>]) -> Self {
        let portions: BTreeSet<usize> = texts.iter().map(|text| portion(text.as_deref())).collect();
        Self::Outlines(portions.into_iter().map(|portion| family.name(portion)).collect())
    }

    /// The outline of so much detail.
    pub fn outline(detail: Detail) -> Self {
        if detail == Detail::Full { Self::Whole } else { Self::Outlines(vec![detail.name().to_owned()]) }
    }

    /// All portions of a family, which hold everything together.
    pub fn portions(family: Family) -> Self {
        Self::Outlines((0..PORTIONS).map(|portion| family.name(portion)).collect())
    }
}

/// What portions are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `key-0` to `key-15`.
    Key,
    /// `consumer-0` to `consumer-15`.
    Consumer,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Key, Self::Consumer];

    fn name(self, portion: usize) -> String {
        match self {
            Self::Key => format!("key-{portion}"),
            Self::Consumer => format!("consumer-{portion}"),
        }
    }

    fn text<'a>(self, series: &Series<&'a str>) -> Option<&'a str> {
        match self {
            Self::Key => series.key,
            Self::Consumer => series.consumer,
        }
    }
}

/// Stored values depend on it: it may never change.
fn portion(text: Option<&str>) -> usize {
    text.map_or(0, |text| crc32fast::hash(text.as_bytes()) as usize % PORTIONS)
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
    for family in Family::ALL {
        let mut portions: BTreeMap<usize, Vec<(Series<&str>, &Tally)>> = BTreeMap::new();
        for (series, tally) in entries.clone() {
            portions.entry(portion(family.text(&series))).or_default().push((series, tally));
        }
        outlines.extend(portions.into_iter().map(|(portion, entries)| {
            (family.name(portion), pack(entries.iter().map(|(series, tally)| (series, *tally))))
        }));
    }
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
    fn one_key_or_one_consumer_is_one_portion() {
        use Dimension::{Consumer, Endpoint, Instance, Key};
        assert_eq!(read(&[Instance, Key], &[], &[]), 0);
        assert_eq!(read(&[Instance, Key], &[], &["a"]), 1);
        assert_eq!(read(&[Endpoint, Consumer], &["acme"], &[]), 1);
        assert_eq!(read(&[Endpoint, Consumer, Key], &["acme"], &["a"]), 1);
        let many: Vec<String> = (0..500).map(|number| format!("k{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(read(&[Endpoint, Key], &[], &many), PORTIONS);
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
        assert_eq!(none, ["key-0"]);
        let all: Vec<&str> = names[Detail::OUTLINES.len()..].iter().map(String::as_str).collect();
        assert_eq!(all, ["key-0", &format!("key-{}", portion(Some("k"))), "consumer-0"]);
    }
}
