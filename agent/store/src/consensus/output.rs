//! What consensus asks its owner to do.

use bytes::Bytes;

use super::{
    conf::Conf,
    entry::{Applied, Entry, HardState, Position},
};

/// What the owner has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this to a peer, at once: what must be on disk before it already is. It may be lost.
    Send {
        /// The peer.
        to: u64,
        /// For its `handle_message`.
        bytes: Bytes,
    },
    /// Store this, and call `handle_persisted` with its number. Several may be stored with one write and one sync; then the
    /// last number says it of all. Never out of order.
    Persist(Persist),
    /// Apply these, in this order. They are committed, and on this member's disk.
    Commit(Vec<Committed>),
    /// Answer the reads of this context as soon as everything up to `index` has been applied.
    Read {
        /// As given to `read`.
        context: u64,
        /// What must have been applied.
        index: u64,
    },
    /// No answer for the reads of this context: the leader changed, or none answered in time.
    ReadFailed {
        /// As given to `read`.
        context: u64,
    },
    /// The term, the leader or this member's role is another one. Who waits for a proposal of an earlier term must be told
    /// that its outcome is unknown. A new leader has applied all that its predecessors committed when it applies the first
    /// entry of `term`.
    Leader {
        /// The present term.
        term: u64,
        /// Who leads, if that is known.
        leader: Option<u64>,
        /// Whether it is this member.
        us: bool,
    },
    /// This peer needs entries that are gone. Send it a snapshot out of band, with what `begin_snapshot` gives as the last
    /// part of it; then call `handle_snapshot_sent`. It is not said again before that.
    NeedSnapshot {
        /// The peer.
        to: u64,
        /// The snapshot must have applied this entry: an older one does not know the peer, or ends before the log begins. If
        /// the last checkpoint has not, another one is to be made first.
        at_least: u64,
    },
}

/// What must be durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// For `handle_persisted`; ascending, with gaps.
    pub number: u64,
    /// First of all: the keys are replaced by the snapshot that was received, and the log by its position.
    pub snapshot: Option<Applied>,
    /// Entries, each of which replaces all that the log has from its index on.
    pub entries: Vec<Entry>,
    /// The new hard state, if it has changed.
    pub hard: Option<HardState>,
}

/// An entry that is agreed upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its place.
    pub position: Position,
    /// What to apply.
    pub payload: Payload,
}

/// What an agreed entry does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A command, as it was proposed.
    Command(Bytes),
    /// The members are these now: to be kept, encoded, with the applied index.
    Conf(Conf),
    /// Nothing: a leader's first entry, or a change of the members that is refused. The applied index moves.
    Empty,
}
