//! Parameters: a question as names and values, the same from the command line and from the admin API's query.
//! Strict: a name that no one takes, or one that is given twice where one value is meant, is an error.

/// Names and values that wait to be taken.
#[derive(Clone, Debug, Default)]
pub struct Parameters {
    left: Vec<(String, String)>,
    known: Vec<&'static str>,
}

impl Parameters {
    /// In the order in which they were given.
    pub fn new(pairs: Vec<(String, String)>) -> Self {
        Self { left: pairs, known: Vec::new() }
    }

    /// All values of a name.
    pub(super) fn many(&mut self, name: &'static str) -> Vec<String> {
        self.known.push(name);
        let (taken, left) = std::mem::take(&mut self.left).into_iter().partition(|(other, _)| other == name);
        self.left = left;
        Vec::into_iter(taken).map(|(_, value)| value).collect()
    }

    /// All values of a name; several may stand in one, with commas between them.
    pub(super) fn listed(&mut self, name: &'static str) -> Vec<String> {
        let values = self.many(name);
        values.iter().flat_map(|value| value.split(',')).map(|value| value.trim().to_owned()).collect()
    }

    /// The value of a name that may be given once.
    ///
    /// # Errors
    /// It is given more than once.
    pub fn one(&mut self, name: &'static str) -> Result<Option<String>, String> {
        let mut values = self.many(name).into_iter();
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            _ => Err(format!("{name}: given more than once")),
        }
    }

    /// The number of a name that may be given once.
    pub(super) fn number(&mut self, name: &'static str, max: u32) -> Result<Option<u32>, String> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        let number = text.parse().ok().filter(|number| (1..=max).contains(number));
        number.map(Some).ok_or_else(|| format!("{name}: `{text}` is no number from 1 to {max}"))
    }

    /// The value of a name, read by `read`.
    ///
    /// # Errors
    /// It can't be read, or is given more than once.
    pub fn parsed<T>(
        &mut self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        let Some(text) = self.one(name)? else { return Ok(None) };
        read(&text).map(Some).map_err(|why| format!("{name}: {why}"))
    }

    /// Whether a name is given, alone or as `true`.
    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool, String> {
        match self.one(name)?.as_deref() {
            None | Some("false") => Ok(false),
            Some("" | "true") => Ok(true),
            Some(other) => Err(format!("{name}: `{other}` is neither true nor false")),
        }
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// Something is, that nobody takes.
    pub fn finish(self) -> Result<(), String> {
        let mut known = self.known;
        known.sort_unstable();
        match self.left.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!("there is no parameter `{name}`; there are {}", known.join(", "))),
        }
    }
}

/// One of some words.
pub(super) fn word<T: Copy>(text: &str, words: &[(&'static str, T)]) -> Result<T, String> {
    words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("`{text}` is none of {}", words.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Parameters {
        Parameters::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn what_nobody_takes_is_an_error() {
        let mut given = parameters(&[("top", "5"), ("tpo", "5")]);
        assert_eq!(given.number("top", 10), Ok(Some(5)));
        assert!(given.finish().unwrap_err().contains("no parameter `tpo`; there are top"));
    }

    #[test]
    fn values_may_be_repeated_only_where_several_are_meant() {
        assert!(parameters(&[("last", "1h"), ("last", "2h")]).one("last").is_err());
        assert_eq!(parameters(&[("by", "key,day"), ("by", "status")]).listed("by"), ["key", "day", "status"]);
    }

    #[test]
    fn numbers_and_flags_are_what_they_say() {
        assert!(parameters(&[("top", "0")]).number("top", 10).is_err());
        assert!(parameters(&[("top", "11")]).number("top", 10).is_err());
        assert_eq!(parameters(&[("summary", "")]).flag("summary"), Ok(true));
        assert!(parameters(&[("summary", "yes")]).flag("summary").is_err());
    }
}
