//! Near: who came near to a limit of the shared store through this process, or went over it, lately. What they have used is the store's to say;
//! this only remembers whom to ask about. A hundred for each limit, those who came last, so that no crowd makes it grow.

use parking_lot::Mutex;

use super::identity::Identity;
use super::status::STATUS_MAX;

/// Those who came near to one limit. A request that is far from it takes no lock.
#[derive(Debug, Default)]
pub(super) struct Near(Mutex<Vec<Noted>>);

#[derive(Clone, Copy, Debug)]
struct Noted {
    identity: Identity,
    /// When it was so last, on any clock that does not go back.
    at: u64,
}

impl Near {
    /// Whether so little is left, of `capacity`, that one is near to the limit: 80 % or more are used.
    pub const fn is_near(remaining: u64, capacity: u64) -> bool {
        remaining as u128 * 5 <= capacity as u128
    }

    /// Remembers one who is near now; in place of whoever was so the longest ago, where there is no room.
    pub fn note(&self, identity: Identity, at: u64) {
        let mut noted = self.0.lock();
        if let Some(known) = noted.iter_mut().find(|one| one.identity.is(identity)) {
            known.at = known.at.max(at);
        } else if noted.len() < STATUS_MAX {
            noted.push(Noted { identity, at });
        } else if let Some(oldest) = noted.iter_mut().min_by_key(|one| one.at) {
            *oldest = Noted { identity, at };
        }
    }

    /// All who are remembered, with when they were noted last.
    pub fn noted(&self) -> Vec<(Identity, u64)> {
        self.0.lock().iter().map(|one| (one.identity, one.at)).collect()
    }

    /// Forgets those who are no longer near, unless they were noted again since then.
    pub fn forget(&self, gone: &[(Identity, u64)]) {
        let is_gone = |one: &Noted| gone.iter().any(|(identity, at)| one.identity.is(*identity) && one.at <= *at);
        self.0.lock().retain(|one| !is_gone(one));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{from, set};
    use super::*;

    fn identity(number: u32) -> Identity {
        let limits = set("limit: 3/min per ip", &[]);
        let ip = std::net::Ipv4Addr::from(number).to_string();
        limits.limits[0].dimensions.identify(&from(&ip))
    }

    #[test]
    fn near_begins_at_80_percent() {
        for (remaining, capacity, expected) in
            [(20, 100, true), (21, 100, false), (0, 1, true), (1, 1, false), (0, u64::MAX, true), (u64::MAX, 5, false)]
        {
            assert_eq!(Near::is_near(remaining, capacity), expected, "{remaining} of {capacity}");
        }
    }

    #[test]
    fn those_who_came_last_are_remembered_and_no_more() {
        let near = Near::default();
        let crowd: Vec<Identity> = (0..150).map(identity).collect();
        near.note(crowd[0], 0);
        for (at, one) in (1..).zip(&crowd) {
            near.note(*one, at);
        }
        near.note(crowd[149], 1); // an older request that was decided later
        let noted = near.noted();
        assert_eq!(noted.len(), STATUS_MAX);
        assert!(noted.iter().all(|(_, at)| *at > 50), "the last hundred, each once");
        near.forget(&[(crowd[149], 150), (crowd[148], 148)]);
        assert_eq!(near.noted().len(), STATUS_MAX - 1, "who was noted since is kept");
    }
}
