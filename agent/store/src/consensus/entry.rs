//! What the log consists of, and what a member must remember besides it.

use bytes::Bytes;
use raft::eraftpb::{Entry as RaftEntry, EntryType};

use super::conf::Conf;

/// A place in the log: an index together with the term of the entry there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Term of the entry at `index`.
    pub term: u64,
    /// Index, from 1; 0 is before the log.
    pub index: u64,
}

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// An encoded command; without data, the mark of a new leader.
    Command,
    /// An encoded change of the members.
    ConfChange,
    /// The members with whom the cluster was founded, an encoded [`Conf`]: the first entry, and only that.
    Origin,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub position: Position,
    /// What its data is.
    pub kind: EntryKind,
    /// As the kind says.
    pub data: Bytes,
}

/// In place of a vote that was not given: this member has not begun yet.
pub(crate) const FRESH: u64 = u64::MAX;

/// What a member must never forget: thesis of Raft, figure 3.1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The latest term that it has seen.
    pub term: u64,
    /// For whom it voted in that term; 0 for nobody, `u64::MAX` for nobody and it never did.
    pub vote: u64,
    /// Up to where it knew the log to be committed. May lag behind.
    pub commit: u64,
}

/// Up to where the state machine has applied the log, and who the members are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Of the last applied entry; zeros if there is none.
    pub position: Position,
    /// The members as of that entry: an encoded [`Conf`]; empty if there is no applied entry.
    pub conf: Bytes,
}

/// The first entry of a cluster that is founded with these members.
///
/// All founders must make it with the same members; it is durable, before a founder
/// starts. Who joins later starts with an empty log and gets a snapshot.
#[must_use]
pub fn origin(members: &Conf) -> Entry {
    Entry { position: Position { term: 1, index: 1 }, kind: EntryKind::Origin, data: members.encode() }
}

pub(super) fn to_raft(entry: Entry) -> RaftEntry {
    let Position { term, index } = entry.position;
    let mut raft = RaftEntry { term, index, data: entry.data.into(), ..RaftEntry::default() };
    if entry.kind == EntryKind::ConfChange {
        raft.set_entry_type(EntryType::EntryConfChangeV2);
    }
    raft
}

pub(super) fn from_raft(raft: RaftEntry) -> Entry {
    let kind = match raft.get_entry_type() {
        EntryType::EntryNormal => EntryKind::Command,
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::ConfChange,
    };
    Entry { position: Position { term: raft.term, index: raft.index }, kind, data: raft.data.into() }
}
