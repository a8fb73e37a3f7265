//! Cells of which one container has a member inside: the real one, at the other end of a socket that loses nothing.

use ringmesh_member::{
    inside,
    message::{Order, Word},
};

use super::*;

/// A host, and the member inside its container c1, which is a process that can be stopped.
struct Guest {
    host: Host,
    member: inside::Inside,
    /// What waits in its socket while it is stopped.
    waiting: Vec<Vec<u8>>,
    stopped: bool,
    refused: Vec<Refused>,
}

impl Guest {
    fn new(seed: u64, containers: usize) -> Self {
        let mut host = Host::new(seed, containers);
        host.run(10);
        host.cells.handle_inside(host.now, "c1");
        let member = inside::Inside::default();
        Self { host, member, waiting: Vec::new(), stopped: false, refused: Vec::new() }
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.host.tick();
            self.talk();
        }
    }

    fn talk(&mut self) {
        let now = Duration::from_nanos(self.host.now.as_nanos());
        loop {
            let packets = std::iter::from_fn(|| self.host.cells.poll_packet());
            self.waiting.extend(packets.map(|(container, packet)| {
                assert_eq!(&*container, "c1");
                packet
            }));
            if self.stopped {
                return;
            }
            for packet in std::mem::take(&mut self.waiting) {
                self.member.handle(now, Order::decode(&packet).unwrap());
            }
            self.member.handle_timeout(now);
            let mut spoke = false;
            while let Some(packet) = self.member.poll_transmit() {
                spoke = true;
                let Word::Letter { to, bytes } = Word::decode(&packet).unwrap() else { panic!("it was asked nothing") };
                self.refused.extend(self.host.cells.handle_letter(self.host.now, "c1", to, bytes).err());
            }
            if !spoke {
                return;
            }
        }
    }

    /// What is told of c1 by itself.
    fn told(&self) -> Vec<(MemberState, bool)> {
        let of = self.host.changes.iter().filter(|change| &*change.container == "c1");
        of.map(|change| (change.state, change.inside)).collect()
    }
}

#[test]
fn a_member_inside_is_alive_by_its_own_words() {
    for (seed, containers) in [(1, 2), (2, 2), (3, 40), (4, 200)] {
        let mut guest = Guest::new(seed, containers);
        // What is heard from outside does not count.
        guest.host.mute("c1", true);
        guest.run(300);
        assert_eq!(guest.told(), [(MemberState::Alive, false), (MemberState::Alive, true)], "seed {seed}");
        assert_eq!((guest.host.news(), &guest.refused), (Vec::new(), &Vec::new()), "seed {seed}");
        assert_eq!(guest.host.counts(), (containers as u32, containers as u32));
    }
}

#[test]
fn one_that_is_stopped_is_silent_and_heard_again_in_another_life() {
    for seed in 0..10 {
        let mut guest = Guest::new(seed, 30);
        guest.run(20);
        guest.stopped = true;
        guest.run(60);
        assert_eq!(guest.host.news(), [("c1", News::Silent)], "seed {seed}: its probes pass, and do not count");
        let down = guest.host.changes.iter().find(|change| change.news.is_some()).unwrap();
        assert!(down.inside && (SECOND * 8..=SECOND * 30).contains(&down.silent_for), "{down:?}");
        guest.stopped = false;
        guest.run(8);
        assert_eq!(guest.host.news(), [("c1", News::Silent), ("c1", News::Heard)], "seed {seed}");
        guest.run(120);
        assert_eq!((guest.host.state("c1"), guest.host.counts()), (MemberState::Alive, (30, 30)), "seed {seed}");
        assert_eq!((guest.host.news().len(), &guest.refused), (2, &Vec::new()), "seed {seed}");
    }
}

#[test]
fn one_that_is_stopped_for_short_refutes_and_nobody_is_told() {
    for seed in 0..20 {
        let mut guest = Guest::new(seed, 30);
        guest.run(20);
        guest.stopped = true;
        guest.run(7);
        guest.stopped = false;
        guest.run(60);
        assert_eq!((guest.host.news(), guest.host.state("c1")), (Vec::new(), MemberState::Alive), "seed {seed}");
    }
}

#[test]
fn another_process_of_it_begins_another_life_and_a_container_that_starts_anew_waits_for_its_member() {
    let mut guest = Guest::new(1, 5);
    guest.run(20);
    let generation = |guest: &Guest| guest.host.changes.last().unwrap().generation;
    assert_eq!(generation(&guest), 2);
    guest.member = inside::Inside::default();
    guest.host.cells.handle_inside(guest.host.now, "c1");
    guest.run(20);
    assert_eq!((guest.host.state("c1"), generation(&guest)), (MemberState::Alive, 3));
    let status =
        ContainerStatus { name: "c1".into(), state: ContainerState::Running, pid: Some(9), ..Default::default() };
    guest.host.cells.handle_status(guest.host.now, &status);
    guest.stopped = true;
    guest.run(60);
    assert_eq!(guest.host.state("c1"), MemberState::Alive, "its probes count again");
    assert_eq!(guest.host.news(), []);
}

#[test]
fn a_frozen_one_is_not_missed_and_has_time_to_speak_when_it_thaws() {
    let mut guest = Guest::new(1, 5);
    guest.run(20);
    guest.host.tell("c1", ContainerState::Paused);
    guest.stopped = true;
    guest.run(60);
    assert_eq!(guest.host.state("c1"), MemberState::Frozen);
    guest.host.tell("c1", ContainerState::Running);
    guest.run(5);
    guest.stopped = false;
    guest.run(30);
    assert_eq!((guest.host.state("c1"), guest.host.news()), (MemberState::Alive, Vec::new()));
}

proptest! {
    /// Whatever a container says in its member's place, the others of its cell stay what they are.
    #[test]
    fn no_letter_of_a_container_harms_another(
        seed in 0..50_u64,
        letters in prop::collection::vec((0..8_u16, prop::collection::vec(any::<u8>(), 0..140)), 0..200),
        forged in prop::collection::vec((0..6_u16, 0..4_u16, 0..4_u16, 0..3_u8), 0..50),
    ) {
        use bytes::BufMut;
        use foca::{Codec, Header, Member, Message, PostcardCodec, State};
        use ringmesh_member::swim::Slot;

        let mut guest = Guest::new(seed, 5);
        guest.run(12);
        for (to, bytes) in &letters {
            let _ = guest.host.cells.handle_letter(guest.host.now, "c1", *to, bytes);
        }
        let me = guest.host.cells.places["c1"].slot;
        for (slot, generation, incarnation, state) in forged {
            let header = Header {
                src: Slot { slot: me, generation: 2 },
                src_incarnation: 0,
                dst: Slot { slot: 0, generation: 1 },
                message: Message::Gossip,
            };
            let state = [State::Alive, State::Suspect, State::Down][usize::from(state)];
            let mut letter = Vec::new();
            PostcardCodec.encode_header(&header, &mut letter).unwrap();
            letter.put_u16(1);
            let news = Member::new(Slot { slot, generation }, incarnation, state);
            PostcardCodec.encode_member(&news, &mut letter).unwrap();
            prop_assert_eq!(guest.host.cells.handle_letter(guest.host.now, "c1", 0, &letter), Ok(()));
        }
        guest.run(40);
        prop_assert_eq!(guest.host.news(), []);
        prop_assert_eq!(guest.host.counts(), (5, 5));
        let worse = guest.host.changes.iter().find(|change| change.state > MemberState::Alive);
        prop_assert!(worse.is_none_or(|change| &*change.container == "c1"), "{:?}", worse);
    }
}

#[test]
fn one_that_went_on_while_its_agent_was_paused_begins_another_life() {
    for seed in 0..10 {
        let mut guest = Guest::new(seed, 2);
        guest.run(20);
        // The agent is stopped for a minute, in which the member probes it in vain.
        let pause = SECOND * 60;
        for _ in 0..600 {
            guest.host.now += pause / 600;
            let now = Duration::from_nanos(guest.host.now.as_nanos());
            guest.member.handle_timeout(now);
            while guest.member.poll_transmit().is_some() {}
        }
        let now = guest.host.now;
        guest.host.cells.pause(now, pause);
        guest.run(60);
        assert_eq!(guest.host.news(), [], "seed {seed}");
        assert_eq!((guest.host.state("c1"), guest.host.counts()), (MemberState::Alive, (2, 2)), "seed {seed}");
    }
}
