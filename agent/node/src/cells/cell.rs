//! One hosted cell: the members, whose turn comes together, and what the agent's own member thinks of the others.

use std::sync::Arc;

use foca::{Member, State};
use rand::{RngExt, rngs::Xoshiro256PlusPlus};
use ringmesh_proto::Instant;
use ringmesh_topology::{
    cell::{AGENT_SLOT, CELL_SIZE},
    hash,
};

use super::{
    MemberState,
    evidence::Evidence,
    inside::{self, Outbox},
    mail::{Letter, Mailbox},
    member::{Instance, PROBE_PERIOD, SUSPICION, Slot, Turn},
    wheel::{Entry, Wheel},
};
use crate::membership::Refused;

/// The agent's member: it lives as long as the cell.
const AGENT: Slot = Slot { slot: AGENT_SLOT, generation: 1 };

/// A container's place in a cell.
pub(super) struct Seat {
    pub(super) container: Arc<str>,
    pub(super) evidence: Evidence,
    /// Its process runs, be it frozen.
    pub(super) runs: bool,
    /// Its first process.
    pub(super) process: Option<u32>,
    /// Its life in the cell.
    pub(super) generation: u16,
    /// What was told of it last.
    pub(super) told: MemberState,
    /// It was told that this one is down, and not yet that it is not.
    pub(super) alarmed: bool,
    /// Something was said to its member while it was silent: it may be suspected, and cannot know that it has to refute.
    pub(super) missed: bool,
    member: Option<Body>,
    /// Since when the agent suspects it, for want of evidence, in this life.
    doubted: Option<Instant>,
}

/// Where a container's member is.
enum Body {
    /// Here.
    Hosted(Box<Instance>),
    /// In the container, with this life.
    Inside(Slot),
}

impl Body {
    fn identity(&self) -> Slot {
        match self {
            Self::Hosted(instance) => instance.identity(),
            Self::Inside(identity) => *identity,
        }
    }

    fn hosted(&self) -> Option<&Instance> {
        match self {
            Self::Hosted(instance) => Some(instance),
            Self::Inside(_) => None,
        }
    }
}

impl Seat {
    /// Of a container that runs.
    pub(super) fn new(now: Instant, container: Arc<str>, process: Option<u32>) -> Self {
        let (evidence, told) = (Evidence::new(now), MemberState::Gone);
        Self {
            container,
            evidence,
            runs: true,
            process,
            generation: 0,
            told,
            alarmed: false,
            missed: false,
            member: None,
            doubted: None,
        }
    }

    /// Whether its life in the cell has begun.
    pub(super) fn is_introduced(&self) -> bool {
        self.member.is_some()
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.is_some()
    }

    fn identity(&self, slot: usize) -> Slot {
        Slot { slot: slot as u16, generation: self.generation }
    }
}

/// A cell, of which only the agent's member is always there.
pub(super) struct Cell {
    number: u16,
    agent: Box<Instance>,
    /// By slot; the agent's has none.
    seats: Vec<Option<Seat>>,
    /// Lives that have begun and ended since its last turn.
    come: Vec<u16>,
    gone: Vec<Slot>,
    /// What is evidence of a member changed, as none of the members can see.
    pub(super) stale: bool,
    /// A turn without timers is already asked for.
    called: bool,
    /// Of all that its members are told to be: the same if nothing changed.
    pub(super) hash: u64,
    /// Of its members, as counted in the last turn.
    pub(super) counts: Counts,
}

/// How many members are what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) alive: u32,
    pub(super) suspect: u32,
    pub(super) down: u32,
    pub(super) frozen: u32,
}

/// What a cell works with during its turn.
pub(super) struct Tools<'a> {
    pub(super) wheel: &'a mut Wheel<Slot>,
    pub(super) mail: &'a mut Mailbox,
    pub(super) outbox: &'a mut Outbox,
    pub(super) rng: &'a mut Xoshiro256PlusPlus,
    pub(super) tick: u64,
    pub(super) now: Instant,
}

impl Cell {
    pub(super) fn new(number: u16, rng: &mut Xoshiro256PlusPlus) -> Self {
        Self {
            number,
            agent: Instance::new(AGENT, rng),
            seats: Vec::new(),
            come: Vec::new(),
            gone: Vec::new(),
            stale: false,
            called: false,
            hash: 0,
            counts: Counts::default(),
        }
    }

    pub(super) fn seat(&mut self, slot: u16) -> Option<&mut Seat> {
        self.seats.get_mut(usize::from(slot))?.as_mut()
    }

    pub(super) fn seat_at(&self, slot: u16) -> Option<&Seat> {
        self.seats.get(usize::from(slot))?.as_ref()
    }

    /// Whether somebody is silent as soon as the signs of life no longer hold.
    pub(super) fn may_doubt(&self) -> bool {
        self.seats.iter().flatten().any(|seat| seat.runs && seat.evidence.is_asked_enough() && !seat.is_doubted())
    }

    pub(super) fn seats(&self) -> impl Iterator<Item = (u16, &Seat)> {
        self.seats.iter().enumerate().filter_map(|(slot, seat)| Some((slot as u16, seat.as_ref()?)))
    }

    /// A container takes this slot, in which no life of it has begun yet.
    pub(super) fn sit(&mut self, slot: u16, seat: Seat) {
        let place = usize::from(slot);
        if self.seats.len() <= place {
            self.seats.resize_with(place + 1, || None);
        }
        self.seats[place] = Some(seat);
    }

    /// Its life is over, and it may begin another one.
    pub(super) fn end(&mut self, slot: u16) {
        let Some(seat) = self.seats.get_mut(usize::from(slot)).and_then(Option::as_mut) else { return };
        self.come.retain(|come| *come != slot);
        if let Some(member) = seat.member.take() {
            self.gone.push(member.identity());
        }
    }

    /// It lives another life, in which it is not what it was taken for.
    pub(super) fn begin(&mut self, slot: u16, generation: u16) {
        self.end(slot);
        if let Some(seat) = self.seat(slot) {
            (seat.generation, seat.doubted, seat.missed) = (generation, None, false);
            self.come.push(slot);
        }
    }

    /// The seat is free.
    pub(super) fn rise(&mut self, slot: u16) -> Option<Seat> {
        self.end(slot);
        self.seats.get_mut(usize::from(slot))?.take()
    }

    /// Asks for a turn though no timer may be due.
    pub(super) fn call(&mut self, tick: u64, wheel: &mut Wheel<Slot>) {
        if !self.called {
            self.called = true;
            wheel.call(tick, self.number, AGENT);
        }
    }

    /// What is believed of what a member inside said to another one; `None` if it said it in an earlier life.
    pub(super) fn examine(&self, now: Instant, from: u16, to: u16, bytes: &[u8]) -> Result<Option<Vec<u8>>, Refused> {
        let Some(me) = self.seat_at(from).and_then(|seat| Some(seat.member.as_ref()?.identity())) else {
            return Ok(None);
        };
        let believed = |news: &Member<Slot>| {
            let silent = self.seat_at(news.id().slot).is_some_and(|seat| seat.evidence.is_silent(now));
            self.agent.opinions().any(|known| inside::is_known(news, known, silent))
        };
        inside::examine(bytes, me, to, believed)
    }

    /// Delivers a letter that was examined. True if somebody's state may have changed.
    pub(super) fn hear(&mut self, to: u16, letter: &[u8], tools: &mut Tools<'_>) -> bool {
        tools.mail.put(to, letter);
        self.deliver(tools)
    }

    /// Runs these timers, and all that they lead to. True if somebody's state may have changed.
    pub(super) fn turn(&mut self, due: &[Entry<Slot>], tools: &mut Tools<'_>) -> bool {
        self.called &= due.iter().all(|entry| entry.timer.is_some());
        let mut stirred = self.introduce(tools) | std::mem::take(&mut self.stale) | self.doubt(tools);
        for entry in due {
            stirred |= self.run(entry, tools);
        }
        stirred |= self.deliver(tools);
        if stirred || self.counts.suspect > 0 {
            stirred |= self.gossip(tools);
        }
        stirred || self.counts.suspect > 0
    }

    /// Tells all members who has come and gone, and those who have come of all others.
    fn introduce(&mut self, tools: &mut Tools<'_>) -> bool {
        let (come, gone) = (std::mem::take(&mut self.come), std::mem::take(&mut self.gone));
        if come.is_empty() && gone.is_empty() {
            return false;
        }
        let identities: Vec<Slot> = come
            .iter()
            .filter_map(|slot| Some(self.seats[usize::from(*slot)].as_ref()?.identity(usize::from(*slot))))
            .collect();
        for slot in 0..self.seats.len().max(1) as u16 {
            self.tell(slot, &gone, &identities, tools);
        }
        for identity in &identities {
            if let Some(seat) = self.seat(identity.slot) {
                let body = if seat.evidence.inside {
                    tools.outbox.begin(&seat.container, *identity, tools.rng.random());
                    Body::Inside(*identity)
                } else {
                    Body::Hosted(Instance::new(*identity, tools.rng))
                };
                seat.member = Some(body);
            }
        }
        let seats = self.seats.iter().flatten();
        let mut roster: Vec<Slot> = seats.filter_map(|seat| Some(seat.member.as_ref()?.identity())).collect();
        roster.push(AGENT);
        for identity in identities {
            self.tell(identity.slot, &[], &roster, tools);
        }
        true
    }

    /// Tells a member who has come and gone, wherever it is.
    fn tell(&mut self, slot: u16, gone: &[Slot], come: &[Slot], tools: &mut Tools<'_>) {
        match self.seat_at(slot) {
            Some(Seat { container, member: Some(Body::Inside(_)), .. }) => tools.outbox.roster(container, gone, come),
            Some(_) | None => {
                self.one(slot, tools, |member, turn| member.learn(gone, come, turn));
            }
        }
    }

    /// The agent has the evidence, and need not ask anybody: for it who may not speak is suspect at once, and down when the time
    /// for a suspicion is over. By its probes alone, one a period, it would be minutes until it had found all of a cell in
    /// which nobody is left to help.
    fn doubt(&mut self, tools: &mut Tools<'_>) -> bool {
        let mut doubts = Vec::new();
        for seat in self.seats.iter_mut().flatten() {
            let Some(member) = seat.member.as_ref().filter(|_| seat.evidence.is_silent(tools.now)) else { continue };
            let since = *seat.doubted.get_or_insert(tools.now);
            // It does not hear of it.
            seat.missed = true;
            let (state, is_told) = match tools.now.since(since) >= SUSPICION {
                true => (State::Down, seat.told == MemberState::Down),
                false => (State::Suspect, seat.told == MemberState::Suspect),
            };
            if !is_told {
                doubts.push((member.identity(), state));
            }
        }
        !doubts.is_empty() && self.one(AGENT_SLOT, tools, |agent, turn| agent.doubt(&doubts, turn))
    }

    fn run(&mut self, entry: &Entry<Slot>, tools: &mut Tools<'_>) -> bool {
        let Some(timer) = entry.timer.clone() else { return false };
        if self.member(entry.of.slot).is_none_or(|member| member.identity() != entry.of) {
            return false;
        }
        if !self.speaks(entry.of.slot, tools.now) {
            // As a process that is stopped: its timers wait.
            tools.wheel.submit(tools.tick, PROBE_PERIOD, self.number, entry.of, timer);
            return false;
        }
        self.one(entry.of.slot, tools, |member, turn| member.handle_timer(timer, turn))
    }

    /// Hands over what members say to each other until nobody says anything more. Who may not speak does not hear either.
    fn deliver(&mut self, tools: &mut Tools<'_>) -> bool {
        let mut stirred = false;
        while let Some(letter) = tools.mail.take() {
            if self.speaks(letter.to, tools.now) {
                stirred |= self.hand_over(&letter, tools);
            } else if let Some(seat) = self.seat(letter.to) {
                seat.missed |= seat.member.is_some();
            }
        }
        stirred
    }

    fn hand_over(&mut self, letter: &Letter, tools: &mut Tools<'_>) -> bool {
        match self.seat_at(letter.to) {
            Some(Seat { container, member: Some(Body::Inside(_)), .. }) => {
                tools.outbox.letter(container, letter.bytes());
                false
            }
            Some(_) | None => self.one(letter.to, tools, |member, turn| member.handle_letter(letter.bytes(), turn)),
        }
    }

    /// Has all members send their news that have any.
    fn gossip(&mut self, tools: &mut Tools<'_>) -> bool {
        let now = tools.now;
        let speaking: Vec<u16> = (0..CELL_SIZE as u16).filter(|slot| self.speaks(*slot, now)).collect();
        let mut stirred = false;
        for slot in speaking {
            if self.member(slot).is_some_and(|member| member.has_news()) {
                stirred |= self.one(slot, tools, Instance::gossip);
            }
        }
        stirred | self.deliver(tools)
    }

    fn speaks(&self, slot: u16, now: Instant) -> bool {
        if slot == AGENT_SLOT {
            return true;
        }
        self.seats.get(usize::from(slot)).and_then(Option::as_ref).is_some_and(|seat| seat.evidence.speaks(now))
    }

    fn member(&self, slot: u16) -> Option<&Instance> {
        if slot == AGENT_SLOT {
            return Some(&self.agent);
        }
        self.seat_at(slot)?.member.as_ref()?.hosted()
    }

    /// Calls a member, if it is here. True if that changed somebody's opinion.
    fn one(&mut self, slot: u16, tools: &mut Tools<'_>, call: impl FnOnce(&mut Instance, &mut Turn<'_>)) -> bool {
        let member = if slot == AGENT_SLOT {
            Some(&mut self.agent)
        } else {
            match self.seats.get_mut(usize::from(slot)) {
                Some(Some(Seat { member: Some(Body::Hosted(member)), .. })) => Some(member),
                Some(_) | None => None,
            }
        };
        let Some(member) = member else { return false };
        let Tools { wheel, mail, rng, tick, .. } = tools;
        let mut turn = Turn { wheel, mail, cell: self.number, tick: *tick, stirred: false, rng, first: false };
        call(member, &mut turn);
        turn.stirred
    }

    /// What the agent's member thinks of each container's: what is new of it, by slot.
    pub(super) fn judge(&mut self) -> Vec<(u16, MemberState)> {
        let mut states = [MemberState::Gone; CELL_SIZE];
        for (identity, state) in self.agent.opinions().map(|member| (*member.id(), member.state())) {
            let Some(seat) = self.seats.get(usize::from(identity.slot)).and_then(Option::as_ref) else { continue };
            if seat.member.as_ref().is_none_or(|member| member.identity() != identity) {
                continue;
            }
            states[usize::from(identity.slot)] = match state {
                _ if seat.evidence.frozen => MemberState::Frozen,
                State::Alive => MemberState::Alive,
                State::Suspect => MemberState::Suspect,
                State::Down => MemberState::Down,
            };
        }
        let mut news = Vec::new();
        (self.counts, self.hash) = (Counts::default(), 0);
        for (slot, seat) in self.seats.iter_mut().enumerate() {
            let Some(seat) = seat else { continue };
            let state = states[slot];
            if seat.told != state {
                seat.told = state;
                news.push((slot as u16, state));
            }
            self.counts.add(state);
            // A suspicion ends soon, one way or the other.
            let lasting = if state == MemberState::Suspect { MemberState::Alive } else { state };
            let words = [self.number.into(), slot as u64, seat.generation.into(), lasting as u64];
            self.hash = self.hash.wrapping_add(hash(&words));
        }
        news
    }

    /// Two bits a slot: 0 nobody, 1 alive or suspect, 2 frozen, 3 down; slot 0 in the lowest bits of the first byte.
    pub(super) fn bitmap(&self) -> [u8; CELL_SIZE / 4] {
        let mut bitmap = [0; CELL_SIZE / 4];
        bitmap[0] = 1;
        for (slot, seat) in self.seats() {
            let bits: u8 = match seat.told {
                MemberState::Gone => 0,
                MemberState::Alive | MemberState::Suspect => 1,
                MemberState::Frozen => 2,
                MemberState::Down => 3,
            };
            bitmap[usize::from(slot / 4)] |= bits << (slot % 4 * 2);
        }
        bitmap
    }
}

impl Counts {
    fn add(&mut self, state: MemberState) {
        match state {
            MemberState::Alive => self.alive += 1,
            MemberState::Suspect => self.suspect += 1,
            MemberState::Down => self.down += 1,
            MemberState::Frozen => self.frozen += 1,
            MemberState::Gone => {}
        }
    }

    pub(super) fn members(&self) -> u32 {
        self.alive + self.suspect + self.down + self.frozen
    }
}
