//! Inventory: every key of the file and of the key store, with what the request log knows of its use; as a table and as JSON.
//! Use is counted by the key's name, from the roll-ups: a name is used once, so it is the same key for ever.
//! Not here: what a key is, and how one is changed (`keys`).

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::sheet::{Cell, Column, Sheet, Style, Tint};
use super::text::printable_json;
use super::{Format, Parameters, question, usage};
use crate::config::Key;
use crate::store::keys::StoredKey;
use crate::store::read::{Reader, Unreadable};

/// Keys by days that an answer about their use may have.
const GROUPS_MAX: &str = "100000";

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The configuration file.
    File,
    /// The key store.
    Store,
}

/// Whether a key is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is.
    Active,
    /// Not since its end.
    Expired,
    /// Not since somebody said so.
    Revoked,
    /// Not this one: the file has another key of this name, or this key under another name.
    Overruled,
}

/// A key.
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub consumer: String,
    /// Where it is.
    pub place: Place,
    /// Whether it is accepted now.
    pub state: State,
    /// The consumer's plan.
    pub plan: Option<String>,
    /// The consumer's labels.
    pub labels: Vec<String>,
    /// When it was made; not known of keys in the file.
    pub created: Option<Timestamp>,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
    /// Since when it is revoked.
    pub revoked: Option<Timestamp>,
    /// Whether it was imported although it is short or chosen.
    pub weak: bool,
    /// The first digits of its digest, to tell it from others.
    pub sha256: String,
    /// Requests in the days that were asked about; none where the log can't tell.
    pub requests: Option<u64>,
    /// The last day (UTC) on which it was used, in the days that were asked about.
    pub last_used: Option<String>,
}

/// Every key.
#[derive(Clone, Debug, Serialize)]
pub struct Inventory {
    /// What is to be known about the answer.
    pub notes: Vec<String>,
    /// The days that `requests` counts.
    pub days: u32,
    /// By name.
    pub keys: Vec<Item>,
}

impl Inventory {
    /// The keys of both, without their use.
    pub fn of(file: &BTreeMap<String, Key>, stored: &[StoredKey], days: u32, now: Timestamp) -> Self {
        let mut keys: Vec<Item> = file.iter().map(|(name, key)| of_file(name, key, now)).collect();
        keys.extend(stored.iter().map(|key| of_store(key, file, now)));
        keys.sort_by(|one, other| one.name.cmp(&other.name).then(one.revoked.cmp(&other.revoked)));
        Self { notes: Vec::new(), days, keys }
    }

    /// Adds what the log knows of their use.
    ///
    /// # Errors
    /// The log can't be read, or not in time.
    pub fn add_use(&mut self, reader: &mut Reader, now: Timestamp) -> Result<(), Unreadable> {
        let given = [("by", "key,day"), ("last", &*format!("{}d", self.days)), ("top", GROUPS_MAX)];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let asked = question(Parameters::new(given), &Format::FOR_PROGRAMS, usage::Question::take, now);
        // The words are ours, so they are understood.
        let Ok((asked, _)) = asked else { return Ok(()) };
        let answer: Value = serde_json::from_str(&asked.answer(reader, now)?.json()).unwrap_or_default();
        let mut used: HashMap<&str, (u64, &str)> = HashMap::new();
        for group in answer["groups"].as_array().into_iter().flatten() {
            if let (Some(key), Some(day), Some(requests)) =
                (group["key"].as_str(), group["day"].as_str(), group["requests"].as_u64())
            {
                let (sum, last) = used.entry(key).or_default();
                *sum += requests;
                *last = day.max(*last);
            }
        }
        for item in &mut self.keys {
            let (requests, last) = used.get(item.name.as_str()).copied().unwrap_or_default();
            item.requests = Some(requests);
            item.last_used = (!last.is_empty()).then(|| last.to_owned());
        }
        let since = now.as_second() - i64::from(self.days) * 86_400;
        match reader.span()?.map(|span| i64::from(span.start.0) * 60) {
            Some(first) if first <= since => {}
            Some(first) => {
                let first = Timestamp::from_second(first).unwrap_or(now).strftime("%Y-%m-%d %H:%M").to_string();
                self.notes.push(format!("the log begins at {first} UTC: of the time before nothing is known"));
            }
            None => self.notes.push("the log is empty, so nothing is known of their use".to_owned()),
        }
        if answer["groups_left_out"].as_u64().is_some_and(|left_out| left_out > 0) {
            self.notes.push(
                "too many keys were used on too many days: the least used ones may be counted too low".to_owned(),
            );
        }
        Ok(())
    }

    /// Only the keys that are accepted, and were not used in the days that were asked about. A key that was made since then had no time.
    pub fn keep_unused(&mut self, now: Timestamp) {
        let since = now.as_second() - i64::from(self.days) * 86_400;
        self.keys.retain(|item| {
            let had_time = item.created.is_none_or(|created| created.as_second() <= since);
            item.state == State::Active && item.requests == Some(0) && had_time
        });
    }

    /// Without those that are revoked.
    pub fn leave_out_revoked(&mut self) {
        self.keys.retain(|item| item.state != State::Revoked);
    }

    /// As JSON.
    pub fn json(&self) -> String {
        printable_json(&serde_json::to_string_pretty(self).unwrap_or_default()) + "\n"
    }

    /// As a table.
    pub fn table(&self, style: Style) -> String {
        let column = |title, is_text, rank| Column { title, is_text, rank };
        let columns = vec![
            column("name", true, 0),
            column("consumer", true, 0),
            column("state", true, 0),
            column("in", true, 3),
            column("plan", true, 4),
            column("labels", true, 2),
            column("created", true, 1),
            column("expires", true, 6),
            column("last used", true, 7),
            column("requests", false, 8),
        ];
        let date = |time: Option<Timestamp>| time.map_or("-".to_owned(), |time| time.strftime("%Y-%m-%d").to_string());
        let rows = self.keys.iter().map(|item| {
            let tint = if item.state == State::Active { Tint::Plain } else { Tint::Bad };
            let text = |text: Option<&str>| text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned();
            vec![
                item.name.clone().into(),
                item.consumer.clone().into(),
                Cell { text: item.state.word(item.weak), tint },
                item.place.word().to_owned().into(),
                text(item.plan.as_deref()).into(),
                text(Some(&item.labels.join(","))).into(),
                date(item.created).into(),
                date(item.expires).into(),
                text(item.last_used.as_deref()).into(),
                item.requests.map_or("-".to_owned(), |requests| requests.to_string()).into(),
            ]
        });
        let mut out = Sheet { columns, rows: rows.collect() }.render(style);
        if !out.ends_with('\n') {
            out.push('\n');
        }
        let mut line = |line: String| out.push_str(&style.wrap(&line, 2));
        line(format!("requests and last use: the last {} days, in UTC\n", self.days));
        self.notes.iter().for_each(|note| line(format!("note: {note}\n")));
        out
    }
}

impl State {
    fn word(self, weak: bool) -> String {
        let word = match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Overruled => "overruled by the file",
        };
        if weak { format!("{word}, weak") } else { word.to_owned() }
    }
}

impl Place {
    const fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Store => "store",
        }
    }
}

fn of_file(name: &str, key: &Key, now: Timestamp) -> Item {
    let consumer = key.consumer.as_deref().unwrap_or(name);
    let expires = key.expires.map(|expires| expires.0);
    Item {
        name: name.to_owned(),
        consumer: consumer.to_owned(),
        place: Place::File,
        state: if expires.is_some_and(|expires| expires <= now) { State::Expired } else { State::Active },
        plan: key.plan.clone(),
        labels: key.labels.clone(),
        created: None,
        expires,
        revoked: None,
        weak: false,
        sha256: key.sha256.to_string()[..12].to_owned(),
        requests: None,
        last_used: None,
    }
}

fn of_store(key: &StoredKey, file: &BTreeMap<String, Key>, now: Timestamp) -> Item {
    let is_overruled = file.contains_key(&key.name) || file.values().any(|other| other.sha256 == key.sha256);
    let state = match key.expires {
        _ if key.revoked.is_some() => State::Revoked,
        _ if is_overruled => State::Overruled,
        Some(expires) if expires <= now => State::Expired,
        _ => State::Active,
    };
    Item {
        name: key.name.clone(),
        consumer: key.consumer.clone(),
        place: Place::Store,
        state,
        plan: key.plan.clone(),
        labels: key.labels.clone(),
        created: Some(key.created),
        expires: key.expires,
        revoked: key.revoked,
        weak: key.weak,
        sha256: key.sha256.to_string()[..12].to_owned(),
        requests: None,
        last_used: None,
    }
}
