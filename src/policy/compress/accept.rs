//! `Accept-Encoding`: which of the codings that are offered a client likes best (RFC 9110 section 12.5.3).
//! What can't be read accepts nothing, and nobody is told: it is the client's own word, sent with every request.

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

use crate::config::Coding;

/// How much a client likes what it named, in thousandths.
#[derive(Default)]
struct Likes {
    offered: [Option<u16>; 3],
    identity: Option<u16>,
    any: Option<u16>,
}

/// The coding that the client likes best, by its weights; among equals the one that is offered first. None where it accepts
/// none of them, or likes the answer without any coding better.
pub(super) fn choose(request: &HeaderMap, offered: &[Coding]) -> Option<Coding> {
    let likes = Likes::read(request)?;
    let mut best: Option<(Coding, u16)> = None;
    for coding in offered {
        let weight = likes.offered[*coding as usize].or(likes.any).unwrap_or(0);
        if weight > best.map_or(0, |(_, best)| best) {
            best = Some((*coding, weight));
        }
    }
    // Not named, it is what is left when nothing better is there.
    let identity = likes.identity.or(likes.any).unwrap_or(0);
    best.filter(|(_, weight)| *weight >= identity).map(|(coding, _)| coding)
}

impl Likes {
    /// None where a part of it can't be read.
    fn read(request: &HeaderMap) -> Option<Self> {
        let mut likes = Self::default();
        for line in request.get_all(ACCEPT_ENCODING) {
            for member in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                if !member.is_empty() {
                    likes.add(member)?;
                }
            }
        }
        Some(likes)
    }

    fn add(&mut self, member: &[u8]) -> Option<()> {
        let (token, weight) = match member.iter().position(|byte| *byte == b';') {
            None => (member, 1_000),
            Some(at) => (member[..at].trim_ascii_end(), weight(member[at + 1..].trim_ascii_start())?),
        };
        if token.is_empty() || !token.iter().all(|byte| is_token(*byte)) {
            return None;
        }
        let is = |name: &str| token.eq_ignore_ascii_case(name.as_bytes());
        let place = if is("gzip") || is("x-gzip") {
            &mut self.offered[Coding::Gzip as usize]
        } else if is("br") {
            &mut self.offered[Coding::Br as usize]
        } else if is("zstd") {
            &mut self.offered[Coding::Zstd as usize]
        } else if is("identity") {
            &mut self.identity
        } else if is("*") {
            &mut self.any
        } else {
            return Some(());
        };
        // Of one that is named twice, the word against it counts.
        *place = Some(place.map_or(weight, |before| before.min(weight)));
        Some(())
    }
}

/// RFC 9110 section 5.6.2
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// `q=0.5` is 500 (RFC 9110 section 12.4.2).
fn weight(parameter: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', whole @ (b'0' | b'1'), rest @ ..] = parameter else { return None };
    let fraction = match rest {
        [] => rest,
        [b'.', fraction @ ..] if fraction.len() <= 3 => fraction,
        _ => return None,
    };
    let mut weight = u16::from(whole - b'0') * 1_000;
    for (digit, worth) in fraction.iter().zip([100, 10, 1]) {
        if !digit.is_ascii_digit() {
            return None;
        }
        weight += u16::from(digit - b'0') * worth;
    }
    (weight <= 1_000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Coding::{Br, Gzip, Zstd};

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT_ENCODING, line.parse().unwrap());
        }
        headers
    }

    #[track_caller]
    fn check(line: &str, expected: Option<Coding>) {
        assert_eq!(choose(&headers(&[line]), &[Zstd, Br, Gzip]), expected, "{line}");
    }

    #[test]
    fn the_highest_weight_wins_and_the_route_decides_between_equals() {
        check("gzip", Some(Gzip));
        check("gzip, br, zstd", Some(Zstd));
        check("gzip, deflate, br", Some(Br));
        check("gzip, br;q=0.9", Some(Gzip));
        check("GZIP;Q=0.5 , br ; q=0.500", Some(Br));
        check("x-gzip", Some(Gzip));
        assert_eq!(choose(&headers(&["gzip, br"]), &[Gzip, Br]), Some(Gzip));
        assert_eq!(choose(&headers(&["br"]), &[Gzip]), None);
        assert_eq!(choose(&headers(&["gzip;q=0.5", "br"]), &[Gzip, Br]), Some(Br));
    }

    #[test]
    fn what_is_refused_is_not_chosen() {
        check("gzip;q=0", None);
        check("gzip;q=0.000, br", Some(Br));
        check("*;q=0", None);
        check("*;q=0, gzip", Some(Gzip));
        check("gzip, gzip;q=0", None);
        check("zstd;q=0, *", Some(Br));
    }

    #[test]
    fn any_stands_for_what_is_not_named() {
        check("*", Some(Zstd));
        check("*;q=0.2, gzip;q=0.5", Some(Gzip));
    }

    #[test]
    fn an_answer_as_it_is_may_be_liked_better() {
        check("identity", None);
        check("identity, gzip;q=0.5", None);
        check("identity;q=0.5, gzip", Some(Gzip));
        check("identity, gzip", Some(Gzip));
        check("identity;q=0, br;q=0.1", Some(Br));
        check("identity;q=0", None);
        check("*, gzip;q=0.5, br;q=0.5, zstd;q=0.5", None);
    }

    #[test]
    fn nothing_and_what_cant_be_read_accept_nothing() {
        assert_eq!(choose(&HeaderMap::new(), &[Gzip]), None);
        for line in ["", ",", "gzip;q=2", "gzip;q=1.001", "gzip;q=", "gzip;q=0.1234", "gzip;level=1", "gzip;q=.5"] {
            check(line, None);
        }
        for line in ["gz ip", "gzip;", ";q=1", "gzip, b{r", "gzip, br;q=x", "gzip q=1", "gzip;q=-1", "gzip;q=0,5"] {
            check(line, None);
        }
    }

    /// A member: what is named, and its weight in thousandths where it has one.
    type Member = (&'static str, Option<u16>);

    fn members() -> impl Strategy<Value = Vec<Member>> {
        let names = prop::sample::select(vec!["gzip", "br", "zstd", "identity", "*", "deflate"]);
        let weights = prop::option::of(prop::sample::select(vec![0, 1, 250, 500, 999, 1_000]));
        prop::collection::vec((names, weights), 0..6)
    }

    /// As the RFC says it, one question after the other.
    fn naive(members: &[Member], offered: &[Coding]) -> Option<Coding> {
        let named = |name: &str| {
            let weights = members.iter().filter(|(other, _)| *other == name).map(|(_, weight)| weight.unwrap_or(1_000));
            weights.min()
        };
        let weight = |name: &str| named(name).or_else(|| named("*")).unwrap_or(0);
        let acceptable: Vec<Coding> = offered.iter().copied().filter(|coding| weight(coding.token()) > 0).collect();
        let highest = acceptable.iter().map(|coding| weight(coding.token())).max()?;
        if weight("identity") > highest {
            return None;
        }
        acceptable.into_iter().find(|coding| weight(coding.token()) == highest)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn it_chooses_as_the_rfc_says(
            members in members(),
            offered in Just(vec![Gzip, Br, Zstd]).prop_shuffle(),
            count in 1_usize..=3,
            lines in 1_usize..=3,
        ) {
            let offered = &offered[..count];
            let text: Vec<String> = members
                .iter()
                .map(|(name, weight)| match weight {
                    Some(weight) => format!("{name};q={}.{:03}", weight / 1_000, weight % 1_000),
                    None => (*name).to_owned(),
                })
                .collect();
            let lines: Vec<String> = text.chunks(lines).map(|line| line.join(", ")).collect();
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            prop_assert_eq!(choose(&headers(&lines), offered), naive(&members, offered), "{:?}", lines);
        }

        #[test]
        fn no_header_makes_it_choose_what_is_not_offered(line in "[ -~]{0,40}") {
            let chosen = choose(&headers(&[&line]), &[Br]);
            prop_assert!(chosen.is_none_or(|coding| coding == Br));
        }
    }
}
