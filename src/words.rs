//! Numbers in sentences: one thing, or several things.
//! Not here: large numbers for tables, which are written in groups of digits (`analytics/text.rs`).

/// `1 key`, `2 keys`: the plural ends in `s`.
pub fn counted(number: impl Into<u64>, thing: &str) -> String {
    let number = number.into();
    format!("{number} {}", plural(number, thing))
}

/// `key` or `keys`.
pub fn plural(number: u64, thing: &str) -> String {
    if number == 1 { thing.to_owned() } else { format!("{thing}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_no_several_things() {
        assert_eq!([0_u64, 1, 2].map(|number| counted(number, "key")), ["0 keys", "1 key", "2 keys"]);
    }
}
