//! Who the members are, and how that changes.

use bytes::{Buf, BufMut, Bytes};
use raft::eraftpb::ConfState;

/// Members of one kind that a configuration may have: a bound for what is read.
pub(super) const MAX_MEMBERS: usize = 64;

const VERSION: u8 = 1;

/// The members: voters, learners and, in the middle of a swap, the voters before it.
///
/// Each list is sorted and without repetition. No id is 0 or in two lists, but for a voter that stays one during a swap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    /// Their majority decides.
    pub voters: Vec<u64>,
    /// They get the log and have no vote.
    pub learners: Vec<u64>,
    /// In the middle of a swap: the voters before, whose majority is needed too.
    pub outgoing: Vec<u64>,
    /// Outgoing voters that become learners as soon as the swap is over.
    pub learners_next: Vec<u64>,
    /// The swap ends by itself as soon as it can.
    pub auto_leave: bool,
}

impl Conf {
    /// These voters, and no others.
    #[must_use]
    pub fn of_voters(voters: impl IntoIterator<Item = u64>) -> Self {
        Self { voters: sorted(voters.into_iter().collect()), ..Self::default() }
    }

    /// For an [`Applied`](super::Applied) and for the origin.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = vec![VERSION, self.auto_leave.into()];
        for list in self.lists() {
            bytes.put_u16_le(list.len() as u16);
            list.iter().for_each(|id| bytes.put_u64_le(*id));
        }
        bytes.into()
    }

    /// What [`encode`](Self::encode) made; `None` if it is not, or cannot be a configuration.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.try_get_u8().ok()? != VERSION {
            return None;
        }
        let auto_leave = match bytes.try_get_u8().ok()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let mut list = || {
            let count = usize::from(bytes.try_get_u16_le().ok()?);
            (count <= MAX_MEMBERS).then_some(())?;
            (0..count).map(|_| bytes.try_get_u64_le().ok()).collect::<Option<Vec<u64>>>()
        };
        let conf = Self { voters: list()?, learners: list()?, outgoing: list()?, learners_next: list()?, auto_leave };
        (bytes.is_empty() && conf.is_valid()).then_some(conf)
    }

    /// Whether this is a member of any kind.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.lists().iter().any(|list| list.contains(&id))
    }

    /// Whether a swap is under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether it has a vote, be it only until the swap is over.
    #[must_use]
    pub fn is_voter(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    /// The crate raft takes no other ones: it panics.
    fn is_valid(&self) -> bool {
        let ascend = |list: &Vec<u64>| !list.contains(&0) && list.windows(2).all(|pair| pair[0] < pair[1]);
        let is_joint = self.is_joint();
        !self.voters.is_empty()
            && self.lists().into_iter().all(ascend)
            && !self.learners.iter().any(|id| self.is_voter(*id))
            && self.learners_next.iter().all(|id| self.outgoing.contains(id) && !self.voters.contains(id))
            && (is_joint || !self.auto_leave)
    }

    fn lists(&self) -> [&Vec<u64>; 4] {
        [&self.voters, &self.learners, &self.outgoing, &self.learners_next]
    }
}

impl From<&ConfState> for Conf {
    fn from(state: &ConfState) -> Self {
        Self {
            voters: sorted(state.voters.clone()),
            learners: sorted(state.learners.clone()),
            outgoing: sorted(state.voters_outgoing.clone()),
            learners_next: sorted(state.learners_next.clone()),
            auto_leave: state.auto_leave,
        }
    }
}

impl From<&Conf> for ConfState {
    fn from(conf: &Conf) -> Self {
        Self {
            voters: conf.voters.clone(),
            learners: conf.learners.clone(),
            voters_outgoing: conf.outgoing.clone(),
            learners_next: conf.learners_next.clone(),
            auto_leave: conf.auto_leave,
        }
    }
}

fn sorted(mut ids: Vec<u64>) -> Vec<u64> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// A change of the members. One at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfChange {
    /// A new member without a vote. An id that was ever used must not come again.
    AddLearner(u64),
    /// A learner that has caught up becomes a voter.
    Promote(u64),
    /// Two learners that have caught up become voters in one joint change: so their number stays odd.
    PromoteTwo(u64, u64),
    /// A voter becomes a learner.
    Demote(u64),
    /// A member is one no longer.
    Remove(u64),
    /// In one joint change a voter goes, and a learner that has caught up votes in its stead.
    Swap {
        /// The voter that is removed.
        old: u64,
        /// The learner that becomes a voter.
        new: u64,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_cannot_be_a_configuration_is_none() {
        let conf = |voters: &[u64], learners: &[u64], outgoing: &[u64], next: &[u64], auto_leave| Conf {
            voters: voters.into(),
            learners: learners.into(),
            outgoing: outgoing.into(),
            learners_next: next.into(),
            auto_leave,
        };
        let table = [
            (conf(&[1, 2, 3], &[], &[], &[], false), true),
            (conf(&[1, 2, 4], &[5], &[1, 2, 3], &[3], true), true),
            (conf(&[], &[1], &[], &[], false), false),
            (conf(&[0, 1], &[], &[], &[], false), false),
            (conf(&[2, 1], &[], &[], &[], false), false),
            (conf(&[1, 1], &[], &[], &[], false), false),
            (conf(&[1, 2], &[2], &[], &[], false), false),
            (conf(&[1, 2], &[3], &[3], &[], true), false),
            (conf(&[1, 2], &[], &[], &[3], false), false),
            (conf(&[1, 2], &[], &[1, 2], &[2], false), false),
            (conf(&[1, 2], &[], &[], &[], true), false),
        ];
        for (conf, is_valid) in table {
            assert_eq!(Conf::decode(&conf.encode()), is_valid.then_some(conf));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = Conf::decode(&bytes);
        }
    }
}
