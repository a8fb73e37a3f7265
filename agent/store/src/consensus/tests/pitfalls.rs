//! Where drivers of the crate raft have failed: one test each.

use std::time::Duration;

use bytes::Bytes;
use raft::eraftpb::{Entry as RaftEntry, Message, MessageType};
use ringmesh_proto::Instant;

use super::{
    cluster::Cluster,
    node::{Node, settings_of},
};
use crate::consensus::{
    Applied, Conf, ConfChange, Consensus, Divergence, Entry, EntryKind, HardState, NotAccepted, Output, Payload,
    PeerState, Persist, Position, Recovered, Refused, Role, Settings, StartError, Status, message, origin,
};

const SECOND: Duration = Duration::from_secs(1);

fn founder(id: u64, members: u64) -> Consensus {
    let entries = vec![origin(&Conf::of_voters(1..=members))];
    let hard = HardState { term: 1, vote: 0, commit: 1 };
    let recovered = Recovered { hard, entries, ..Recovered::default() };
    Consensus::new(settings_of(id), recovered, id, Instant::ZERO).unwrap()
}

fn drain(consensus: &mut Consensus) -> Vec<Output> {
    std::iter::from_fn(|| consensus.poll_output()).collect()
}

fn persist_number(outputs: &[Output]) -> u64 {
    let number = |output: &Output| if let Output::Persist(persist) = output { Some(persist.number) } else { None };
    outputs.iter().filter_map(number).next_back().expect("something is to be stored")
}

fn sends(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Send { .. })).count()
}

fn bytes(kind: MessageType, message: Message) -> Bytes {
    let mut message = message;
    message.set_msg_type(kind);
    message::encode(&message).unwrap()
}

fn settled(seed: u64, members: u64) -> (Cluster, u64) {
    let mut cluster = Cluster::new(seed, members);
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.leader().is_some()));
    cluster.run_for(SECOND);
    let leader = cluster.leader().unwrap();
    (cluster, leader)
}

fn status(cluster: &Cluster, id: u64) -> Status {
    cluster.nodes[&id].running.as_ref().unwrap().consensus.status()
}

fn write(cluster: &mut Cluster, leader: u64, count: usize) {
    for _ in 0..count {
        assert!(cluster.propose(leader, Bytes::from(vec![7; 200])));
        cluster.run_for(SECOND / 20);
    }
}

/// Cuts this member off from all others.
fn isolate(cluster: &mut Cluster, id: u64) {
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|other| *other != id).collect();
    cluster.network.cut.extend(others.iter().flat_map(|other| [(id, *other), (*other, id)]));
}

#[test]
fn a_wiped_disk_under_an_old_id_is_an_error_and_no_panic() {
    let heartbeat = Message { to: 2, from: 1, term: 3, commit: 9, ..Message::default() };
    let refused = founder(2, 3).handle_message(Instant::ZERO, &bytes(MessageType::MsgHeartbeat, heartbeat));
    assert_eq!(refused, Err(NotAccepted::Diverged(Divergence::LostLog { from: 1, commit: 9, last: 1 })));
}

#[test]
fn a_wiped_member_helps_nobody_to_lead_who_lacks_what_is_committed() {
    let (mut cluster, leader) = settled(12, 3);
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    let [wiped, behind] = others[..] else { panic!("{others:?}") };
    isolate(&mut cluster, behind);
    write(&mut cluster, leader, 5);
    cluster.wipe(wiped);
    cluster.run_for(SECOND);
    assert!(matches!(status(&cluster, wiped).diverged, Some(Divergence::LostLog { last: 1, .. })));
    cluster.stop(leader, true);
    cluster.network.cut.clear();
    cluster.run_for(20 * SECOND);
    assert_eq!(cluster.leader(), None);
    // With the one who has all, they go on.
    cluster.start(leader);
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.leader() == Some(leader)));
    write(&mut cluster, leader, 3);
    assert_eq!(status(&cluster, behind).commit, status(&cluster, leader).commit);
}

#[test]
fn a_wiped_member_gives_no_vote_before_it_has_heard_a_leader() {
    let (mut cluster, leader) = settled(13, 3);
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    let [wiped, behind] = others[..] else { panic!("{others:?}") };
    isolate(&mut cluster, behind);
    write(&mut cluster, leader, 5);
    cluster.stop(leader, true);
    cluster.wipe(wiped);
    cluster.network.cut.clear();
    for _ in 0..3 {
        cluster.run_for(10 * SECOND);
        assert_eq!((cluster.leader(), status(&cluster, wiped).term), (None, 1));
        cluster.stop(wiped, true);
        cluster.start(wiped);
    }
    // The two who have kept their disks go on, and it gets all that it had.
    cluster.start(leader);
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.leader() == Some(leader)));
    write(&mut cluster, leader, 3);
    assert_eq!(status(&cluster, wiped).commit, status(&cluster, leader).commit);
}

#[test]
fn a_wiped_member_that_had_joined_gives_no_vote_either() {
    let (mut cluster, leader) = settled(16, 2);
    cluster.join(3);
    for change in [ConfChange::AddLearner(3), ConfChange::Promote(3)] {
        let changed = cluster.with(leader, |consensus, clock| consensus.propose_conf(clock, change));
        assert!(matches!(changed, Some(Ok(_))), "{changed:?}");
        cluster.run_for(SECOND);
    }
    let behind = 3 - leader;
    isolate(&mut cluster, behind);
    write(&mut cluster, leader, 5);
    cluster.stop(leader, true);
    cluster.wipe(3);
    cluster.network.cut.clear();
    for _ in 0..3 {
        cluster.run_for(10 * SECOND);
        assert_eq!(cluster.leader(), None);
        cluster.stop(3, true);
        cluster.start(3);
    }
    cluster.start(leader);
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.leader() == Some(leader)));
    write(&mut cluster, leader, 3);
    assert_eq!(status(&cluster, 3).commit, status(&cluster, leader).commit);
}

#[test]
fn who_has_begun_is_not_fresh_again_after_a_restart_and_who_has_not_still_is() {
    // What a leader has sent to a founder and says to be committed.
    for (entries, commit, grants) in [(0, 1, false), (0, 2, false), (1, 1, false), (1, 3, false), (1, 2, true)] {
        let mut consensus = founder(2, 3);
        let entry = raft::eraftpb::Entry { term: 5, index: 2, ..Default::default() };
        let entries = vec![entry; entries];
        let append = Message { to: 2, from: 1, term: 5, index: 1, log_term: 1, commit, entries, ..Message::default() };
        consensus.handle_message(Instant::ZERO, &bytes(MessageType::MsgAppend, append)).unwrap();
        let mut recovered = Recovered { entries: vec![origin(&Conf::of_voters(1..=3))], ..Recovered::default() };
        let mut number = 0;
        for output in drain(&mut consensus) {
            if let Output::Persist(persist) = output {
                recovered.entries.extend(persist.entries);
                recovered.hard = persist.hard.unwrap_or(recovered.hard);
                number = persist.number;
            }
        }
        consensus.handle_persisted(number);
        let again = Consensus::new(settings_of(2), recovered, 3, Instant::ZERO).unwrap();
        for mut consensus in [consensus, again] {
            drain(&mut consensus);
            let vote = Message { to: 2, from: 3, term: 6, index: 2, log_term: 5, ..Message::default() };
            // The leader has been silent for long enough.
            consensus.handle_timeout(Instant::ZERO + SECOND);
            consensus.handle_message(Instant::ZERO + SECOND, &bytes(MessageType::MsgRequestVote, vote)).unwrap();
            let is_stored = drain(&mut consensus).iter().any(|output| matches!(output, Output::Persist(_)));
            assert_eq!(is_stored, grants, "commit {commit}");
        }
    }
}

#[test]
fn a_founder_that_comes_late_is_a_member_like_the_others() {
    let mut cluster = Cluster::new(14, 3);
    cluster.stop(3, true);
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.leader().is_some()));
    let leader = cluster.leader().unwrap();
    write(&mut cluster, leader, 3);
    cluster.start(3);
    cluster.run_for(SECOND);
    cluster.stop(leader, true);
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.leader().is_some()));
}

#[test]
fn two_founders_of_whom_one_has_stored_more_go_on() {
    // Their leader stored its first entry, and the power was lost before the other one had it.
    let (mut cluster, leader) = (Cluster::new(15, 2), 1);
    cluster.network.cut.extend([(1, 2), (2, 1)]);
    for (id, vote) in [(1, 1), (2, 1)] {
        cluster.stop(id, true);
        let mut log = cluster.nodes[&id].open_log(&mut cluster.rng);
        let entry = Entry { position: Position { term: 2, index: 2 }, kind: EntryKind::Command, data: Bytes::new() };
        let entries = if id == leader { vec![entry] } else { Vec::new() };
        let hard = Some(HardState { term: 2, vote, commit: 1 });
        log.append(&[Persist { number: 1, snapshot: None, entries, hard }]).unwrap();
    }
    cluster.network.cut.clear();
    cluster.start(1);
    cluster.start(2);
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.leader() == Some(leader)));
    write(&mut cluster, leader, 1);
}

#[test]
fn another_entry_than_the_committed_one_is_an_error() {
    let mut consensus = founder(2, 3);
    let mut append = |term, index, log_term, terms: &[u64], commit| {
        let entry = |(index, term)| raft::eraftpb::Entry { term, index, ..Default::default() };
        let entries = (index + 1..).zip(terms.iter().copied()).map(entry).collect();
        let message = Message { to: 2, from: 1, term, index, log_term, commit, entries, ..Message::default() };
        let taken = consensus.handle_message(Instant::ZERO, &bytes(MessageType::MsgAppend, message));
        drain(&mut consensus);
        taken
    };
    append(2, 1, 1, &[2, 2], 2).unwrap();
    // An old leader may have anything, and what is not committed may be replaced.
    append(1, 1, 1, &[1], 2).unwrap();
    append(3, 2, 2, &[3], 3).unwrap();
    let conflict = Err(NotAccepted::Diverged(Divergence::Conflict { from: 1, index: 3 }));
    assert_eq!(append(4, 2, 2, &[4], 3), conflict);
    // And from then on.
    assert_eq!(append(4, 3, 3, &[4], 4), conflict);
}

#[test]
fn what_was_recovered_and_contradicts_itself_is_refused() {
    let conf = Conf::of_voters([1, 2, 3]).encode();
    let command = |term, index| Entry {
        position: Position { term, index },
        kind: EntryKind::Command,
        data: Bytes::from_static(b"x"),
    };
    let at = |term, index| Applied { position: Position { term, index }, conf: conf.clone() };
    let hard = |term, commit| HardState { term, vote: 0, commit };
    let recovered = |hard, entries: &[Entry], applied| Recovered {
        hard,
        entries: entries.to_vec(),
        applied,
        ..Recovered::default()
    };
    let start = |recovered| Consensus::new(Settings::new(1), recovered, 1, Instant::ZERO).err();
    let log = [command(2, 5), command(2, 6), command(3, 7)];
    let inconsistent = |error: &Option<StartError>| matches!(error, Some(StartError::Inconsistent(_)));

    assert_eq!(start(recovered(hard(3, 6), &log, at(2, 5))), None);
    assert_eq!(start(recovered(hard(3, 6), &log, at(2, 4))), None);
    assert_eq!(start(recovered(hard(3, 2), &log, at(3, 7))), None);
    assert_eq!(start(Recovered::default()), None);
    assert!(inconsistent(&start(recovered(hard(3, 8), &log, at(2, 5)))), "more is committed than is there");
    assert!(inconsistent(&start(recovered(hard(2, 5), &log, at(2, 5)))), "an entry is of a later term");
    assert!(inconsistent(&start(recovered(hard(4, 5), &log, at(4, 6)))), "the keys went another way");
    assert!(inconsistent(&start(recovered(hard(4, 5), &log, at(4, 9)))), "the keys are ahead");
    assert!(inconsistent(&start(recovered(hard(4, 5), &[command(2, 5), command(2, 7)], at(2, 5)))), "a hole");
    let no_conf = Applied { conf: Bytes::new(), ..at(2, 5) };
    assert!(inconsistent(&start(recovered(hard(3, 6), &log, no_conf))), "no members");
    let gap = Some(StartError::Gap { applied: 3, first: 5 });
    assert_eq!(start(recovered(hard(3, 6), &log, at(2, 3))), gap);
    assert_eq!(start(recovered(hard(3, 6), &log, Applied::default())), Some(StartError::Gap { applied: 0, first: 5 }));
    let lost = Some(StartError::LostLog { applied: 5, term: 2, known: 0 });
    assert_eq!(start(recovered(hard(0, 0), &[], at(2, 5))), lost);
}

#[test]
fn who_joins_knows_the_founders_though_they_were_never_proposed() {
    let (mut cluster, leader) = settled(1, 3);
    cluster.join(4);
    let added = cluster.with(leader, |consensus, clock| consensus.propose_conf(clock, ConfChange::AddLearner(4)));
    assert!(matches!(added, Some(Ok(_))));
    let members = Conf { learners: vec![4], ..Conf::of_voters([1, 2, 3]) };
    assert!(cluster.run_until(5 * SECOND, |cluster| status(cluster, 4).conf == members));
    // Also after a restart, when it is stored.
    cluster.run_for(SECOND);
    cluster.stop(4, true);
    cluster.start(4);
    assert_eq!(status(&cluster, 4).conf, members);
}

#[test]
fn a_member_that_was_removed_starts_again_and_disturbs_nobody() {
    let (mut cluster, leader) = settled(2, 3);
    let removed = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
    let change = ConfChange::Remove(removed);
    assert!(matches!(cluster.with(leader, |consensus, clock| consensus.propose_conf(clock, change)), Some(Ok(_))));
    cluster.run_for(SECOND);
    let term = status(&cluster, leader).term;
    for _ in 0..3 {
        cluster.stop(removed, true);
        cluster.start(removed);
        cluster.run_for(10 * SECOND);
    }
    assert_eq!((cluster.leader(), status(&cluster, leader).term), (Some(leader), term));
}

#[test]
fn the_leader_is_not_removed_before_it_hands_over() {
    let (mut cluster, leader) = settled(3, 3);
    let next = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
    for change in [ConfChange::Remove(leader), ConfChange::Demote(leader)] {
        let refused = cluster.with(leader, |consensus, clock| consensus.propose_conf(clock, change));
        assert_eq!(refused, Some(Err(Refused::IsLeader)));
    }
    cluster.with(leader, |consensus, _| consensus.transfer_leader(next)).unwrap().unwrap();
    assert!(cluster.run_until(SECOND, |cluster| cluster.leader() == Some(next)));
    cluster.run_for(SECOND);
    let change = ConfChange::Remove(leader);
    assert!(matches!(cluster.with(next, |consensus, clock| consensus.propose_conf(clock, change)), Some(Ok(_))));
    assert!(cluster.run_until(SECOND, |cluster| !status(cluster, next).conf.contains(leader)));
}

#[test]
fn a_leader_that_its_predecessor_removed_steps_down() {
    let (mut cluster, leader) = settled(4, 3);
    let removed = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
    let other = cluster.nodes.keys().copied().find(|id| *id != leader && *id != removed).unwrap();
    // The removal reaches only the one that it is about, and who proposed it falls.
    cluster.network.cut.insert((leader, other));
    let change = ConfChange::Remove(removed);
    cluster.network.cut.insert((removed, leader));
    assert!(matches!(cluster.with(leader, |consensus, clock| consensus.propose_conf(clock, change)), Some(Ok(_))));
    cluster.run_for(SECOND / 10);
    cluster.stop(leader, true);
    cluster.network.cut.clear();
    assert!(cluster.run_until(10 * SECOND, |cluster| !status(cluster, other).conf.contains(removed)));
    assert_ne!(status(&cluster, removed).role, Role::Leader);
    cluster.start(leader);
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.leader().is_some_and(|id| id != removed)));
    let leader = cluster.leader().unwrap();
    write(&mut cluster, leader, 3);
}

#[test]
fn a_lone_voter_says_nothing_as_leader_before_its_term_is_stored() {
    // Its log has a learner already.
    let conf = Conf { learners: vec![2], ..Conf::of_voters([1]) };
    let hard = HardState { term: 1, vote: 0, commit: 1 };
    let recovered = Recovered { hard, entries: vec![origin(&conf)], ..Recovered::default() };
    let mut consensus = Consensus::new(settings_of(1), recovered, 1, Instant::ZERO).unwrap();
    drain(&mut consensus);
    consensus.campaign();
    let outputs = drain(&mut consensus);
    assert_eq!(consensus.status().role, Role::Leader);
    assert_eq!(sends(&outputs), 0);
    consensus.propose(Instant::ZERO, Bytes::from_static(b"x")).unwrap();
    let later = drain(&mut consensus);
    assert_eq!(sends(&later), 0);
    consensus.handle_persisted(persist_number(&outputs));
    // What was proposed since may still wait for the disk, the term does not.
    assert!(sends(&drain(&mut consensus)) > 0);
    consensus.handle_persisted(persist_number(&later));
    let committed = drain(&mut consensus);
    assert!(committed.iter().any(|output| matches!(output, Output::Commit(_))), "{committed:?}");
}

#[test]
fn a_follower_answers_nothing_before_it_is_stored() {
    let mut consensus = founder(2, 3);
    drain(&mut consensus);
    let vote = Message { to: 2, from: 1, term: 2, index: 1, log_term: 1, ..Message::default() };
    consensus.handle_message(Instant::ZERO, &bytes(MessageType::MsgRequestVote, vote)).unwrap();
    let outputs = drain(&mut consensus);
    assert_eq!(sends(&outputs), 0);
    consensus.handle_persisted(persist_number(&outputs));
    assert_eq!(sends(&drain(&mut consensus)), 1);
}

#[test]
fn nobody_is_elected_while_its_disk_is_behind() {
    let mut consensus = founder(1, 1);
    drain(&mut consensus);
    consensus.campaign();
    let first = drain(&mut consensus);
    // Nothing is stored: it neither campaigns again nor panics.
    for turn in 1..100 {
        consensus.handle_timeout(Instant::from_nanos(turn * 100_000_000));
        drain(&mut consensus);
    }
    consensus.handle_persisted(persist_number(&first));
    assert_eq!(consensus.status().term, 2);
    assert_eq!(consensus.status().commit, 2);
}

#[test]
fn proposals_are_refused_before_memory_is_full_and_none_is_lost_silently() {
    let mut consensus = founder(1, 1);
    drain(&mut consensus);
    consensus.campaign();
    let number = persist_number(&drain(&mut consensus));
    consensus.handle_persisted(number);
    drain(&mut consensus);
    let mut promised = Vec::new();
    let refused = loop {
        match consensus.propose(Instant::ZERO, Bytes::from(vec![1; 1000])) {
            Ok(position) => promised.push(position),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused, promised.len()), (Refused::Full, 8));
    let number = persist_number(&drain(&mut consensus));
    consensus.handle_persisted(number);
    let committed = drain(&mut consensus).into_iter().find_map(|output| match output {
        Output::Commit(committed) => Some(committed),
        Output::Send { .. }
        | Output::Persist(_)
        | Output::Read { .. }
        | Output::ReadFailed { .. }
        | Output::Leader { .. }
        | Output::NeedSnapshot { .. } => None,
    });
    let committed = committed.unwrap();
    assert!(committed.iter().all(|committed| matches!(committed.payload, Payload::Command(_))));
    assert_eq!(committed.iter().map(|committed| committed.position).collect::<Vec<_>>(), promised);
    assert!(consensus.propose(Instant::ZERO, Bytes::from(vec![1; 3 << 20])) == Err(Refused::TooLarge));
    consensus.propose(Instant::ZERO, Bytes::from_static(b"x")).unwrap();
}

#[test]
fn a_turn_of_proposals_is_stored_at_once() {
    let mut consensus = founder(1, 1);
    drain(&mut consensus);
    consensus.campaign();
    let number = persist_number(&drain(&mut consensus));
    consensus.handle_persisted(number);
    drain(&mut consensus);
    for _ in 0..5 {
        consensus.propose(Instant::ZERO, Bytes::from_static(b"x")).unwrap();
    }
    let outputs = drain(&mut consensus);
    let [Output::Persist(persist)] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!(persist.entries.len(), 5);
}

#[test]
fn a_read_at_a_new_leader_waits_for_its_first_entry() {
    let mut consensus = founder(1, 1);
    drain(&mut consensus);
    consensus.campaign();
    let outputs = drain(&mut consensus);
    consensus.read(Instant::ZERO, 5).unwrap();
    assert_eq!(drain(&mut consensus), []);
    consensus.handle_persisted(persist_number(&outputs));
    assert!(drain(&mut consensus).contains(&Output::Read { context: 5, index: 2 }));
}

#[test]
fn a_read_without_an_answer_fails_in_time() {
    let (mut cluster, leader) = settled(5, 3);
    isolate(&mut cluster, leader);
    cluster.read(leader);
    assert_eq!(cluster.checks.open_reads(), 1);
    cluster.run_for(SECOND + SECOND / 5);
    assert_eq!(cluster.checks.open_reads(), 0);
    cluster.run_for(SECOND);
    let nobody = cluster.with(leader, |consensus, clock| consensus.read(clock, 1 << 40)).unwrap();
    assert_eq!(nobody, Err(Refused::NotLeader { leader: None }));
}

#[test]
fn a_leader_that_slept_answers_no_read_with_what_was() {
    let (mut cluster, old) = settled(11, 3);
    cluster.pause(old, 6 * SECOND);
    assert!(cluster.run_until(5 * SECOND, |cluster| cluster.claimants().len() == 2));
    let new = cluster.leader().unwrap();
    cluster.run_for(SECOND / 2);
    write(&mut cluster, new, 3);
    let wakes = |cluster: &Cluster| cluster.now >= cluster.nodes[&old].running.as_ref().unwrap().paused_until;
    assert!(cluster.run_until(5 * SECOND, wakes));
    assert_eq!(cluster.claimants().len(), 2, "it does not know yet");
    // The checks know what was acknowledged before.
    cluster.read(old);
    cluster.run_for(2 * SECOND);
    assert_eq!(cluster.checks.open_reads(), 0);
    assert_eq!(cluster.leader(), Some(new));
}

#[test]
fn an_answer_to_a_read_of_an_earlier_life_answers_none_of_this() {
    let mut asked = founder(2, 3);
    let heartbeat = Message { to: 2, from: 1, term: 2, commit: 1, ..Message::default() };
    let start = |consensus: &mut Consensus| {
        consensus.handle_message(Instant::ZERO, &bytes(MessageType::MsgHeartbeat, heartbeat.clone())).unwrap();
        let number = persist_number(&drain(consensus));
        consensus.handle_persisted(number);
        drain(consensus);
        consensus.read(Instant::ZERO, 7).unwrap();
        drain(consensus)
    };
    let question = start(&mut asked).into_iter().find_map(|output| match output {
        Output::Send { bytes, .. } => message::decode(&bytes).ok(),
        Output::Persist(_)
        | Output::Commit(_)
        | Output::Read { .. }
        | Output::ReadFailed { .. }
        | Output::Leader { .. }
        | Output::NeedSnapshot { .. } => None,
    });
    let entries = question.unwrap().entries;
    let answer = Message { to: 2, from: 1, term: 2, index: 1, entries, ..Message::default() };
    let answer = bytes(MessageType::MsgReadIndexResp, answer);
    let recovered = Recovered {
        hard: HardState { term: 1, vote: 0, commit: 1 },
        entries: vec![origin(&Conf::of_voters(1..=3))],
        ..Recovered::default()
    };
    let mut again = Consensus::new(settings_of(2), recovered, 99, Instant::ZERO).unwrap();
    start(&mut again);
    again.handle_message(Instant::ZERO, &answer).unwrap();
    assert_eq!(drain(&mut again), []);
    asked.handle_message(Instant::ZERO, &answer).unwrap();
    assert_eq!(drain(&mut asked), [Output::Read { context: 7, index: 1 }]);
}

#[test]
fn a_member_that_was_cut_off_does_not_depose_the_leader() {
    let (mut cluster, leader) = settled(6, 3);
    let term = status(&cluster, leader).term;
    let cut = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
    isolate(&mut cluster, cut);
    cluster.run_for(20 * SECOND);
    cluster.network.cut.clear();
    cluster.run_for(5 * SECOND);
    assert_eq!((cluster.leader(), status(&cluster, leader).term), (Some(leader), term));
}

#[test]
fn a_leader_without_a_majority_steps_down() {
    let (mut cluster, leader) = settled(7, 3);
    isolate(&mut cluster, leader);
    assert!(cluster.run_until(3 * SECOND, |cluster| status(cluster, leader).role != Role::Leader));
    assert!(cluster.run_until(5 * SECOND, |cluster| cluster.leader().is_some()));
}

#[test]
fn a_member_that_is_far_behind_gets_a_snapshot_and_then_entries() {
    let (mut cluster, leader) = settled(8, 3);
    let behind = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
    isolate(&mut cluster, behind);
    write(&mut cluster, leader, 40);
    cluster.nodes.get_mut(&leader).unwrap().checkpoint();
    write(&mut cluster, leader, 5);
    assert!(status(&cluster, leader).first > 10, "the log is cut");
    cluster.network.cut.clear();
    let last = status(&cluster, leader).last.index;
    assert!(cluster.run_until(5 * SECOND, |cluster| status(cluster, behind).applied == last));
    assert!(status(&cluster, behind).first > 10, "it got a snapshot");
}

#[test]
fn a_proposal_does_not_wait_for_a_peer_whose_entries_are_gone() {
    let (mut cluster, leader) = settled(8, 3);
    let behind = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
    isolate(&mut cluster, behind);
    write(&mut cluster, leader, 40);
    cluster.nodes.get_mut(&leader).unwrap().checkpoint();
    let known = status(&cluster, leader);
    let peer = known.peers.iter().find(|peer| peer.id == behind).unwrap();
    assert!(peer.state == PeerState::Replicate && peer.paused && peer.matched + 1 < known.first, "{known:?}");
    // Its disk stalls, but it still says that it hears the leader: one more message may be under way.
    let response = Message { to: leader, from: behind, term: known.term, ..Message::default() };
    let outputs = cluster.with(leader, |consensus, clock| {
        consensus.handle_message(clock, &bytes(MessageType::MsgHeartbeatResponse, response)).unwrap();
        consensus.propose(clock, Bytes::from_static(b"x")).unwrap();
        drain(consensus)
    });
    let asks = |output: &Output| matches!(output, Output::NeedSnapshot { to, .. } if *to == behind);
    assert!(outputs.unwrap().iter().any(asks));
}

#[test]
fn a_snapshot_that_takes_for_ever_does_not_stop_the_others() {
    let (mut cluster, leader) = settled(8, 3);
    let behind = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
    isolate(&mut cluster, behind);
    write(&mut cluster, leader, 40);
    cluster.nodes.get_mut(&leader).unwrap().checkpoint();
    cluster.network.cut.clear();
    cluster.snapshot_delay = 1000 * SECOND;
    cluster.run_for(SECOND);
    let peers = status(&cluster, leader).peers;
    assert!(peers.iter().any(|peer| peer.state == PeerState::Snapshot), "{peers:?}");
    // Several times what fits into the log in memory.
    for _ in 0..50 {
        write(&mut cluster, leader, 20);
        cluster.nodes.values_mut().for_each(Node::checkpoint);
    }
    // And when it has come, another one follows, or entries.
    cluster.snapshot_delay = Duration::ZERO;
    let last = status(&cluster, leader).last.index;
    assert!(cluster.run_until(1100 * SECOND, |cluster| status(cluster, behind).applied >= last));
}

#[test]
fn the_log_on_disk_is_kept_until_the_snapshot_is_stored_that_replaces_it() {
    let mut consensus = founder(2, 3);
    drain(&mut consensus);
    let snapshot = Some(message::snapshot(2, 500, &Conf::of_voters([1, 2, 3])));
    let snapshot = Message { to: 2, from: 1, term: 2, snapshot, ..Message::default() };
    consensus.handle_message(Instant::ZERO, &bytes(MessageType::MsgSnapshot, snapshot)).unwrap();
    let number = persist_number(&drain(&mut consensus));
    assert_eq!(consensus.compact(1), 2);
    consensus.handle_persisted(number);
    drain(&mut consensus);
    assert_eq!(consensus.compact(500), 501);
}

#[test]
fn a_swap_ends_though_its_leader_falls() {
    for seed in 0..10 {
        let (mut cluster, leader) = settled(seed, 3);
        let old = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
        cluster.join(4);
        cluster.with(leader, |consensus, clock| consensus.propose_conf(clock, ConfChange::AddLearner(4)));
        assert!(cluster.run_until(5 * SECOND, |cluster| status(cluster, 4).conf.contains(4)));
        cluster.run_for(SECOND / 2);
        let change = ConfChange::Swap { old, new: 4 };
        let changed = cluster.with(leader, |consensus, clock| consensus.propose_conf(clock, change));
        assert!(matches!(changed, Some(Ok(_))), "{changed:?}");
        cluster.run_for(Duration::from_millis(4 * seed));
        cluster.stop(leader, true);
        cluster.start_after(leader, 3 * SECOND);
        cluster.run_for(15 * SECOND);
        let conf = status(&cluster, cluster.leader().unwrap()).conf;
        assert!(!conf.is_joint(), "seed {seed}: {conf:?}");
    }
}

#[test]
fn a_change_that_could_end_the_cluster_is_refused() {
    let (mut cluster, leader) = settled(9, 3);
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|id| *id != leader).collect();
    let change = |cluster: &mut Cluster, change| {
        cluster.with(leader, |consensus, clock| consensus.propose_conf(clock, change)).unwrap()
    };
    assert_eq!(change(&mut cluster, ConfChange::AddLearner(others[0])), Err(Refused::UnsuitableMember(others[0])));
    assert_eq!(change(&mut cluster, ConfChange::Promote(9)), Err(Refused::UnsuitableMember(9)));
    assert_eq!(change(&mut cluster, ConfChange::Remove(9)), Err(Refused::UnsuitableMember(9)));
    // A learner that nobody has heard of cannot vote.
    change(&mut cluster, ConfChange::AddLearner(9)).unwrap();
    assert_eq!(change(&mut cluster, ConfChange::AddLearner(8)), Err(Refused::ChangePending));
    cluster.run_for(SECOND);
    // With one of three down, the other one is needed; who is down may go.
    cluster.stop(others[0], true);
    cluster.run_for(SECOND + SECOND / 10);
    assert_eq!(change(&mut cluster, ConfChange::Remove(others[1])), Err(Refused::WouldLoseQuorum));
    change(&mut cluster, ConfChange::Remove(others[0])).unwrap();
    cluster.run_for(SECOND);
    assert_eq!(change(&mut cluster, ConfChange::Promote(9)), Err(Refused::Behind { id: 9, lag: 4 }));
    let swap = ConfChange::Swap { old: others[1], new: 9 };
    assert_eq!(change(&mut cluster, swap), Err(Refused::Behind { id: 9, lag: 4 }));
    // One that has caught up can, but not when it is silent.
    cluster.join(9);
    cluster.run_for(SECOND);
    cluster.stop(9, false);
    cluster.run_for(SECOND + SECOND / 10);
    assert!(matches!(change(&mut cluster, ConfChange::Promote(9)), Err(Refused::Behind { id: 9, .. })));
    cluster.start(9);
    cluster.run_for(SECOND);
    assert!(change(&mut cluster, ConfChange::Promote(9)).is_ok());
}

#[test]
fn a_demoted_voter_finds_no_place_if_there_are_as_many_learners_as_may_be() {
    let conf = Conf { learners: (10..74).collect(), ..Conf::of_voters([1, 2]) };
    let hard = HardState { term: 1, vote: 0, commit: 1 };
    let recovered = Recovered { hard, entries: vec![origin(&conf)], ..Recovered::default() };
    let mut consensus = Consensus::new(settings_of(1), recovered, 1, Instant::ZERO).unwrap();
    drain(&mut consensus);
    let answer = |consensus: &mut Consensus, kind, index| {
        let answer = Message { to: 1, from: 2, term: 2, index, ..Message::default() };
        consensus.handle_message(Instant::ZERO, &bytes(kind, answer)).unwrap();
        drain(consensus);
        consensus.handle_persisted(u64::MAX);
        drain(consensus);
    };
    consensus.campaign();
    answer(&mut consensus, MessageType::MsgRequestPreVoteResponse, 0);
    answer(&mut consensus, MessageType::MsgRequestVoteResponse, 0);
    answer(&mut consensus, MessageType::MsgAppendResponse, 2);
    assert_eq!(consensus.status().commit, 2);
    let refused = consensus.propose_conf(Instant::ZERO, ConfChange::Demote(2));
    assert_eq!(refused, Err(Refused::UnsuitableMember(2)));
}

#[test]
fn what_waits_for_a_disk_that_stalls_is_bounded() {
    let mut consensus = founder(2, 3);
    let vote = Message { to: 2, from: 1, term: 2, index: 1, log_term: 1, ..Message::default() };
    for _ in 0..5000 {
        consensus.handle_message(Instant::ZERO, &bytes(MessageType::MsgRequestVote, vote.clone())).unwrap();
        drain(&mut consensus);
    }
    consensus.handle_persisted(u64::MAX);
    assert_eq!(sends(&drain(&mut consensus)), 4096);
}

#[test]
fn of_who_is_no_member_nothing_is_remembered() {
    let mut consensus = founder(2, 3);
    for from in 1..100 {
        let vote = Message { to: 2, from, term: 2, index: 1, log_term: 1, ..Message::default() };
        let _ = consensus.handle_message(Instant::ZERO, &bytes(MessageType::MsgRequestVote, vote));
    }
    assert_eq!(consensus.heard.keys().copied().collect::<Vec<_>>(), [1, 3]);
}

#[test]
fn a_message_has_no_more_entries_than_are_read() {
    let entries = vec![origin(&Conf::of_voters([1, 2]))];
    let recovered = Recovered { hard: HardState { term: 1, vote: 0, commit: 1 }, entries, ..Recovered::default() };
    let mut leader = Consensus::new(Settings::new(1), recovered, 1, Instant::ZERO).unwrap();
    let answer = |leader: &mut Consensus, kind, index| {
        let answer = Message { to: 1, from: 2, term: 2, index, ..Message::default() };
        leader.handle_message(Instant::ZERO, &bytes(kind, answer)).unwrap();
    };
    let settle = |leader: &mut Consensus| {
        let outputs = drain(leader);
        leader.handle_persisted(u64::MAX);
        outputs.into_iter().chain(drain(leader)).collect::<Vec<_>>()
    };
    leader.campaign();
    for kind in [MessageType::MsgRequestPreVoteResponse, MessageType::MsgRequestVoteResponse] {
        answer(&mut leader, kind, 0);
        settle(&mut leader);
    }
    // The peer is waited for meanwhile, and answers in the middle of a turn.
    let propose = |leader: &mut Consensus| {
        (0..20_000).take_while(|_| leader.propose(Instant::ZERO, Bytes::from_static(b"x")).is_ok()).count()
    };
    assert!(propose(&mut leader) >= 8000);
    settle(&mut leader);
    assert!(propose(&mut leader) >= 8000);
    answer(&mut leader, MessageType::MsgAppendResponse, 2);
    let mut count = 0;
    for output in settle(&mut leader) {
        if let Output::Send { bytes, .. } = output {
            let message = message::decode(&bytes).expect("it is read");
            count += message.entries.len();
        }
    }
    assert!(count >= 16_000, "{count}");
}

#[test]
fn a_clock_that_goes_back_makes_nothing_wait() {
    let (mut cluster, leader) = settled(10, 3);
    let hour = 3600 * 1_000_000_000;
    cluster.nodes.values_mut().for_each(|node| node.skew += hour);
    cluster.run_for(5 * SECOND);
    let leader = cluster.leader().unwrap_or(leader);
    isolate(&mut cluster, leader);
    cluster.read(leader);
    cluster.nodes.values_mut().for_each(|node| node.skew -= hour);
    cluster.with(leader, |consensus, clock| consensus.handle_timeout(clock));
    cluster.run_for(SECOND + SECOND / 5);
    assert_eq!(cluster.checks.open_reads(), 0);
    let heard = &cluster.nodes[&leader].running.as_ref().unwrap().consensus.heard;
    let now = cluster.nodes[&leader].clock(cluster.now);
    assert!(heard.values().all(|at| *at <= now));
    cluster.network.cut.clear();
    // Proposals tell the time, too.
    assert!(cluster.run_until(10 * SECOND, |cluster| cluster.leader().is_some()));
    let leader = cluster.leader().unwrap();
    cluster.nodes.values_mut().for_each(|node| node.skew += hour);
    cluster.run_for(5 * SECOND);
    cluster.nodes.values_mut().for_each(|node| node.skew -= hour);
    cluster.propose(leader, Bytes::from_static(b"x"));
    let due = cluster.nodes[&leader].running.as_ref().unwrap().consensus.poll_timeout().unwrap();
    assert!(due <= cluster.nodes[&leader].clock(cluster.now) + 2 * SECOND);
}

#[test]
fn a_term_that_no_cluster_comes_to_is_refused() {
    let mut consensus = founder(2, 3);
    let vote = |term| Message { to: 2, from: 1, term, index: 1, log_term: 1, ..Message::default() };
    for (term, is_taken) in [((1 << 62) - 1, false), (2 + (1 << 32), false), (1 + (1 << 32), true)] {
        let taken = consensus.handle_message(Instant::ZERO, &bytes(MessageType::MsgRequestVote, vote(term)));
        assert_eq!(taken.is_ok(), is_taken, "{term}");
    }
}

#[test]
fn a_clock_that_jumps_a_year_ahead_costs_one_election_at_most() {
    let (mut cluster, leader) = settled(10, 3);
    let term = status(&cluster, leader).term;
    for id in 1..=3 {
        cluster.nodes.get_mut(&id).unwrap().skew += 365 * 24 * 3600 * 1_000_000_000;
        cluster.run_for(3 * SECOND);
    }
    assert!(cluster.run_until(5 * SECOND, |cluster| cluster.leader().is_some()));
    assert!(status(&cluster, cluster.leader().unwrap()).term <= term + 1);
}

#[test]
fn a_peer_that_answers_is_heard_at_each_moment_and_one_that_does_not_is_soon_silent() {
    let (mut cluster, leader) = settled(5, 3);
    let silent = |cluster: &Cluster| {
        let peers = status(cluster, leader).peers;
        peers.into_iter().filter(|peer| !peer.recently_active).map(|peer| peer.id).collect::<Vec<_>>()
    };
    for _ in 0..500 {
        cluster.run_for(SECOND / 100);
        assert_eq!(silent(&cluster), []);
    }
    let stopped = cluster.nodes.keys().copied().find(|id| *id != leader).unwrap();
    cluster.stop(stopped, true);
    assert!(cluster.run_until(2 * SECOND, |cluster| silent(cluster) == [stopped]));
}

#[test]
fn a_log_that_is_full_of_what_is_not_agreed_upon_takes_what_decides_it() {
    // As several leaders in a row left it, each of which proposed more and fell.
    let append = |commit| {
        let entry = |index| Entry {
            position: Position { term: 2, index },
            kind: EntryKind::Command,
            data: Bytes::from(vec![1; 400]),
        };
        let entries = [origin(&Conf::of_voters([1, 2, 3]))].into_iter().chain((2..=60).map(entry)).collect();
        let hard = HardState { term: 2, vote: 1, commit };
        let recovered = Recovered { hard, entries, ..Recovered::default() };
        let mut follower = Consensus::new(settings_of(3), recovered, 1, Instant::ZERO).unwrap();
        drain(&mut follower);
        let entries = vec![RaftEntry { term: 3, index: 61, ..RaftEntry::default() }];
        let message =
            Message { to: 3, from: 1, term: 3, log_term: 2, index: 60, entries, commit, ..Message::default() };
        let taken = follower.handle_message(Instant::ZERO, &bytes(MessageType::MsgAppend, message));
        taken.map(|()| follower.status().term)
    };
    assert_eq!(append(1), Ok(3));
    assert_eq!(append(60), Err(NotAccepted::Busy), "a checkpoint frees it");
}
