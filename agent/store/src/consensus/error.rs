//! What consensus refuses, by whose fault it is.

use thiserror::Error;

/// A message that no member of this version sends. The peer's fault; the connection should be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a raft message from a peer is malformed: {0}")]
pub struct Malformed(pub &'static str);

/// The log of this member and what the cluster says of it contradict each other. The operator's fault, or the disk's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Divergence {
    /// The leader knows that this member had more than it has: its disk was wiped or set back.
    #[error(
        "member {from} has on record that this member stored entry {commit}, but its log ends at {last}: its disk lost \
         data; stop it, and make a new store from a snapshot of another member"
    )]
    LostLog {
        /// The leader.
        from: u64,
        /// Committed, and stored here, as the leader knows.
        commit: u64,
        /// The last entry that is here.
        last: u64,
    },
    /// The leader has another entry where this member knows one to be committed.
    #[error(
        "member {from} sends another entry {index} than the one that is committed here: one of the two disks is damaged \
         or of another cluster; compare their checksums before one of them is removed"
    )]
    Conflict {
        /// The leader.
        from: u64,
        /// Where.
        index: u64,
    },
}

/// Why a message was not accepted. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NotAccepted {
    /// The peer's fault.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// Log it loudly: this member takes part no more, and answers all messages with this.
    #[error(transparent)]
    Diverged(#[from] Divergence),
    /// Too much waits for the disk. The sender will repeat it.
    #[error("too much waits for this member's disk")]
    Busy,
}

/// Why something asked of this member cannot be done. It has no effect then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Another one leads, or nobody does.
    #[error("this member does not lead")]
    NotLeader {
        /// Who does, if that is known.
        leader: Option<u64>,
    },
    /// Too much is not committed yet, or too many reads wait. Later it may be possible.
    #[error("too many requests")]
    Full,
    /// The entry is larger than may ever be.
    #[error("the entry is too large")]
    TooLarge,
    /// Leadership is being handed to this one.
    #[error("leadership is being transferred")]
    Transferring {
        /// To whom.
        to: u64,
    },
    /// A change of the members is still under way.
    #[error("another change of the members is under way")]
    ChangePending,
    /// Who is to be changed is no member of that kind, or is one already.
    #[error("member {0} is not of the kind that this change is for")]
    UnsuitableMember(u64),
    /// The learner has not caught up, or is not heard.
    #[error("member {id} has not caught up or is not heard: it is {lag} entries behind")]
    Behind {
        /// The learner.
        id: u64,
        /// By how many entries.
        lag: u64,
    },
    /// Too few voters would be reachable afterwards for a majority.
    #[error("after this change the reachable voters would be no majority")]
    WouldLoseQuorum,
    /// The leader cannot be removed or demoted: it must hand over first.
    #[error("the leader must hand over its leadership first")]
    IsLeader,
}

/// Why consensus cannot start from what was recovered. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StartError {
    /// The settings contradict each other.
    #[error("the settings of consensus are invalid: {0}")]
    Settings(String),
    /// The keys are ahead of a log that is empty: somebody removed it, and with it the vote.
    #[error(
        "the keys are at entry {applied}, of term {term}, but the log knows only term {known}: it was removed or is of \
         another member; make a new store from a snapshot, of another member if there is one"
    )]
    LostLog {
        /// Index of the last applied entry.
        applied: u64,
        /// Its term.
        term: u64,
        /// Term of the log's hard state.
        known: u64,
    },
    /// The log begins after what the keys have applied.
    #[error("the keys are at entry {applied}, but the log begins at {first}: restore the keys from a snapshot")]
    Gap {
        /// Index of the last applied entry.
        applied: u64,
        /// The first entry in the log.
        first: u64,
    },
    /// The log or the members in the checkpoint cannot be.
    #[error("what was recovered contradicts itself: {0}")]
    Inconsistent(&'static str),
}
