//! What members may say to each other, as steps of three that live: their own messages in any order, doubled, lost and
//! changed, messages that nobody sent, and any bytes, while time goes by, disks lag, members come and go and snapshots are
//! taken. Nothing panics, a turn has an end, and what is committed comes without holes.
#![no_main]

use std::{collections::VecDeque, time::Duration};

use bytes::{BufMut, Bytes};
use libfuzzer_sys::fuzz_target;
use ringmesh_proto::Instant;
use ringmesh_store::consensus::{
    Applied, Conf, ConfChange, Consensus, HardState, Output, Payload, Position, Recovered, Settings, origin,
};

/// Outputs of one turn: far more than three members have to say to each other.
const MAX_OUTPUTS: usize = 10_000;
const MAX_MESSAGE: usize = 16 << 20;
/// Messages under way; what was sent earlier is lost.
const MAX_UNDER_WAY: usize = 100;

/// Bytes of a read's context.
const CONTEXT: usize = 24;

fuzz_target!(|bytes: &[u8]| {
    let Some((start, mut rest)) = bytes.split_first() else { return };
    let mut cluster = Cluster::new(*start);
    // A step is: what it is, to whom and how it is done, and for some a length and bytes.
    while let [what, how, tail @ ..] = rest {
        rest = tail;
        let (member, value) = (usize::from(*how % 3), how / 3);
        match what % 16 {
            0..=2 => cluster.deliver(value.into(), &[]),
            kind @ 3..=6 => {
                let [len, tail @ ..] = rest else { break };
                let (input, tail) = tail.split_at(tail.len().min(usize::from(*len)));
                rest = tail;
                match kind {
                    3 => cluster.deliver(value.into(), input),
                    4 => cluster.hear(member, input),
                    _ => cluster.hear(member, &forged(member as u64 + 1, input)),
                }
            }
            7 => drop(cluster.under_way.pop_front()),
            8 => cluster.wait(value),
            9 => cluster.ask(member, value),
            10 => cluster.propose_conf(member, value),
            11 => cluster.members[member].consensus.handle_unreachable(u64::from(value % 5)),
            12 => cluster.members[member].compact(),
            13 => cluster.members[member].consensus.campaign(),
            _ => cluster.members[member].persist(),
        }
        cluster.drain();
    }
});

struct Cluster {
    now: Instant,
    members: Vec<Member>,
    under_way: VecDeque<(u64, Bytes)>,
}

struct Member {
    consensus: Consensus,
    applied: Applied,
    /// The last that was given out to be stored.
    unstored: Option<u64>,
    /// Its disk stores at once.
    is_fast: bool,
}

impl Cluster {
    /// The bits of `start` say how many have founded, whose disks are fast, and whether somebody leads.
    fn new(start: u8) -> Self {
        let founders = [3, 1, 2, 3][usize::from(start % 4)];
        let members = (1..=3).map(|id| Member::new(id, founders, start & 4 == 0 || id == 3)).collect();
        let mut cluster = Self { now: Instant::from_nanos(1), members, under_way: VecDeque::new() };
        cluster.drain();
        if start & 8 == 0 {
            cluster.members[0].consensus.campaign();
            for _ in 0..20 + u32::from(start / 16) {
                cluster.drain();
                cluster.members.iter_mut().for_each(Member::persist);
                cluster.drain();
                cluster.deliver(0, &[]);
            }
            cluster.ask(0, 0);
            cluster.drain();
        }
        cluster
    }

    /// One of the messages under way arrives; with changes, it stays under way as it was. A change is where, and what with.
    fn deliver(&mut self, which: usize, changes: &[u8]) {
        let which = which % self.under_way.len().max(1);
        let Some((to, bytes)) = self.under_way.get(which).cloned() else { return };
        if changes.is_empty() {
            self.under_way.remove(which);
        }
        let mut bytes = bytes.to_vec();
        for [at, with] in changes.as_chunks::<2>().0 {
            let at = usize::from(*at) % bytes.len();
            bytes[at] ^= with;
        }
        self.hear((to - 1) as usize, &bytes);
    }

    fn hear(&mut self, member: usize, bytes: &[u8]) {
        let _ = self.members[member].consensus.handle_message(self.now, bytes);
    }

    fn wait(&mut self, value: u8) {
        self.now += Duration::from_millis(u64::from(value) * 20);
        for member in &mut self.members {
            if member.consensus.poll_timeout().is_some_and(|due| due <= self.now) {
                member.consensus.handle_timeout(self.now);
            }
            assert!(member.consensus.poll_timeout().is_none_or(|due| due > self.now), "the timer moves on");
        }
    }

    fn ask(&mut self, member: usize, value: u8) {
        let consensus = &mut self.members[member].consensus;
        match value % 4 {
            0 => _ = consensus.propose(self.now, Bytes::from(vec![value; usize::from(value) + 1])),
            1 => _ = consensus.propose(self.now, Bytes::from(vec![value; 1000])),
            2 => _ = consensus.read(self.now, value.into()),
            _ => _ = consensus.transfer_leader(u64::from(value / 4 % 4)),
        }
    }

    fn propose_conf(&mut self, member: usize, value: u8) {
        let id = u64::from(value / 5 % 5);
        let change = match value % 5 {
            0 => ConfChange::AddLearner(id),
            1 => ConfChange::Promote(id),
            2 => ConfChange::Demote(id),
            3 => ConfChange::Remove(id),
            _ => ConfChange::Swap { old: id, new: u64::from(value / 25) },
        };
        let _ = self.members[member].consensus.propose_conf(self.now, change);
    }

    /// Carries out what there is to do.
    fn drain(&mut self) {
        let mut outputs = 0;
        for member in &mut self.members {
            while let Some(output) = member.consensus.poll_output() {
                outputs += 1;
                assert!(outputs <= MAX_OUTPUTS, "a turn has an end");
                member.carry_out(output, &mut self.under_way);
            }
            let _ = member.consensus.status();
        }
        let surplus = self.under_way.len().saturating_sub(MAX_UNDER_WAY);
        self.under_way.drain(..surplus);
    }
}

impl Member {
    /// One of so many founders, or one that joins.
    fn new(id: u64, founders: u64, is_fast: bool) -> Self {
        let recovered = if id <= founders {
            let hard = HardState { term: 1, vote: 0, commit: 1 };
            Recovered { hard, entries: vec![origin(&Conf::of_voters(1..=founders))], ..Recovered::default() }
        } else {
            Recovered::default()
        };
        let settings = Settings { max_message_bytes: 600, max_inflight: 8, retain_bytes: 500, ..Settings::new(id) };
        let consensus = Consensus::new(settings, recovered, id, Instant::from_nanos(1)).expect("it is a good start");
        Self { consensus, applied: Applied::default(), unstored: None, is_fast }
    }

    fn carry_out(&mut self, output: Output, under_way: &mut VecDeque<(u64, Bytes)>) {
        match output {
            Output::Send { to, bytes } => {
                assert!(bytes.len() <= MAX_MESSAGE);
                // What is changed may name a member that there is not.
                if (1..=3).contains(&to) {
                    under_way.push_back((to, bytes));
                }
            }
            Output::Persist(persist) => {
                if let Some(snapshot) = persist.snapshot {
                    self.applied = snapshot;
                }
                self.unstored = Some(persist.number);
                if self.is_fast {
                    self.persist();
                }
            }
            Output::Commit(entries) => {
                for entry in entries {
                    assert_eq!(entry.position.index, self.applied.position.index + 1, "in order, without holes");
                    self.applied.position = entry.position;
                    match entry.payload {
                        Payload::Conf(conf) => self.applied.conf = conf.encode(),
                        Payload::Command(command) => assert!(!command.is_empty()),
                        Payload::Empty => {}
                    }
                }
            }
            Output::NeedSnapshot { to, at_least } => {
                let is_new_enough = self.applied.position.index >= at_least;
                let sent = self.consensus.begin_snapshot(to, &self.applied).filter(|_| is_new_enough);
                self.consensus.handle_snapshot_sent(to, sent.is_some());
                under_way.extend(sent.map(|bytes| (to, bytes)).filter(|_| (1..=3).contains(&to)));
            }
            Output::Read { .. } | Output::ReadFailed { .. } | Output::Leader { .. } => {}
        }
    }

    fn persist(&mut self) {
        if let Some(number) = self.unstored.take() {
            self.consensus.handle_persisted(number);
        }
    }

    fn compact(&mut self) {
        let Position { index, .. } = self.applied.position;
        assert!(self.consensus.compact(index) <= index + 1, "what is not applied is kept");
    }
}

/// A message in few bytes: its kind, then what is in it. What the bytes do not say is zero.
fn forged(to: u64, input: &[u8]) -> Vec<u8> {
    let mut input = Input(input);
    let mut out = vec![1, 1 + input.byte() % 12, input.byte() % 2];
    out.put_u64_le(to);
    out.put_u64_le(u64::from(input.byte() % 5));
    // Term, log term, index, commit, commit term, reject hint.
    (0..6).for_each(|_| out.put_u64_le(input.number()));
    let context = if input.byte() % 2 == 0 { 0 } else { CONTEXT };
    out.put_u16_le(context as u16);
    out.put_bytes(input.byte(), context);
    let entries = input.byte() % 5;
    out.put_u32_le(entries.into());
    for _ in 0..entries {
        out.put_u64_le(input.number());
        out.put_u8(input.byte() % 2);
        let data = if input.byte() % 2 == 0 { vec![input.byte(); CONTEXT] } else { input.take() };
        out.put_u32_le(data.len() as u32);
        out.put_slice(&data);
    }
    if input.byte() % 2 == 0 {
        out.put_u8(0);
        return out;
    }
    out.put_u8(1);
    out.put_u64_le(input.number());
    out.put_u64_le(input.number());
    let conf = input.conf().encode();
    out.put_u16_le(conf.len() as u16);
    out.put_slice(&conf);
    out
}

/// Bytes to choose by; zeros when there are no more.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    /// A small number, or one of the largest that a message may have.
    fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..250 => small.into(),
            large => (1 << 62) - u64::from(large - 249),
        }
    }

    /// As many bytes as the first of them says.
    fn take(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte()).min(self.0.len());
        let (taken, rest) = self.0.split_at(len);
        self.0 = rest;
        taken.to_vec()
    }

    /// Bit by bit, who is what.
    fn conf(&mut self) -> Conf {
        let mut list = || {
            let bits = self.byte();
            (0..5).filter(|bit| bits >> bit & 1 == 1).map(|bit| bit + 1).collect::<Vec<u64>>()
        };
        let (voters, learners, outgoing, learners_next) = (list(), list(), list(), list());
        Conf { voters, learners, outgoing, learners_next, auto_leave: self.byte() % 2 == 1 }
    }
}
