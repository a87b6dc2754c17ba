//! How many gateways share the limits, and which part of a limit is this one's while the store is away.
//! The parts are never more than the limit, so that all gateways together admit it once more and not each of them.

use std::time::{Duration, Instant};

use crate::config::Gateways;

/// How long a gateway counts after it was last seen.
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(60);

/// One gateway's part of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Among how many a limit is divided.
    pub gateways: u32,
    /// This one's place among them, from 0.
    pub rank: u32,
}

/// The gateways that were seen last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Census {
    seen: Option<(Share, Instant)>,
}

impl Share {
    /// How many times a request counts in this process, so that all gateways together admit no more than `requests`; none: never admitted.
    /// With fewer requests than gateways, the first ones admit one each.
    pub fn times(self, requests: u64) -> Option<u64> {
        let gateways = u64::from(self.gateways.max(1));
        if requests >= gateways { Some(gateways) } else { (u64::from(self.rank) < requests).then_some(requests) }
    }
}

impl Census {
    /// Takes what the store has seen. Fewer than before is believed after a minute: a store that has lost its contents
    /// knows nobody at first.
    pub fn learn(&mut self, gateways: u32, rank: u32, now: Instant) {
        let share = Share { gateways: gateways.max(1), rank };
        match self.seen {
            Some((before, at)) if share.gateways < before.gateways && now.duration_since(at) < KNOWN_FOR => {}
            _ => self.seen = Some((share, now)),
        }
    }

    /// Gateways that were seen; 0 before the first answer.
    pub fn gateways(&self) -> u32 {
        self.seen.map_or(0, |(share, _)| share.gateways)
    }

    /// This gateway's share. Before the first answer nobody else is known of.
    pub fn share(&self, configured: Gateways) -> Share {
        match (configured, self.seen) {
            (Gateways::Auto, Some((share, _))) => share,
            (Gateways::Auto, None) => Share { gateways: 1, rank: 0 },
            (Gateways::Count(count), Some((share, _))) => Share { gateways: u32::from(count), rank: share.rank },
            // Nobody knows who is the first: what is too little for all goes to none.
            (Gateways::Count(count), None) => Share { gateways: u32::from(count), rank: u32::from(count) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_never_more_than_the_limit() {
        for (count, gateways, all) in
            [(100, 3, 99), (1, 3, 1), (2, 5, 2), (7, 7, 7), (8, 7, 7), (1000, 1, 1000), (0, 2, 0)]
        {
            let share = |rank| Share { gateways, rank }.times(count).map_or(0, |times| count / times);
            assert_eq!((0..gateways).map(share).sum::<u64>(), all, "{count} among {gateways}");
        }
    }

    #[test]
    fn fewer_gateways_are_believed_after_a_minute() {
        let (mut census, start) = (Census::default(), Instant::now());
        assert_eq!(census.share(Gateways::Auto), Share { gateways: 1, rank: 0 });
        assert_eq!(census.share(Gateways::Count(4)).times(3), None);
        census.learn(3, 2, start);
        census.learn(1, 0, start + Duration::from_secs(59));
        assert_eq!(census.share(Gateways::Auto), Share { gateways: 3, rank: 2 });
        census.learn(1, 0, start + Duration::from_secs(60));
        assert_eq!(census.share(Gateways::Auto), Share { gateways: 1, rank: 0 });
        census.learn(2, 1, start + Duration::from_secs(61));
        assert_eq!((census.gateways(), census.share(Gateways::Count(5)).gateways), (2, 5));
    }
}
