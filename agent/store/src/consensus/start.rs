//! From what a member knew when it stopped to what raft starts with.

use raft::eraftpb::{ConfState, Entry as RaftEntry, HardState as RaftHardState};

use super::{
    conf::Conf,
    entry::{Applied, Entry, EntryKind, FRESH, HardState, Position, to_raft},
    error::StartError,
    log::Log,
    machine::Recovered,
    output::{Committed, Payload},
};

/// What is accepted now would be lost at the next start.
const UNALIGNED: StartError =
    StartError::Inconsistent("the log does not have what the keys have applied: align it first");

pub(super) struct Start {
    pub(super) log: Log,
    pub(super) hard: HardState,
    pub(super) applied: u64,
    pub(super) conf: Conf,
    /// The first entry of all, if it is still to be applied.
    pub(super) origin: Option<Committed>,
    /// It has not begun yet, as far as is stored here.
    pub(super) is_fresh: bool,
}

impl Start {
    /// # Errors
    /// If the log and the keys do not fit together, or one of them cannot be.
    pub(super) fn new(recovered: Recovered) -> Result<Self, StartError> {
        check_entries(&recovered)?;
        let Recovered { hard, base, entries, applied } = recovered;
        let first = entries.first().map_or(base.index + 1, |first| first.position.index);
        match applied.position.index {
            0 if base.index > 0 || first > 1 => Err(StartError::Gap { applied: 0, first }),
            0 => Self::of_origin(hard, entries),
            _ => Self::of_applied(hard, base, entries, &applied),
        }
    }

    /// Nothing is applied: a founder, or one that waits for a snapshot.
    fn of_origin(hard: HardState, entries: Vec<Entry>) -> Result<Self, StartError> {
        let mut entries = entries.into_iter();
        let Some(origin) = entries.next() else {
            let start = Self::assemble(hard, Position::default(), Vec::new(), Conf::default(), Position::default())?;
            return Ok(Self { is_fresh: start.is_fresh || hard == HardState::default(), ..start });
        };
        let conf = Conf::decode(&origin.data).filter(|_| origin.kind == EntryKind::Origin);
        let conf = conf.ok_or(StartError::Inconsistent("the log does not begin with the members who founded it"))?;
        let position = origin.position;
        let start = Self::assemble(hard, position, entries.collect(), conf.clone(), position)?;
        let has_founded = start.log.last() == position && (hard.term, hard.vote) == (position.term, 0);
        let is_fresh = start.is_fresh || has_founded;
        let origin = Some(Committed { position, payload: Payload::Conf(conf) });
        Ok(Self { origin, is_fresh, ..start })
    }

    fn of_applied(hard: HardState, base: Position, entries: Vec<Entry>, applied: &Applied) -> Result<Self, StartError> {
        let position = applied.position;
        let conf = Conf::decode(&applied.conf);
        let conf = conf.ok_or(StartError::Inconsistent("the members in the checkpoint cannot be"))?;
        if hard.term < position.term {
            return Err(StartError::LostLog { applied: position.index, term: position.term, known: hard.term });
        }
        let first = entries.first().map_or(base, |first| first.position);
        let last = entries.last().map_or(base, |last| last.position);
        if position.index > last.index {
            return Err(UNALIGNED);
        }
        if position.index < base.index || position.index + 1 < first.index {
            return Err(StartError::Gap { applied: position.index, first: first.index.max(base.index + 1) });
        }
        let known = match entries.iter().find(|entry| entry.position.index == position.index) {
            Some(entry) => entry.position,
            None if position.index == base.index => base,
            None => position,
        };
        if known != position {
            return Err(UNALIGNED);
        }
        // Peers may still need what is applied already. The first of it only tells its term.
        if first.index <= position.index && !entries.is_empty() {
            return Self::assemble(hard, first, entries.into_iter().skip(1).collect(), conf, position);
        }
        Self::assemble(hard, position, entries, conf, position)
    }

    fn assemble(
        hard: HardState,
        base: Position,
        entries: Vec<Entry>,
        conf: Conf,
        applied: Position,
    ) -> Result<Self, StartError> {
        if entries.iter().any(|entry| entry.kind == EntryKind::Origin) {
            return Err(StartError::Inconsistent("members who founded the cluster are in the middle of the log"));
        }
        let last = entries.last().map_or(base, |last| last.position);
        let hard = HardState { commit: hard.commit.max(applied.index), ..hard };
        if hard.commit > last.index {
            return Err(StartError::Inconsistent("more is committed than the log has"));
        }
        if hard.term < last.term {
            return Err(StartError::Inconsistent("an entry is of a later term than the log knows"));
        }
        let is_fresh = hard.vote == FRESH;
        let vote = if is_fresh { 0 } else { hard.vote };
        let state = RaftHardState { term: hard.term, vote, commit: hard.commit };
        let members = if conf == Conf::default() { ConfState::default() } else { (&conf).into() };
        let entries: Vec<RaftEntry> = entries.into_iter().map(to_raft).collect();
        let log = Log::new(base, entries, state, members);
        Ok(Self { log, hard, applied: applied.index, conf, origin: None, is_fresh })
    }
}

fn check_entries(recovered: &Recovered) -> Result<(), StartError> {
    let mut before = recovered.base;
    for (offset, entry) in recovered.entries.iter().enumerate() {
        let Position { term, index } = entry.position;
        if index <= before.index || (offset > 0 && index != before.index + 1) {
            return Err(StartError::Inconsistent("entries are missing in the log"));
        }
        if term == 0 || term < before.term {
            return Err(StartError::Inconsistent("terms of entries do not ascend"));
        }
        before = entry.position;
    }
    Ok(())
}
