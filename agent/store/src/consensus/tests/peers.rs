//! Whatever a peer says, nothing panics.

use std::collections::VecDeque;

use bytes::Bytes;
use proptest::prelude::*;
use raft::eraftpb::Message;
use ringmesh_proto::Instant;

use super::{node::settings_of, number};
use crate::consensus::{
    Conf, ConfChange, Consensus, HardState, Output, Recovered, message, message::tests::message, origin,
};

#[derive(Clone, Debug)]
enum Step {
    Message(Box<Message>),
    Bytes(Vec<u8>),
    Time(u64),
    Propose,
    Change(ConfChange),
    Read(u64),
    Campaign,
    Transfer(u64),
    Unreachable(u64),
    Snapshot(u64),
    Compact,
    /// The disk has stored so many of what it was given.
    Persist(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let small = (1..6u64, 0..6u64, 0..8u64, 0..8u64, 0..6u64);
    let near = (message(), small, 2..4u64, any::<bool>()).prop_map(|(mut message, numbers, from, is_near)| {
        (message.to, message.from) = (1, from);
        if is_near {
            // Of a kind that could come, more or less.
            (message.term, message.log_term, message.index, message.commit, message.commit_term) = numbers;
            message.reject_hint %= 8;
            let mut term = message.log_term;
            for (entry, index) in message.entries.iter_mut().zip(message.index + 1..) {
                term = (term + entry.term % 2).min(message.term);
                (entry.term, entry.index) = (term, index);
            }
        }
        Step::Message(Box::new(message))
    });
    let change = prop_oneof![
        (2..6u64).prop_map(ConfChange::AddLearner),
        (2..6u64).prop_map(ConfChange::Promote),
        (1..4u64).prop_map(ConfChange::Remove),
        (1..4u64, 2..6u64).prop_map(|(old, new)| ConfChange::Swap { old, new }),
    ];
    prop_oneof![
        12 => near,
        1 => any::<Vec<u8>>().prop_map(Step::Bytes),
        3 => (1..3000u64).prop_map(Step::Time),
        3 => Just(Step::Propose),
        1 => change.prop_map(Step::Change),
        1 => any::<u64>().prop_map(Step::Read),
        2 => Just(Step::Campaign),
        1 => (1..4u64).prop_map(Step::Transfer),
        1 => (1..4u64).prop_map(Step::Unreachable),
        1 => (1..4u64).prop_map(Step::Snapshot),
        1 => Just(Step::Compact),
        4 => (1..4usize).prop_map(Step::Persist),
    ]
}

fn run(members: u64, steps: Vec<Step>) {
    let hard = HardState { term: 1, vote: 0, commit: 1 };
    let entries = vec![origin(&Conf::of_voters(1..=members))];
    let recovered = Recovered { hard, entries, ..Recovered::default() };
    let mut now = Instant::ZERO;
    let mut consensus = Consensus::new(settings_of(1), recovered, 1, now).unwrap();
    let mut unstored = VecDeque::new();
    for step in steps {
        match step {
            Step::Message(message) => {
                if let Some(bytes) = message::encode(&message) {
                    let _ = consensus.handle_message(now, &bytes);
                }
            }
            Step::Bytes(bytes) => {
                let _ = consensus.handle_message(now, &bytes);
            }
            Step::Time(millis) => {
                now += std::time::Duration::from_millis(millis);
                consensus.handle_timeout(now);
            }
            Step::Propose => {
                let _ = consensus.propose(now, Bytes::from_static(b"command"));
            }
            Step::Change(change) => {
                let _ = consensus.propose_conf(now, change);
            }
            Step::Read(context) => {
                let _ = consensus.read(now, context);
            }
            Step::Campaign => consensus.campaign(),
            Step::Transfer(to) => {
                let _ = consensus.transfer_leader(to);
            }
            Step::Unreachable(peer) => consensus.handle_unreachable(peer),
            Step::Snapshot(to) => {
                let status = consensus.status();
                let position = crate::consensus::Position { term: status.term, index: status.applied };
                let at = crate::consensus::Applied { position, conf: status.conf.encode() };
                let is_begun = consensus.begin_snapshot(to, &at).is_some();
                consensus.handle_snapshot_sent(to, is_begun);
            }
            Step::Compact => {
                consensus.compact(consensus.status().applied);
            }
            Step::Persist(count) => {
                let stored = unstored.drain(..count.min(unstored.len())).next_back();
                stored.into_iter().for_each(|number| consensus.handle_persisted(number));
            }
        }
        while let Some(output) = consensus.poll_output() {
            if let Output::Persist(persist) = output {
                assert!(unstored.back().is_none_or(|before| *before < persist.number), "numbers ascend");
                unstored.push_back(persist.number);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(number("RINGMESH_CASES", 500) as u32))]
    #[test]
    fn nothing_that_a_peer_says_makes_a_member_panic(
        members in 1..4u64,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        run(members, steps);
    }
}
