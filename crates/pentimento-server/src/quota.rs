//! How much one caller may ask for.

use std::{
    collections::HashMap,
    num::{NonZeroU32, NonZeroUsize},
};

/// What one caller may have. `None` is no limit but the server's own.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quota {
    /// Jobs that it may begin per minute, in bursts of as many. Beyond it: told to come back later.
    pub per_minute: Option<NonZeroU32>,
    /// Jobs of it, waiting or running, at once.
    pub at_once: Option<NonZeroUsize>,
    /// Share of the queue's places, from 0 to 1, that its waiting jobs may take; at least one.
    pub queue_share: Option<f64>,
}

/// What each caller may have.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Quotas {
    /// Of everybody who has no entry of its own, each for itself.
    pub others: Quota,
    /// By the caller's public name: an access key's id, or what the log calls a bearer key.
    pub of: HashMap<String, Quota>,
}

impl Quotas {
    pub(crate) fn of(&self, caller: Option<&str>) -> Quota {
        caller.and_then(|caller| self.of.get(caller)).copied().unwrap_or(self.others)
    }
}

impl Quota {
    /// Places of so many that waiting jobs may take.
    pub(crate) fn places(&self, all: usize) -> usize {
        match self.queue_share {
            Some(share) => ((all as f64 * share.clamp(0.0, 1.0)).ceil() as usize).clamp(1, all.max(1)),
            None => all,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_all_places_and_never_nothing() {
        let of = |share, all| Quota { queue_share: Some(share), ..Quota::default() }.places(all);
        assert_eq!([of(0.5, 16), of(0.0, 16), of(1.0, 16), of(0.3, 1), of(7.0, 4)], [8, 1, 16, 1, 4]);
        assert_eq!(Quota::default().places(16), 16);
    }

    #[test]
    fn an_entry_stands_for_its_caller_and_the_others_share_a_rule() {
        let quota = Quota { at_once: NonZeroUsize::new(3), ..Quota::default() };
        let quotas = Quotas { of: HashMap::from([("a".to_owned(), quota)]), ..Quotas::default() };
        assert_eq!(quotas.of(Some("a")), quota);
        assert_eq!((quotas.of(Some("b")), quotas.of(None)), (Quota::default(), Quota::default()));
    }
}
