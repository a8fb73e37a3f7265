//! What may be given to the crate raft, which panics on what no correct member sends and on what a member sees whose disk
//! was set back.

use raft::{
    Raft, StateRole,
    eraftpb::{Message, MessageType},
};

use super::{
    error::{Divergence, Malformed, NotAccepted},
    log::Log,
    reads::CONTEXT_BYTES,
};

/// Reads of other members that a leader remembers; beyond, they are dropped and asked again.
const MAX_FORWARDED_READS: usize = 4096;

/// Elections that a member can have missed: with one each second, those of more than a century.
const MAX_TERMS_AHEAD: u64 = 1 << 32;

/// Whether to step with it. `Ok(false)` drops it silently, as the network may.
///
/// `is_settled`: all that was given out to be stored is stored.
pub(super) fn admit(raft: &Raft<Log>, message: &Message, is_settled: bool) -> Result<bool, NotAccepted> {
    check_sender(raft, message)?;
    match message.get_msg_type() {
        MessageType::MsgAppend => check_append(raft, message),
        MessageType::MsgHeartbeat => check_heartbeat(raft, message),
        MessageType::MsgSnapshot => check_snapshot(message),
        MessageType::MsgAppendResponse => check_append_response(raft, message),
        MessageType::MsgHeartbeatResponse => check_context(message, &[0, CONTEXT_BYTES]),
        MessageType::MsgReadIndex => {
            check_read(message)?;
            // Two members that take each other for the leader would send it to and fro. Who asks will ask again.
            Ok(raft.state == StateRole::Leader && raft.pending_read_count() < MAX_FORWARDED_READS)
        }
        MessageType::MsgReadIndexResp => check_read(message),
        // Nobody grants what was not asked yet, and it is asked only when all is stored. Raft takes that for granted.
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse | MessageType::MsgTimeoutNow => {
            Ok(is_settled)
        }
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => Ok(true),
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader => Err(Malformed("it is of a type that no member sends").into()),
    }
}

/// Whether it speaks of a cluster that was not founded just now, and is from no leader.
///
/// Who has just founded or joined takes no part in that before it has what a leader had: with its disk wiped it may have
/// stored what is committed and a candidate does not have. A voter with an empty log has had one. If no leader can be had without its vote, too many disks are lost.
pub(super) fn is_of_founded(raft: &Raft<Log>, message: &Message) -> bool {
    let kind = message.get_msg_type();
    let is_leaders = [MessageType::MsgAppend, MessageType::MsgHeartbeat, MessageType::MsgSnapshot].contains(&kind);
    let is_request = [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote].contains(&kind);
    // Consent to be elected in the next term.
    let is_consent = kind == MessageType::MsgRequestPreVoteResponse && !message.reject;
    if is_request {
        return message.index > 1 || raft.raft_log.last_index() == 0;
    }
    !is_leaders && !is_consent && message.term > raft.term
}

fn check_sender(raft: &Raft<Log>, message: &Message) -> Result<(), Malformed> {
    if message.to != raft.id {
        return Err(Malformed("it is for another member"));
    }
    if message.from == 0 || message.from == raft.id {
        return Err(Malformed("it is from no other member"));
    }
    if message.term > raft.term + MAX_TERMS_AHEAD {
        return Err(Malformed("its term is one that no cluster comes to"));
    }
    // Raft takes a message without a term for one of its own.
    if (message.term == 0) != (message.get_msg_type() == MessageType::MsgReadIndex) {
        return Err(Malformed("its term is not that of its type"));
    }
    Ok(())
}

fn check_append(raft: &Raft<Log>, message: &Message) -> Result<bool, NotAccepted> {
    // The first entry is never sent: who has nothing gets a snapshot.
    if message.index == 0 || message.log_term == 0 || message.log_term > message.term {
        return Err(Malformed("entries do not follow an entry").into());
    }
    let mut term = message.log_term;
    for entry in &message.entries {
        if entry.term < term || entry.term > message.term {
            return Err(Malformed("terms of entries do not ascend").into());
        }
        term = entry.term;
    }
    if message.term >= raft.term
        && let Some(index) = conflict(raft, message)
    {
        return Err(Divergence::Conflict { from: message.from, index }.into());
    }
    Ok(true)
}

/// Where a leader of this term or a later one has another entry than the one that is committed here. Raft would say yes.
fn conflict(raft: &Raft<Log>, message: &Message) -> Option<u64> {
    let log = &raft.raft_log;
    let entries = message.entries.iter().map(|entry| (entry.index, entry.term));
    let mut old = entries.chain([(message.index, message.log_term)]).filter(|(index, _)| *index <= log.committed);
    // Of what is no longer in memory raft says 0.
    old.find(|(index, term)| log.term(*index).is_ok_and(|known| known != 0 && known != *term)).map(|(index, _)| index)
}

fn check_heartbeat(raft: &Raft<Log>, message: &Message) -> Result<bool, NotAccepted> {
    check_context(message, &[0, CONTEXT_BYTES])?;
    let last = raft.raft_log.last_index();
    if message.term >= raft.term && message.commit > last {
        return Err(Divergence::LostLog { from: message.from, commit: message.commit, last }.into());
    }
    Ok(true)
}

fn check_snapshot(message: &Message) -> Result<bool, NotAccepted> {
    let metadata = message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
    let Some(metadata) = metadata else { return Err(Malformed("it has no snapshot").into()) };
    if metadata.index == 0 || metadata.term == 0 || metadata.term > message.term {
        return Err(Malformed("its snapshot is of no place in the log").into());
    }
    Ok(true)
}

fn check_append_response(raft: &Raft<Log>, message: &Message) -> Result<bool, NotAccepted> {
    let is_heard = raft.state == StateRole::Leader && message.term == raft.term;
    if is_heard && !message.reject && message.index > raft.raft_log.last_index() {
        return Err(Malformed("it acknowledges what was never sent").into());
    }
    Ok(true)
}

fn check_read(message: &Message) -> Result<bool, NotAccepted> {
    match message.entries.as_slice() {
        [read] if read.data.len() == CONTEXT_BYTES => Ok(true),
        _ => Err(Malformed("it is about no read").into()),
    }
}

fn check_context(message: &Message, lengths: &[usize]) -> Result<bool, NotAccepted> {
    if !lengths.contains(&message.context.len()) {
        return Err(Malformed("its context is of no read").into());
    }
    Ok(true)
}
