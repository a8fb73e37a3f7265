//! One cell of a service, with this host's representatives in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use foca::{Foca, Header, Message, PostcardCodec, Runtime, State, Timer};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use ringmesh_proto::{Generation, HostId, Instant, v1};
use ringmesh_topology::cell::ServiceCell;

use super::{
    LOOK, PROBE_PERIOD,
    member::{Call, Due, Instance, Post, Representative, config},
};
use crate::{cells::Voice, membership::filter};

/// Hosts of a cell that are called at one look, of which nobody has come yet.
const MAX_CALLS: usize = 3;

/// The longest time between two calls of one host.
const MAX_WAIT: Duration = Duration::from_secs(80);

/// News is sent on so soon, while there is some.
const GOSSIP: Duration = Duration::from_secs(1);

/// A cell of a service.
pub(super) struct Cell {
    key: u32,
    pub(super) service: u32,
    plan: ServiceCell,
    seats: Vec<Seat>,
    /// The lives of this process's representatives so far.
    lives: u32,
    calls: BTreeMap<HostId, Calls>,
}

struct Seat {
    container: Arc<str>,
    member: Instance,
    /// Others say that it is down.
    down: bool,
    /// Hosts that did not hear it, since it was silent.
    accusers: BTreeSet<HostId>,
    told: bool,
    /// It is to send its news.
    gossips: bool,
    /// When it was last told that its life is over, and took it as said.
    undead: Option<Instant>,
}

/// How often a host was called and when it is next.
#[derive(Clone, Copy)]
struct Calls {
    count: u8,
    next: Instant,
}

impl Cell {
    pub(super) fn new(key: u32, service: u32) -> Self {
        let plan = ServiceCell { key, hosts: BTreeSet::new(), representatives: 0 };
        Self { key, service, plan, seats: Vec::new(), lives: 0, calls: BTreeMap::new() }
    }

    /// Which hosts are in it now. Representatives of those that are not any more are down for ours. True if it changed.
    pub(super) fn plan(&mut self, plan: ServiceCell, post: &mut Post) -> bool {
        if self.plan == plan {
            return false;
        }
        self.plan = plan;
        self.calls.retain(|host, _| self.plan.hosts.contains(host));
        let hosts = &self.plan.hosts;
        for seat in &mut self.seats {
            let gone = seat.member.iter_members().map(|member| *member.id());
            let gone: Vec<_> = gone.filter(|member| !hosts.contains(&member.host())).collect();
            let gone = gone.into_iter().map(|member| foca::Member::new(member, 0, State::Down));
            let from = *seat.member.identity();
            note(seat.member.apply_many(gone, false, Call { post, cell: self.key, from }));
        }
        while self.seats.len() > self.plan.representatives {
            self.leave_last(post);
        }
        true
    }

    pub(super) fn has(&self, host: HostId) -> bool {
        self.plan.hosts.contains(&host)
    }

    pub(super) fn representatives(&self) -> usize {
        self.plan.representatives
    }

    /// Whether one of this host's representatives lives this life.
    pub(super) fn lives(&self, member: &Representative) -> bool {
        self.seats.get(usize::from(member.slot)).is_some_and(|seat| seat.member.identity() == member)
    }

    /// The life in this slot of this host.
    #[cfg(test)]
    pub(super) fn member(&self, slot: usize) -> Representative {
        *self.seats[slot].member.identity()
    }

    /// Says that its representatives are no more.
    pub(super) fn leave(&mut self, post: &mut Post) {
        while !self.seats.is_empty() {
            self.leave_last(post);
        }
    }

    fn leave_last(&mut self, post: &mut Post) {
        let Some(mut seat) = self.seats.pop() else { return };
        let from = *seat.member.identity();
        note(seat.member.leave_cluster(Call { post, cell: self.key, from }));
        post.revision += 1;
    }

    /// Fills free places with containers that speak, and those of lost ones if there is somebody else.
    pub(super) fn choose(
        &mut self,
        containers: &BTreeSet<Arc<str>>,
        born: Generation,
        post: &mut Post,
        voice: &impl Fn(&str) -> Voice,
    ) {
        for slot in 0..self.plan.representatives.min(containers.len()) {
            let free = self.seats.get(slot).is_none_or(|seat| seat.told || !containers.contains(&seat.container));
            if !free {
                continue;
            }
            let sits = |container: &&Arc<str>| self.seats.iter().any(|seat| seat.container == **container);
            let next = containers.iter().find(|container| !sits(container) && voice(container) == Voice::Speaks);
            if let Some(container) = next.cloned() {
                self.sit(slot, container, born, post);
            } else if slot == self.seats.len() {
                return;
            }
        }
    }

    fn sit(&mut self, slot: usize, container: Arc<str>, born: Generation, post: &mut Post) {
        // Whoever had the slot may have begun lives that it was not given here.
        let last = self.seats.get(slot).map_or(0, |seat| seat.member.identity().life);
        self.lives = self.lives.max(last) + 1;
        let identity = Representative { host: post.me.raw(), slot: slot as u8, born, life: self.lives };
        let rng = Xoshiro256PlusPlus::seed_from_u64(post.rng.random());
        let member = Foca::new(identity, config(), rng, PostcardCodec);
        let seat = Seat {
            container,
            member,
            down: false,
            accusers: BTreeSet::new(),
            told: false,
            gossips: false,
            undead: None,
        };
        // What the others here know it need not learn by calling somebody.
        let known = self.seats.iter().flat_map(|seat| seat.member.iter_members().cloned()).collect::<Vec<_>>();
        let ours = self.seats.iter().map(|seat| foca::Member::alive(*seat.member.identity()));
        let mut known: Vec<_> =
            known.into_iter().chain(ours).filter(|other| other.id().addr_of() != identity.addr_of()).collect();
        known.sort_by_key(|member| *member.id());
        known.dedup_by_key(|member| *member.id());
        if slot < self.seats.len() {
            self.seats[slot] = seat
        } else {
            self.seats.push(seat)
        }
        self.with(slot, post, |member, call| member.apply_many(known.into_iter(), false, call));
        for other in (0..self.seats.len()).filter(|other| *other != slot) {
            let come = std::iter::once(foca::Member::alive(identity));
            self.with(other, post, |member, call| member.apply_many(come, true, call));
        }
        post.revision += 1;
    }

    /// Calls hosts of which no representative is known.
    pub(super) fn call_absent(&mut self, post: &mut Post, voice: &impl Fn(&str) -> Voice) {
        let Some(caller) = self.seats.iter().position(|seat| voice(&seat.container) == Voice::Speaks) else { return };
        let known: BTreeSet<HostId> =
            self.seats[caller].member.iter_members().map(|member| member.id().host()).collect();
        self.calls.retain(|host, _| !known.contains(host));
        let absent: Vec<HostId> =
            self.plan.hosts.iter().copied().filter(|host| *host != post.me && !known.contains(host)).collect();
        let mut left = MAX_CALLS;
        for host in absent {
            let calls = self.calls.entry(host).or_insert(Calls { count: 0, next: post.now });
            if left == 0 || calls.next > post.now {
                continue;
            }
            left -= 1;
            // Its first place may be empty or silent.
            let slot = calls.count % self.plan.representatives as u8;
            calls.next = post.now + (LOOK * (1 << calls.count.min(4))).min(MAX_WAIT);
            calls.count = calls.count.wrapping_add(1);
            self.with(caller, post, |member, call| member.announce(Representative::at(host, slot), call));
        }
    }

    /// Those that are silent and down by the word of others, and were not told yet: with the hosts that say so.
    pub(super) fn take_lost(&mut self, voice: &impl Fn(&str) -> Voice) -> Vec<(Arc<str>, Vec<HostId>)> {
        let down: Vec<Representative> =
            self.opinions().filter(|(_, state)| *state == State::Down).map(|(of, _)| of).collect();
        self.note_down(&down);
        let mut lost = Vec::new();
        for seat in &mut self.seats {
            match voice(&seat.container) {
                Voice::Speaks | Voice::Frozen => {
                    seat.accusers.clear();
                    (seat.down, seat.told) = (false, false);
                }
                Voice::Silent | Voice::Gone if seat.down && !seat.told && !seat.accusers.is_empty() => {
                    seat.told = true;
                    lost.push((Arc::clone(&seat.container), seat.accusers.iter().copied().collect()));
                }
                Voice::Silent | Voice::Gone => {}
            }
        }
        lost
    }

    /// These lives are over by the word of somebody.
    pub(super) fn note_down(&mut self, over: &[Representative]) {
        for seat in &mut self.seats {
            seat.down |= over.contains(seat.member.identity());
        }
    }

    /// A message for one of ours. One that does not speak does not hear either; who says that it gave no answer is noted.
    pub(super) fn deliver(
        &mut self,
        header: &Header<Representative>,
        bytes: &[u8],
        post: &mut Post,
        voice: &impl Fn(&str) -> Voice,
    ) {
        let slot = usize::from(header.dst.slot);
        let Some(seat) = self.seats.get_mut(slot).filter(|_| header.dst.host() == post.me) else { return };
        match voice(&seat.container) {
            Voice::Speaks => {
                seat.accusers.clear();
                // Who believes in a life that this one cannot come to by counting would have it count for ever.
                if header.message == Message::TurnUndead && header.dst == *seat.member.identity() {
                    if seat.undead.is_some_and(|at| post.now < at + PROBE_PERIOD) {
                        return;
                    }
                    seat.undead = Some(post.now);
                }
                self.with(slot, post, |member, call| member.handle_data(bytes, call));
                self.warn(slot, header.src, post);
            }
            Voice::Frozen => {}
            Voice::Silent | Voice::Gone => {
                #[allow(clippy::wildcard_enum_match_arm, reason = "only two messages accuse")]
                let accuser = match &header.message {
                    Message::TurnUndead => {
                        seat.down |= header.dst == *seat.member.identity();
                        header.src.host()
                    }
                    // Who has others try has had no answer itself.
                    Message::IndirectPing { origin, .. } => origin.host(),
                    _ => return,
                };
                if accuser != post.me && self.plan.hosts.contains(&accuser) {
                    seat.accusers.insert(accuser);
                }
            }
        }
    }

    /// Has one refute that is suspected, and has just been heard.
    fn warn(&mut self, slot: usize, heard: Representative, post: &mut Post) {
        let Some(seat) = self.seats.get(slot) else { return };
        let suspect = seat.member.iter_members().find(|member| *member.id() == heard);
        let Some(suspect) = suspect.filter(|member| member.state() == State::Suspect) else { return };
        if let Ok(message) = filter::warning(seat.member.identity(), suspect) {
            Call { post, cell: self.key, from: *seat.member.identity() }.send_to(heard, &message);
        }
    }

    pub(super) fn run(
        &mut self,
        of: Representative,
        timer: Timer<Representative>,
        post: &mut Post,
        voice: &impl Fn(&str) -> Voice,
    ) {
        let slot = usize::from(of.slot);
        let Some(seat) = self.seats.get(slot).filter(|seat| *seat.member.identity() == of) else { return };
        if voice(&seat.container) == Voice::Speaks {
            self.with(slot, post, |member, call| member.handle_timer(timer, call));
        } else {
            // As a process that is stopped: its timers wait.
            post.submit(PROBE_PERIOD, self.key, Due::Timer(of, timer));
        }
    }

    pub(super) fn gossip(&mut self, slot: u8, post: &mut Post, voice: &impl Fn(&str) -> Voice) {
        let Some(seat) = self.seats.get_mut(usize::from(slot)) else { return };
        seat.gossips = false;
        if voice(&seat.container) == Voice::Speaks {
            self.with(usize::from(slot), post, |member, call| member.gossip(call));
        }
    }

    fn with(
        &mut self,
        slot: usize,
        post: &mut Post,
        call: impl FnOnce(&mut Instance, Call<'_>) -> Result<(), foca::Error>,
    ) {
        let Some(seat) = self.seats.get_mut(slot) else { return };
        let from = *seat.member.identity();
        note(call(&mut seat.member, Call { post, cell: self.key, from }));
        if seat.member.updates_backlog() > 0 && !seat.gossips {
            seat.gossips = true;
            post.submit(GOSSIP, self.key, Due::Gossip(slot as u8));
        }
    }

    /// What our representatives think of all others and of each other, the worst of it.
    fn opinions(&self) -> impl Iterator<Item = (Representative, State)> {
        let all = self.seats.iter().flat_map(|seat| seat.member.iter_membership_state());
        all.map(|member| (*member.id(), member.state()))
    }

    pub(super) fn show(&self, host: &str, service: String, name_of: &impl Fn(HostId) -> String) -> v1::Cell {
        let mut members: BTreeMap<(u32, u8), (Representative, State, &str)> = BTreeMap::new();
        for seat in &self.seats {
            let me = *seat.member.identity();
            members.insert((me.host, me.slot), (me, State::Alive, &seat.container));
        }
        for (of, state) in self.opinions().filter(|(of, _)| self.has(of.host())) {
            let entry = members.entry((of.host, of.slot)).or_insert((of, state, ""));
            let newer = (of.born, of.life) > (entry.0.born, entry.0.life);
            if newer || of == entry.0 && rank(state) > rank(entry.1) {
                (entry.0, entry.1) = (of, state);
            }
        }
        let count = |wanted: State| members.values().filter(|(_, state, _)| *state == wanted).count() as u32;
        v1::Cell {
            host: host.to_owned(),
            number: self.key,
            service,
            size: members.len() as u32,
            alive: count(State::Alive),
            suspect: count(State::Suspect),
            down: count(State::Down),
            members: members.values().map(|(of, state, container)| show(*of, *state, container, name_of)).collect(),
            ..v1::Cell::default()
        }
    }
}

impl Representative {
    fn addr_of(&self) -> (u32, u8) {
        (self.host, self.slot)
    }
}

fn rank(state: State) -> u8 {
    match state {
        State::Alive => 0,
        State::Suspect => 1,
        State::Down => 2,
    }
}

fn show(of: Representative, state: State, container: &str, name_of: &impl Fn(HostId) -> String) -> v1::CellMember {
    let state = match state {
        State::Alive => v1::cell_member::State::Alive,
        State::Suspect => v1::cell_member::State::Suspect,
        State::Down => v1::cell_member::State::Down,
    };
    v1::CellMember {
        container: container.to_owned(),
        host: name_of(of.host()),
        slot: of.slot.into(),
        generation: of.life,
        state: state as i32,
        ..v1::CellMember::default()
    }
}

fn note(result: Result<(), foca::Error>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a representative of a service");
    }
}
