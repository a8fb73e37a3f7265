//! Who is in the cluster: SWIM (Das, Gupta, Motivala 2002) by foca, in virtual time.
//!
//! It owns foca, its timers, and the list of hosts that were ever members. It does not know rings, links or containers.
//! Every datagram of it is sent over both uplinks by its caller, so that the loss of one is no loss to SWIM.
//!
//! It suspects, and does not judge: a host is down when its caller says so ([`Membership::confirm_down`]), who counts the
//! votes of several observers. That foca's timer ran out, or that one member gossips it, is not enough. Nor does one learn of
//! a host, of another life of it or of other addresses, from one who speaks for it: the host itself must say so.

pub(crate) mod filter;
mod seen;
mod swim;

pub use seen::SeenWindow;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    num::NonZeroU32,
    time::Duration,
};

use bytes::Bytes;
use foca::{Foca, Identity, NoCustomBroadcast, PostcardCodec, State};
use rand::rngs::StdRng;
use ringmesh_proto::{Generation, HostId, Instant, Uplink, datagram, member::Member, peer::MemberRecord};
use ringmesh_topology::hash;
use swim::{SwimMember, Wheel};

/// SWIM's view of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwimState {
    /// It answers, or nobody says otherwise.
    Alive,
    /// A probe failed and it has not refuted yet.
    Suspect,
    /// Declared down: this life of it is over.
    Down,
}

impl From<State> for SwimState {
    fn from(state: State) -> Self {
        match state {
            State::Alive => Self::Alive,
            State::Suspect => Self::Suspect,
            State::Down => Self::Down,
        }
    }
}

/// What happened to the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A host is there, or there again, or its suspicion was refuted.
    Alive(Member),
    /// Someone suspects it.
    Suspect(Member),
    /// It was declared down or has left.
    Down(Member),
    /// It began another life before anybody thought it down.
    Renamed(Member),
    /// Others say that a host is alive, or lives another life, of which it has said nothing itself yet.
    Hearsay,
    /// This host itself was thought down and began another life; to be persisted.
    Renewed(Generation),
    /// This host got no answer from it, neither directly nor through others.
    ProbeFailed(HostId),
    /// This host knows at least one live other host: it has joined.
    Active,
    /// This process did not run for so long.
    Paused(Duration),
}

/// Why a SWIM datagram was refused. Each reason has a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not a SWIM message.
    Malformed,
    /// It claims another sender than the one whose certificate came with the connection.
    Spoofed,
}

/// foca's timer that a suspicion ends with is put off by so much while the votes do not say the same.
const HOLD: Duration = Duration::from_millis(500);

/// Of those who say that we are down, the ones that said so within this time count.
const UNDEAD_WINDOW: Duration = Duration::from_secs(10);

/// Between two looks at the hosts that were members once and are not now.
const REJOIN_TICK: Duration = Duration::from_millis(500);

/// How many of them are called at one look.
const REJOIN_FANOUT: usize = 3;

/// The most members that a snapshot may hold: a zone, and as many that are gone.
const MAX_MEMBERS: usize = 1024;

/// The longest time between two calls to the same one.
const REJOIN_MAX: Duration = Duration::from_secs(8);

/// The same to one that was forgotten.
const REJOIN_FORGOTTEN: Duration = Duration::from_secs(60);

/// The pool of hosts, seen from one of them.
pub struct Membership {
    foca: Foca<SwimMember, PostcardCodec, StdRng, NoCustomBroadcast>,
    wheel: Wheel,
    /// How long the process was not running or SWIM was frozen, in all; SWIM's clock is behind by it.
    paused: Duration,
    /// SWIM's clock stands still since then.
    frozen: Option<Instant>,
    /// Who last said when that this host is down.
    undead: BTreeMap<HostId, Instant>,
    /// What `changes` was told of each host, to find what is new.
    told: BTreeMap<HostId, (Member, SwimState)>,
    /// Hosts that were members once.
    known: BTreeMap<HostId, Known>,
    /// Hosts that others say are alive in a life of which the host itself has said nothing yet.
    unvouched: BTreeSet<HostId>,
    changes: VecDeque<Change>,
    /// If any of them is not a member now.
    next_rejoin: Option<Instant>,
    pool_size: usize,
    left: bool,
}

struct Known {
    member: Member,
    next_call: Instant,
    wait: Duration,
    /// It left on purpose: do not call it.
    gone: bool,
    /// Down for so long that it is not shown. It is called once in a while.
    forgotten: bool,
}

impl Membership {
    /// A host that is alone until it hears of one of `known`.
    pub fn new(now: Instant, me: Member, known: &[Member], rng: StdRng) -> Self {
        let foca = Foca::new(SwimMember(me), config(1), rng, PostcardCodec);
        let known = known
            .iter()
            .filter(|member| member.id != me.id)
            .map(|member| {
                (member.id, Known { member: *member, next_call: now, wait: REJOIN_TICK, gone: false, forgotten: false })
            })
            .collect();
        Self {
            foca,
            wheel: Wheel::default(),
            paused: Duration::ZERO,
            frozen: None,
            undead: BTreeMap::new(),
            told: BTreeMap::new(),
            known,
            unvouched: BTreeSet::new(),
            changes: VecDeque::new(),
            next_rejoin: Some(now),
            pool_size: 1,
            left: false,
        }
    }

    /// This host, in its current life.
    pub fn me(&self) -> Member {
        self.foca.identity().0
    }

    /// All other hosts that SWIM knows of, down ones too.
    pub fn states(&self) -> impl Iterator<Item = (Member, SwimState)> {
        self.told.values().copied()
    }

    /// What SWIM says of a host.
    pub fn state(&self, host: HostId) -> Option<(Member, SwimState)> {
        self.told.get(&host).copied()
    }

    /// Hosts that were members in an earlier life of this one and have not been heard of in this.
    pub fn unheard(&self) -> impl Iterator<Item = Member> {
        let unheard =
            self.known.iter().filter(|(id, known)| !known.gone && !known.forgotten && !self.told.contains_key(id));
        unheard.map(|(_, known)| known.member)
    }

    /// Hosts that were ever members, the newest life of each: what a restart needs.
    pub fn known(&self) -> impl Iterator<Item = Member> {
        self.known.values().filter(|known| !known.gone).map(|known| known.member)
    }

    /// Takes a SWIM message that came from the host with this certificate. Of its news that a host is down, only what is
    /// `confirmed` counts; of that a host lives another life or elsewhere, only what the host itself has `vouched` for.
    pub fn handle_message(
        &mut self,
        now: Instant,
        from: HostId,
        payload: &[u8],
        confirmed: impl Fn(Member) -> bool,
        vouched: impl Fn(Member) -> bool,
    ) -> Result<(), Refused> {
        let mut unvouched = Vec::new();
        let news = filter::read(payload, |member: &SwimMember, state| {
            let member = member.0;
            let exists = member.id == from || self.exists(member, &vouched);
            if !exists && state != SwimState::Down {
                unvouched.push(member.id);
            }
            exists && (state != SwimState::Down || self.is_over(member, &confirmed))
        })?;
        if news.header.src.0.id != from {
            return Err(Refused::Spoofed);
        }
        if news.header.message == foca::Message::TurnUndead && !self.is_turned_undead(now, from) {
            return Ok(());
        }
        self.wheel.now = self.wake(now);
        let sender = news.header.src.0;
        if self.told.get(&from) != Some(&(sender, SwimState::Alive)) {
            self.wheel.touched.insert(from);
        }
        self.wheel.touched.extend(news.about.iter().map(|member| member.0.id));
        unvouched.into_iter().for_each(|host| self.await_word_of(host));
        self.revive(sender, confirmed);
        match self.foca.handle_data(news.payload.as_deref().unwrap_or(payload), &mut self.wheel) {
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(%error, %from, "swim message refused");
                return Err(Refused::Malformed);
            }
        }
        self.settle(now);
        if matches!(self.told.get(&from), Some((_, SwimState::Suspect))) {
            self.warn(from);
        }
        Ok(())
    }

    /// Forgets that a host is down that speaks, if the votes do not say so any more.
    ///
    /// It may be that nobody else thought so: one alone cannot make it begin another life, [`Self::is_turned_undead`].
    fn revive(&mut self, sender: Member, confirmed: impl Fn(Member) -> bool) {
        let down = self.told.get(&sender.id) == Some(&(sender, SwimState::Down));
        if !down || confirmed(sender) || self.entry(sender.id).is_none() {
            return;
        }
        if let Err(error) = self.foca.handle_timer(foca::Timer::RemoveDown(SwimMember(sender)), &mut self.wheel) {
            tracing::debug!(%error, "removal");
        }
    }

    /// Whether to believe that a host lives, or lived, this life: it is known, or the past, or the host has said so.
    fn exists(&self, member: Member, vouched: impl Fn(Member) -> bool) -> bool {
        let me = self.me();
        let known = self.told.get(&member.id).map(|(known, _)| *known).or((member.id == me.id).then_some(me));
        known.is_some_and(|known| !SwimMember(member).win_addr_conflict(&SwimMember(known))) || vouched(member)
    }

    fn await_word_of(&mut self, host: HostId) {
        if self.unvouched.len() >= MAX_MEMBERS {
            // Somebody invents hosts. Of those that are there the next sync tells again.
            self.unvouched.clear();
        }
        if host != self.me().id && self.unvouched.insert(host) {
            self.changes.push_back(Change::Hearsay);
        }
    }

    /// A host says that it lives this life. If others have said before that it is alive, it is a member from now on.
    pub fn vouch(&mut self, now: Instant, member: Member) {
        let news = self.told.get(&member.id).is_none_or(|(known, _)| member.generation > known.generation);
        if news && self.unvouched.remove(&member.id) {
            self.learn_alive(now, vec![foca::Member::alive(SwimMember(member))]);
        }
    }

    /// Whether to believe that this life of a host is over.
    fn is_over(&self, member: Member, confirmed: impl Fn(Member) -> bool) -> bool {
        let me = self.me();
        // Of ourselves we are told otherwise: `is_turned_undead`. What is over anyway may be said.
        let newer = self.told.get(&member.id).is_some_and(|(known, _)| known.generation > member.generation);
        if member.id == me.id { member.generation < me.generation } else { newer || confirmed(member) }
    }

    /// Whether enough members say that this host is down: two, if there are as many.
    fn is_turned_undead(&mut self, now: Instant, from: HostId) -> bool {
        self.undead.retain(|_, at| now.since(*at) < UNDEAD_WINDOW);
        self.undead.insert(from, now);
        let others = self.told.len().saturating_sub(1);
        self.undead.len() >= 2.min(others.max(1))
    }

    /// Runs what is due. A suspicion ends only in what is `confirmed`.
    pub fn handle_timeout(&mut self, now: Instant, confirmed: impl Fn(Member) -> bool) {
        if self.frozen.is_none() {
            self.wheel.now = self.wake(now);
            while let Some(timer) = self.wheel.pop_due(self.wheel.now, self.foca.updates_backlog() > 0) {
                if let foca::Timer::ChangeSuspectToDown { member_id, .. } = &timer {
                    self.wheel.touched.insert(member_id.0.id);
                    let suspect = self.told.get(&member_id.0.id) == Some(&(member_id.0, SwimState::Suspect));
                    let over = suspect && confirmed(member_id.0);
                    if suspect && !over {
                        self.wheel.put_off(timer, HOLD);
                        continue;
                    }
                    // foca 2.0.0 tells a host that it is down when this timer runs out, even if it has refuted since.
                    if !over {
                        continue;
                    }
                }
                if let Err(error) = self.foca.handle_timer(timer, &mut self.wheel) {
                    tracing::debug!(%error, "swim timer");
                }
            }
        }
        if self.next_rejoin.is_some_and(|at| now >= at) {
            self.call_absent(now);
        }
        self.settle(now);
    }

    /// The votes say that this life of a host is over.
    pub fn confirm_down(&mut self, now: Instant, host: HostId) {
        let Some(entry) = self.entry(host).filter(|entry| entry.state() != State::Down) else { return };
        let down = foca::Member::new(entry.id().clone(), entry.incarnation(), State::Down);
        self.wheel.now = self.wake(now);
        self.wheel.touched.insert(host);
        if let Err(error) = self.foca.apply_many(std::iter::once(down), true, &mut self.wheel) {
            tracing::debug!(%error, "down");
        }
        self.settle(now);
    }

    /// Stops SWIM's clock, or lets it run on: a host that is cut off probes and suspects nobody. It goes on to call.
    pub fn freeze(&mut self, now: Instant, frozen: bool) {
        match (self.frozen, frozen) {
            (None, true) => {
                self.frozen = Some(now);
                self.next_rejoin = Some(now);
            }
            (Some(since), false) => {
                self.frozen = None;
                self.paused += now.since(since);
                self.next_rejoin = Some(now);
            }
            (None, false) | (Some(_), true) => {}
        }
    }

    /// Forgets a host that is down or has left, as if it had never been; unless it is `gone` for good it is called once
    /// in a while.
    pub fn remove(&mut self, now: Instant, host: HostId, gone: bool) {
        if gone {
            self.known.remove(&host);
        } else if let Some(known) = self.known.get_mut(&host) {
            known.forgotten = true;
        }
        self.next_rejoin.get_or_insert(now + REJOIN_TICK);
        let Some((member, SwimState::Down)) = self.told.remove(&host) else { return };
        self.wheel.now = self.wake(now);
        if let Err(error) = self.foca.handle_timer(foca::Timer::RemoveDown(SwimMember(member)), &mut self.wheel) {
            tracing::debug!(%error, "removal");
        }
    }

    /// When [`Self::handle_timeout`] is next wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let gossip = self.wheel.next_gossip().filter(|_| self.foca.updates_backlog() > 0);
        let swim = self.wheel.next().into_iter().chain(gossip).min().filter(|_| self.frozen.is_none());
        swim.map(|swim| swim + self.paused).into_iter().chain(self.next_rejoin).min()
    }

    /// A SWIM message to send, at most [`datagram::MAX_PAYLOAD`] bytes.
    pub fn poll_transmit(&mut self) -> Option<(Member, Bytes)> {
        self.wheel.transmits.pop_front()
    }

    /// What is new.
    pub fn poll_change(&mut self) -> Option<Change> {
        self.changes.pop_front()
    }

    /// Takes what another host says of all members, as a joining or healed host needs it.
    ///
    /// That a host is down counts only if nothing is known of it here: that the other side of a healed partition thought
    /// our hosts down does not make them so. It is shown and called then, and a word of its own makes it alive.
    /// Of hosts and lives that are not known only those count for which the host itself has `vouched`.
    ///
    /// Returns whether a living one was unknown here.
    pub fn handle_members(&mut self, now: Instant, records: &[MemberRecord], vouched: impl Fn(Member) -> bool) -> bool {
        let me = self.me();
        let mut news = Vec::new();
        for record in records.iter().take(MAX_MEMBERS) {
            let Ok(member) = Member::try_from(record) else { continue };
            if member.id == me.id {
                continue;
            }
            if record.state < 2 {
                // No news, of which most of a snapshot consists; foca would look for each one in a list.
                if self.told.get(&member.id) == Some(&(member, SwimState::Alive)) {
                    continue;
                }
                if !self.exists(member, &vouched) {
                    self.await_word_of(member.id);
                    continue;
                }
                let incarnation = u16::try_from(record.incarnation).unwrap_or(0);
                news.push(foca::Member::new(SwimMember(member), incarnation, State::Alive));
            } else if !self.told.contains_key(&member.id) && vouched(member) && self.told.len() < MAX_MEMBERS {
                self.told.insert(member.id, (member, SwimState::Down));
                self.remember(now, member);
            }
        }
        let new = news.iter().any(|member| !self.told.contains_key(&member.id().0.id));
        self.learn_alive(now, news);
        new
    }

    fn learn_alive(&mut self, now: Instant, news: Vec<foca::Member<SwimMember>>) {
        self.wheel.touched.extend(news.iter().map(|member| member.id().0.id));
        self.wheel.now = self.wake(now);
        if let Err(error) = self.foca.apply_many(news.into_iter(), true, &mut self.wheel) {
            tracing::debug!(%error, "members from a snapshot");
        }
        self.settle(now);
    }

    /// Of all members that are known, this host included: the same at two hosts that know the same lives of all and say the same
    /// of them.
    pub fn digest(&self) -> u64 {
        let of = |(member, state): (Member, SwimState)| {
            let address = |uplink| match member.address(uplink) {
                Some(at) => {
                    let bits = match at.ip() {
                        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                        IpAddr::V6(ip) => ip,
                    }
                    .to_bits();
                    [(bits >> 64) as u64, bits as u64, at.port().into()]
                }
                None => [0; 3],
            };
            let [[a, b, c], [d, e, f]] = Uplink::BOTH.map(address);
            hash(&[member.id.raw().into(), member.generation.into(), state as u64, a, b, c, d, e, f])
        };
        let me = (self.me(), SwimState::Alive);
        self.states().chain([me]).map(of).fold(0, u64::wrapping_add)
    }

    /// All that SWIM knows, this host included: for another host's [`Self::handle_members`].
    pub fn records(&self) -> Vec<MemberRecord> {
        let me = self.me().to_record(0, 0);
        let others = self.foca.iter_membership_state().map(|member| {
            member.id().0.to_record(
                u32::from(member.incarnation()),
                match member.state() {
                    State::Alive => 0,
                    State::Suspect => 1,
                    State::Down => 2,
                },
            )
        });
        let in_swim: BTreeSet<HostId> = self.foca.iter_membership_state().map(|member| member.id().0.id).collect();
        let by_hearsay = self.told.values().filter(|(member, _)| !in_swim.contains(&member.id));
        let by_hearsay = by_hearsay.map(|(member, _)| member.to_record(0, 2));
        std::iter::once(me).chain(others).chain(by_hearsay).collect()
    }

    /// Others remember a later life of this host than it does itself (its disk was set back): live one beyond that.
    pub fn outlive(&mut self, now: Instant, generation: Generation) {
        let me = self.me();
        let Some(generation) = generation.checked_add(1).filter(|generation| *generation > me.generation) else {
            return;
        };
        self.wheel.now = self.wake(now);
        if let Err(error) = self.foca.change_identity(SwimMember(Member { generation, ..me }), &mut self.wheel) {
            tracing::debug!(%error, "change of identity");
        }
        self.changes.push_back(Change::Renewed(generation));
        self.settle(now);
    }

    /// Stops calling a host that left for good.
    pub fn forget(&mut self, host: HostId) {
        if let Some(known) = self.known.get_mut(&host) {
            known.gone = true;
        }
    }

    /// Calls a host that seems to be back without waiting for its turn.
    pub fn call(&mut self, now: Instant, host: HostId) {
        if let Some(known) = self.known.get_mut(&host).filter(|known| !known.gone) {
            known.next_call = now;
            known.wait = REJOIN_TICK;
            self.next_rejoin = Some(now);
        }
    }

    /// Says to a member that this host is there; one that takes it for down answers so.
    pub fn greet(&mut self, now: Instant, member: Member) {
        self.wheel.now = self.wake(now);
        if let Err(error) = self.foca.announce(SwimMember(member), &mut self.wheel) {
            tracing::debug!(%error, "announce");
        }
    }

    /// Calls a host that others say is a live member, unless it is known to be one.
    pub fn meet(&mut self, now: Instant, member: Member) {
        let lives = matches!(self.told.get(&member.id), Some((_, state)) if *state != SwimState::Down);
        if lives || member.id == self.me().id || self.known.len() >= MAX_MEMBERS {
            return;
        }
        let known = self.remember(now, member);
        if member.generation > known.member.generation {
            known.member = member;
        }
        known.gone = false;
        self.call(now, member.id);
    }

    /// Tells the others that this life ends on purpose. Nothing is sent after its messages are drained.
    pub fn leave(&mut self, now: Instant) {
        self.wheel.now = self.wake(now);
        self.left = true;
        if let Err(error) = self.foca.leave_cluster(&mut self.wheel) {
            tracing::debug!(%error, "leave");
        }
        self.settle(now);
    }

    /// This process did not run for so long: for SWIM no time has passed, and a host that was stopped or starved accuses nobody
    /// on what it did not hear meanwhile.
    pub fn pause(&mut self, span: Duration) {
        if self.frozen.is_none() {
            tracing::warn!(late_ms = span.as_millis() as u64, "this process was paused; nobody is accused for it");
            self.paused += span;
            self.changes.push_back(Change::Paused(span));
        }
    }

    /// SWIM's time, which stands still while this process does not run.
    fn wake(&self, now: Instant) -> Instant {
        self.frozen.unwrap_or(now) - self.paused
    }

    fn call_absent(&mut self, now: Instant) {
        self.next_rejoin = None;
        if self.left {
            return;
        }
        // One that is cut off calls all: who answers first ends that.
        let frozen = self.frozen.is_some();
        let absent = self.known.iter_mut().filter(|(id, known)| {
            !known.gone && (frozen || !matches!(self.told.get(id), Some((_, state)) if *state != SwimState::Down))
        });
        let mut absent: Vec<&mut Known> = absent.map(|(_, known)| known).collect();
        if !absent.is_empty() {
            self.next_rejoin = Some(now + REJOIN_TICK);
        }
        absent.retain(|known| known.next_call <= now);
        absent.sort_by_key(|known| known.next_call);
        for known in absent.into_iter().take(REJOIN_FANOUT) {
            known.next_call = now + known.wait;
            known.wait = (known.wait * 2).min(if known.forgotten { REJOIN_FORGOTTEN } else { REJOIN_MAX });
            self.wheel.now = self.frozen.unwrap_or(now) - self.paused;
            if let Err(error) = self.foca.announce(SwimMember(known.member), &mut self.wheel) {
                tracing::debug!(%error, "announce");
            }
        }
    }

    /// Has a suspect refute.
    fn warn(&mut self, host: HostId) {
        let Some(suspect) = self.entry(host) else { return };
        match filter::warning(self.foca.identity(), suspect) {
            Ok(message) => self.wheel.transmits.push_back((suspect.id().0, message.freeze())),
            Err(error) => tracing::debug!(?error, "warning to a suspect"),
        }
    }

    /// Turns what foca said and what its state became into changes.
    fn settle(&mut self, now: Instant) {
        while let Some(note) = self.wheel.notes.pop_front() {
            match note {
                swim::Note::Active => self.changes.push_back(Change::Active),
                swim::Note::Rejoin(member) => self.changes.push_back(Change::Renewed(member.generation)),
                swim::Note::ProbeFailed(host) => self.changes.push_back(Change::ProbeFailed(host)),
            }
        }
        let touched = std::mem::take(&mut self.wheel.touched);
        if touched.is_empty() {
            return;
        }
        let mut suspects = Vec::new();
        // foca keeps this host's own lives that are over as members that are down.
        let me = self.me().id;
        let entries: Vec<_> = self
            .foca
            .iter_membership_state()
            .filter(|entry| touched.contains(&entry.id().0.id) && entry.id().0.id != me)
            .map(|entry| (entry.id().0, SwimState::from(entry.state())))
            .collect();
        for (member, state) in entries {
            let before = self.told.insert(member.id, (member, state));
            if before == Some((member, state)) {
                continue;
            }
            match (before, state) {
                (Some((old, SwimState::Alive | SwimState::Suspect)), SwimState::Alive) if old != member => {
                    self.changes.push_back(Change::Renamed(member));
                }
                // A host that was never seen alive is no news when it is down.
                (None, SwimState::Down) | (Some((_, SwimState::Down)), SwimState::Down) => {}
                (_, SwimState::Alive) => self.changes.push_back(Change::Alive(member)),
                (_, SwimState::Suspect) => {
                    suspects.push(member.id);
                    self.changes.push_back(Change::Suspect(member));
                }
                (_, SwimState::Down) => self.changes.push_back(Change::Down(member)),
            }
            let known = self.remember(now, member);
            if member.generation >= known.member.generation {
                known.member = member;
            }
            if state == SwimState::Alive {
                known.gone = false;
                known.forgotten = false;
                known.wait = REJOIN_TICK;
            } else {
                known.next_call = now + REJOIN_TICK;
                self.next_rejoin.get_or_insert(now + REJOIN_TICK);
            }
        }
        suspects.into_iter().for_each(|host| self.warn(host));
        self.resize();
    }

    fn remember(&mut self, now: Instant, member: Member) -> &mut Known {
        self.next_rejoin.get_or_insert(now + REJOIN_TICK);
        let new = Known { member, next_call: now, wait: REJOIN_TICK, gone: false, forgotten: false };
        self.known.entry(member.id).or_insert(new)
    }

    fn entry(&self, host: HostId) -> Option<&foca::Member<SwimMember>> {
        self.foca.iter_membership_state().find(|member| member.id().0.id == host)
    }

    /// Suspicion times and retransmissions grow with the logarithm of the pool.
    fn resize(&mut self) {
        let size = self.foca.num_members() + 1;
        if size != self.pool_size {
            self.pool_size = size;
            if let Err(error) = self.foca.set_config(config(size)) {
                tracing::warn!(%error, "swim settings");
            }
        }
    }
}

/// foca's preset for a local network, with what ringmesh does itself switched off.
fn config(size: usize) -> foca::Config {
    let size = u32::try_from(size).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
    let mut config = foca::Config::new_lan(size);
    config.max_packet_size =
        std::num::NonZeroUsize::new(datagram::MAX_PAYLOAD).expect("a datagram has room for a payload");
    // We call absent hosts ourselves, with back-off: `call_absent`.
    config.periodic_announce_to_down_members = None;
    config
}
