//! The roles of a cluster whose log does what it is told, unless too few voters are heard.

use proptest::prelude::*;
use ringmesh_store::consensus::{Conf, Peer, PeerState, Position, Role as Part};

use super::*;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

struct World {
    now: Instant,
    hosts: Vec<Host>,
    seats: Vec<Seat>,
    conf: Conf,
    /// Hosts whose replica answers.
    heard: BTreeSet<HostId>,
    next_id: u64,
    /// To whom leadership was given.
    given_to: Option<u64>,
    roles: Roles,
    /// All that was done.
    steps: Vec<Step>,
}

fn host(number: u32, rack: &str) -> Host {
    let domain = Domain { zone: "z".into(), rack: rack.into() };
    Host { id: HostId::new(number), name: format!("h{number}"), domain, presence: Presence::There }
}

impl World {
    /// Host 1 has founded.
    fn new(racks: &[&str]) -> Self {
        let hosts: Vec<Host> = (1..).zip(racks).map(|(number, rack)| host(number, rack)).collect();
        Self {
            now: Instant::ZERO,
            heard: hosts.iter().map(|host| host.id).collect(),
            hosts,
            seats: vec![Seat { id: 1, host: HostId::new(1), name: "h1".into(), leaves: false }],
            conf: Conf::of_voters([1]),
            next_id: 2,
            given_to: None,
            roles: Roles::new(Settings::default()),
            steps: Vec::new(),
        }
    }

    fn status(&self) -> Status {
        let members = self.conf.voters.iter().chain(&self.conf.learners);
        let is_heard = |id: u64| self.host_of(id).is_some_and(|host| self.heard.contains(&host));
        let leader = self.leader();
        let peer = |id: &u64| Peer {
            id: *id,
            matched: if is_heard(*id) { 9 } else { 0 },
            state: PeerState::Replicate,
            paused: false,
            recently_active: is_heard(*id),
            learner: self.conf.learners.contains(id),
        };
        Status {
            id: leader,
            role: Part::Leader,
            term: 1,
            leader: Some(leader),
            commit: 9,
            applied: 9,
            persisted: 9,
            last: Position { term: 1, index: 9 },
            first: 1,
            log_bytes: 0,
            peers: members.filter(|id| **id != leader).map(peer).collect(),
            conf: self.conf.clone(),
            diverged: None,
        }
    }

    fn host_of(&self, id: u64) -> Option<HostId> {
        self.seats.iter().find(|seat| seat.id == id).map(|seat| seat.host)
    }

    /// The one to which it was given, or else the first voter that is heard.
    fn leader(&self) -> u64 {
        let is_heard = |id: &u64| self.host_of(*id).is_some_and(|host| self.heard.contains(&host));
        let given_to = self.given_to.filter(|id| self.conf.voters.contains(id) && is_heard(id));
        if let Some(leader) = given_to {
            return leader;
        }
        self.conf.voters.iter().copied().find(is_heard).unwrap_or(self.conf.voters[0])
    }

    fn look(&mut self) {
        self.now += LOOK;
        let status = self.status();
        let heard =
            self.conf.voters.iter().filter(|id| self.host_of(**id).is_some_and(|host| self.heard.contains(&host)));
        let has_quorum = heard.count() > self.conf.voters.len() / 2;
        let Some(step) = self.roles.handle_look(self.now, &self.hosts, &self.seats, &status) else { return };
        if has_quorum {
            self.carry_out(step);
        }
    }

    fn carry_out(&mut self, step: Step) {
        self.steps.push(step.clone());
        match step {
            Step::Seat(host) => {
                assert!(!self.seats.iter().any(|seat| seat.host == host), "{host} has one");
                self.seats.push(Seat { id: self.next_id, host, name: format!("h{}", host.raw()), leaves: false });
                self.next_id += 1;
            }
            Step::Leave(host) => {
                self.seats.iter_mut().find(|seat| seat.host == host).expect("it has one").leaves = true;
            }
            Step::Forget(host) => {
                let at = self.seats.iter().position(|seat| seat.host == host).expect("it has one");
                assert!(!self.conf.contains(self.seats.remove(at).id), "it is a member");
            }
            Step::Change(change) => self.change(change),
            Step::Transfer(to) => {
                assert!(self.conf.voters.contains(&to) && to != self.leader());
                self.given_to = Some(to);
                // The next leader knows nothing but what is agreed on.
                self.roles = Roles::new(self.roles.settings.clone());
            }
        }
    }

    /// As a host does before it leaves.
    fn gives_up(&mut self, number: u32) {
        self.carry_out(Step::Leave(HostId::new(number)));
    }

    fn change(&mut self, change: ConfChange) {
        let leader = self.leader();
        let Conf { voters, learners, .. } = &mut self.conf;
        let promote = |voters: &mut Vec<u64>, learners: &mut Vec<u64>, id: u64| {
            learners.remove(learners.iter().position(|learner| *learner == id).expect("a learner"));
            voters.push(id);
        };
        match change {
            ConfChange::AddLearner(id) => {
                assert!(!voters.contains(&id) && !learners.contains(&id));
                learners.push(id);
            }
            ConfChange::Promote(id) => promote(voters, learners, id),
            ConfChange::PromoteTwo(first, second) => {
                promote(voters, learners, first);
                promote(voters, learners, second);
            }
            ConfChange::Demote(id) => {
                assert_ne!(id, leader);
                voters.retain(|voter| *voter != id);
                learners.push(id);
            }
            ConfChange::Remove(id) => {
                assert_ne!(id, leader);
                voters.retain(|voter| *voter != id);
                learners.retain(|learner| *learner != id);
            }
            ConfChange::Swap { old, new } => {
                assert_ne!(old, leader);
                promote(voters, learners, new);
                voters.retain(|voter| *voter != old);
            }
        }
        voters.sort_unstable();
        learners.sort_unstable();
    }

    fn run(&mut self, looks: u32) {
        (0..looks).for_each(|_| self.look());
    }

    fn fall(&mut self, number: u32) {
        self.presence(number, Presence::Down);
        self.heard.remove(&HostId::new(number));
    }

    fn rise(&mut self, number: u32) {
        self.presence(number, Presence::There);
        self.heard.insert(HostId::new(number));
    }

    fn presence(&mut self, number: u32, presence: Presence) {
        let id = HostId::new(number);
        self.hosts.iter_mut().find(|host| host.id == id).expect("it is one").presence = presence;
    }

    fn voters(&self) -> Vec<u32> {
        let mut hosts: Vec<u32> = self.conf.voters.iter().filter_map(|id| self.host_of(*id)).map(HostId::raw).collect();
        hosts.sort_unstable();
        hosts
    }

    fn why(&self, number: u32) -> (Role, String) {
        let standing = self.roles.standings().iter().find(|standing| standing.host.raw() == number).expect("it stands");
        (standing.role, standing.why.clone())
    }

    /// Grown to what its hosts allow.
    fn settled(racks: &[&str]) -> Self {
        let mut world = Self::new(racks);
        world.run(60);
        world.steps.clear();
        world
    }
}

#[test]
fn a_cluster_grows_by_itself_and_never_stands_on_an_even_number() {
    for (hosts, voters, standbys) in [(1, 1, 0), (2, 1, 1), (3, 3, 0), (4, 3, 1), (5, 3, 2), (6, 3, 2), (7, 5, 2)] {
        let mut world = World::new(&vec!["r"; hosts]);
        for _ in 0..60 {
            world.look();
            assert_eq!(world.conf.voters.len() % 2, 1, "{:?}", world.steps);
        }
        assert_eq!((world.conf.voters.len(), world.conf.learners.len()), (voters, standbys), "{hosts} hosts");
        world.steps.clear();
        world.run(10);
        assert_eq!(world.steps, [], "it has come to rest");
    }
}

#[test]
fn voters_stand_in_as_many_racks_as_there_are() {
    let world = World::settled(&["a", "a", "a", "b", "b", "c"]);
    let racks: BTreeSet<_> =
        world.voters().iter().map(|number| &world.hosts[*number as usize - 1].domain.rack).collect();
    assert_eq!(racks.len(), 3, "{:?}", world.voters());

    // A third rack comes later: one of two that share a rack gives way, and then nothing more.
    let mut world = World::settled(&["a", "a", "b", "b", "b"]);
    world.hosts.push(host(6, "c"));
    world.heard.insert(HostId::new(6));
    world.run(60);
    assert!(world.voters().contains(&1), "the leader stays");
    let before = world.steps.len();
    world.run(60);
    assert_eq!(world.steps.len(), before, "{:?}", world.steps);
}

#[test]
fn a_voter_that_is_down_for_long_is_replaced_in_one_change_and_one_that_flaps_is_not() {
    let mut world = World::settled(&["r"; 5]);
    let voter = *world.voters().last().expect("three");
    for _ in 0..3 {
        world.fall(voter);
        world.run(5);
        world.rise(voter);
        world.run(5);
    }
    assert_eq!(world.steps, [], "a flap changes nothing");
    world.fall(voter);
    world.run(30 * 8 - 1);
    assert_eq!(world.steps, [], "it flapped three times: it is waited for eight times as long");
    world.run(60);
    let swaps = world.steps.iter().filter(|step| matches!(step, Step::Change(ConfChange::Swap { .. }))).count();
    assert_eq!(swaps, 1, "{:?}", world.steps);
    assert_eq!(world.voters().len(), 3);
    assert!(!world.voters().contains(&voter));
    let forgotten = Step::Forget(HostId::new(voter));
    assert!(world.steps.contains(&forgotten), "{:?}", world.steps);
    // It comes back under another id.
    world.steps.clear();
    world.rise(voter);
    world.run(30);
    let ids: BTreeSet<u64> = world.seats.iter().map(|seat| seat.id).collect();
    assert_eq!(ids.len(), world.seats.len());
}

#[test]
fn the_loss_of_most_voters_changes_nothing_and_is_explained() {
    let mut world = World::settled(&["r"; 5]);
    let voters = world.voters();
    world.fall(voters[1]);
    world.fall(voters[2]);
    world.run(200);
    assert_eq!(world.steps, []);
    let (role, why) = world.why(voters[2]);
    assert!(role == Role::Voter && why.contains("2 voters are silent"), "{why}");
    // One of them is back: the other is replaced.
    world.rise(voters[1]);
    world.run(60);
    assert!(!world.voters().contains(&voters[2]) && world.voters().len() == 3, "{:?}", world.voters());
}

#[test]
fn death_makes_no_set_smaller_and_leaving_does() {
    let mut world = World::settled(&["r"; 3]);
    world.fall(3);
    world.run(500);
    assert_eq!(world.conf.voters.len(), 3, "{:?}", world.steps);
    assert!(world.why(3).1.contains("no other host"), "{:?}", world.why(3));
    world.rise(3);
    world.run(5);
    assert_eq!(world.steps, []);

    world.presence(3, Presence::Left);
    world.heard.remove(&HostId::new(3));
    world.run(60);
    assert_eq!((world.conf.voters.len(), world.conf.learners.len()), (1, 1), "{:?}", world.steps);
    let mut world = World::settled(&["r"; 4]);
    let gone = *world.voters().last().expect("three");
    world.presence(gone, Presence::Left);
    world.heard.remove(&HostId::new(gone));
    world.run(60);
    assert_eq!(world.conf.voters.len(), 3, "{:?}", world.steps);
}

#[test]
fn a_replica_that_its_host_has_lost_is_replaced_at_once_and_never_under_its_id() {
    let mut world = World::settled(&["r"; 3]);
    let seat = world.seats.iter().find(|seat| seat.host.raw() == 3).expect("it has one").clone();
    world.roles.handle_lost(seat.id);
    world.heard.remove(&seat.host);
    world.run(2);
    // There is no other host: it goes, and its host comes as a new one.
    world.heard.insert(seat.host);
    world.run(60);
    assert_eq!(world.conf.voters.len(), 3, "{:?}", world.steps);
    assert!(!world.conf.contains(seat.id), "{:?}", world.conf);
    assert!(world.voters().contains(&3));
}

#[test]
fn a_host_that_does_not_come_is_passed_over_for_a_while() {
    let mut world = World::new(&["r"; 3]);
    world.run(1);
    let Step::Seat(first) = world.steps[0] else { panic!("{:?}", world.steps) };
    world.roles.handle_declined(world.now, first, world.seats[1].id);
    world.run(20);
    assert!(!world.seats.iter().any(|seat| seat.host == first), "{:?}", world.seats);
    assert!(world.why(first.raw()).1.contains("store.eligible"));
    world.run(320);
    assert!(world.seats.iter().any(|seat| seat.host == first), "it is asked again");
}

#[test]
fn suspicion_and_silence_alone_change_nothing() {
    let mut world = World::settled(&["r"; 5]);
    // Down by gossip, and its replica is heard; silent, and there by gossip.
    world.presence(2, Presence::Down);
    world.heard.remove(&HostId::new(3));
    world.run(100);
    assert_eq!(world.steps, []);
}

proptest! {
    #[test]
    fn whatever_happens_no_voter_goes_but_by_reason(
        racks in prop::collection::vec(0_u8..4, 3..10),
        events in prop::collection::vec((0_usize..10, 0_u8..3, 1_u32..90), 1..30),
    ) {
        let racks: Vec<String> = racks.iter().map(ToString::to_string).collect();
        let racks: Vec<&str> = racks.iter().map(String::as_str).collect();
        let mut world = World::settled(&racks);
        let target = world.conf.voters.len();
        for (number, what, looks) in events {
            let number = (number % racks.len()) as u32 + 1;
            match what {
                0 => world.fall(number),
                1 => world.rise(number),
                _ => {
                    let seat = world.seats.iter().find(|seat| seat.host.raw() == number).map(|seat| seat.id);
                    seat.into_iter().for_each(|id| world.roles.handle_lost(id));
                }
            }
            for _ in 0..looks {
                world.look();
                prop_assert!(world.conf.voters.len() + 2 >= target, "{:?}", world.steps);
            }
        }
        (1..=racks.len() as u32).for_each(|number| world.rise(number));
        world.run(1000);
        prop_assert_eq!(world.conf.voters.len(), target, "{:?}", world.steps);
        world.steps.clear();
        world.run(100);
        prop_assert_eq!(&world.steps, &[]);
    }
}

#[test]
fn a_host_that_is_about_to_leave_gives_up_its_vote_first_whatever_it_is() {
    for hosts in [2, 4, 5] {
        for number in [1, 2] {
            let mut world = World::settled(&vec!["r"; hosts]);
            let voters = world.conf.voters.len();
            world.gives_up(number);
            // It takes no invitation.
            for _ in 0..60 {
                world.look();
                if let Some(seat) = world.seats.iter().find(|seat| seat.host.raw() == number && !seat.leaves) {
                    let id = seat.id;
                    world.roles.handle_declined(world.now, HostId::new(number), id);
                }
            }
            assert!(!world.voters().contains(&number), "host {number} of {hosts}: {:?}", world.steps);
            assert_eq!(world.conf.voters.len(), voters, "host {number} of {hosts}: {:?}", world.steps);
        }
    }
    // Of three without a stand-by it goes when it has left.
    let mut world = World::settled(&["r"; 3]);
    world.gives_up(1);
    world.run(60);
    assert_eq!(world.voters(), [1, 2, 3], "{:?}", world.steps);
    assert_ne!(world.leader(), 1, "another one leads already");
    world.presence(1, Presence::Left);
    world.heard.remove(&HostId::new(1));
    world.run(60);
    assert_eq!((world.conf.voters.len(), world.conf.learners.len()), (1, 1), "{:?}", world.steps);
}

#[test]
fn an_only_voter_without_anybody_else_stays_until_there_is_one() {
    let mut world = World::settled(&["r"]);
    world.gives_up(1);
    world.run(60);
    assert_eq!(world.voters(), [1]);
    world.hosts.push(host(2, "r"));
    world.heard.insert(HostId::new(2));
    world.run(60);
    assert_eq!(world.leader(), world.conf.voters[0]);
    assert!(!world.conf.contains(1), "{:?}", world.steps);
}
