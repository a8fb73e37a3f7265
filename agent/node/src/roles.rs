//! Who holds a replica of the configuration, in time: asked by the member that leads, about once a second and after each
//! change of the members.
//!
//! It owns what to change next and why each host has the role that it has. Gossip proposes: a host that is down may be
//! replaced, and nothing else follows from what gossip says. The consensus decides: a step may be refused, and is proposed
//! again as long as there is a reason. What is safe to change is checked there.
//!
//! ```text
//!  hosts (View) ─┐
//!  seats (keys) ─┼─▶ Roles ─▶ Step ─▶ the log ─▶ seats, members
//!  Status ───────┘     └────▶ Standing, for people
//! ```

mod standing;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ringmesh_proto::{HostId, Instant};
use ringmesh_store::consensus::{ConfChange, Status};
use ringmesh_topology::replicas::{self, Domain, Place};

pub use self::standing::{Role, Standing};

/// After so long without a flap a host is trusted as before.
const FLAP_MEMORY: Duration = Duration::from_secs(600);

/// How often the wait for a host doubles that comes and goes.
const MAX_DOUBLINGS: u32 = 5;

/// How long a host that does not come when it is invited is passed over.
const DECLINED_FOR: Duration = Duration::from_secs(300);

/// How many voters there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voters {
    /// As the number of hosts and domains suggests.
    Auto,
    /// So many, if there are as many hosts.
    Fixed(usize),
}

/// What an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many have a vote.
    pub voters: Voters,
    /// How many more have all, in case that a voter is lost.
    pub standbys: usize,
    /// After such a time a voter that is down is replaced.
    pub replace_after: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { voters: Voters::Auto, standbys: 2, replace_after: Duration::from_secs(30) }
    }
}

/// What gossip says of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is there, or suspected, or cut off by its own word: that alone changes nothing.
    There,
    /// Several say that it is down.
    Down,
    /// It left on purpose.
    Left,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Which.
    pub id: HostId,
    /// For people.
    pub name: String,
    /// What it fails with.
    pub domain: Domain,
    /// Whether it is there.
    pub presence: Presence,
}

/// Who has a replica, or is to get one, as the keys say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Of the replica.
    pub id: u64,
    /// Whose.
    pub host: HostId,
    /// For people.
    pub name: String,
    /// It is to be a member no longer.
    pub leaves: bool,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This host is to get a replica: write its seat.
    Seat(HostId),
    /// The replica on this host is to go: say so in its seat.
    Leave(HostId),
    /// The replica on this host is a member no longer: remove its seat.
    Forget(HostId),
    /// Change the members.
    Change(ConfChange),
    /// Let this voter lead: the one that does is to go.
    Transfer(u64),
}

/// See above.
#[derive(Debug)]
pub struct Roles {
    settings: Settings,
    /// Since when a seat's host is down and its replica silent.
    gone: BTreeMap<u64, Instant>,
    /// How often a seat's host was gone and came back, and when last.
    flaps: BTreeMap<u64, (u32, Instant)>,
    /// Their host has lost them.
    lost: BTreeSet<u64>,
    declined: BTreeMap<HostId, (Instant, u64)>,
    standings: Vec<Standing>,
}

/// What a look sees.
struct Look<'a> {
    now: Instant,
    hosts: BTreeMap<HostId, &'a Host>,
    seats: &'a [Seat],
    status: &'a Status,
}

impl Look<'_> {
    fn seat_of(&self, id: u64) -> Option<&Seat> {
        self.seats.iter().find(|seat| seat.id == id)
    }

    fn domain_of(&self, host: HostId) -> Domain {
        self.hosts.get(&host).map(|host| host.domain.clone()).unwrap_or_default()
    }

    /// Whether the leader, which is the one that looks, has just heard it.
    fn is_heard(&self, id: u64) -> bool {
        id == self.status.id || self.status.peers.iter().any(|peer| peer.id == id && peer.recently_active)
    }

    /// Voters of which nothing is heard.
    fn silent(&self) -> usize {
        self.status.conf.voters.iter().filter(|id| !self.is_heard(**id)).count()
    }

    /// Voters that may be lost.
    fn tolerance(&self) -> usize {
        self.status.conf.voters.len().saturating_sub(1) / 2
    }

    fn presence(&self, seat: &Seat) -> Presence {
        self.hosts.get(&seat.host).map_or(Presence::Down, |host| host.presence)
    }

    fn places(&self, ids: &[u64]) -> Vec<Place<u64>> {
        let place = |id: &u64| {
            let domain = self.seat_of(*id).map(|seat| self.domain_of(seat.host)).unwrap_or_default();
            Place { host: *id, domain }
        };
        ids.iter().map(place).collect()
    }
}

impl Roles {
    /// For a member that begins to lead.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            gone: BTreeMap::new(),
            flaps: BTreeMap::new(),
            lost: BTreeSet::new(),
            declined: BTreeMap::new(),
            standings: Vec::new(),
        }
    }

    /// That replica's host says that it has it no longer.
    pub fn handle_lost(&mut self, id: u64) {
        self.lost.insert(id);
    }

    /// A host that was invited as that replica does not come.
    pub fn handle_declined(&mut self, now: Instant, host: HostId, id: u64) {
        self.declined.insert(host, (now, id));
    }

    /// Looks at everything, and says what to do next; `None` if nothing.
    pub fn handle_look(&mut self, now: Instant, hosts: &[Host], seats: &[Seat], status: &Status) -> Option<Step> {
        let look = Look { now, hosts: hosts.iter().map(|host| (host.id, host)).collect(), seats, status };
        self.note_gone(&look);
        let step = self.step(&look);
        self.standings = standing::all(self, &look);
        step
    }

    /// Why each host has its role, by name.
    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }

    /// Since when each seat's host is down, and nothing is heard of its replica.
    fn note_gone(&mut self, look: &Look<'_>) {
        for seat in look.seats {
            let is_gone = look.presence(seat) == Presence::Down && !look.is_heard(seat.id);
            if is_gone {
                self.gone.entry(seat.id).or_insert(look.now);
            } else if self.gone.remove(&seat.id).is_some() {
                let (count, at) = self.flaps.entry(seat.id).or_insert((0, look.now));
                (*count, *at) = (*count + 1, look.now);
            }
        }
        let is_seat = |id: &u64| look.seats.iter().any(|seat| seat.id == *id);
        self.gone.retain(|id, _| is_seat(id));
        self.lost.retain(is_seat);
        self.flaps.retain(|id, (_, at)| is_seat(id) && look.now.since(*at) < FLAP_MEMORY);
        self.declined.retain(|_, (at, _)| look.now.since(*at) < DECLINED_FOR);
    }

    /// How long this seat's host may be gone: longer if it comes and goes.
    fn patience(&self, id: u64) -> Duration {
        let flaps = self.flaps.get(&id).map_or(0, |(count, _)| *count);
        self.settings.replace_after * 2_u32.pow(flaps.min(MAX_DOUBLINGS))
    }

    /// Whether the replica is to be replaced.
    fn is_over(&self, look: &Look<'_>, seat: &Seat) -> bool {
        let dead = self.gone.get(&seat.id).is_some_and(|since| look.now.since(*since) >= self.patience(seat.id));
        let declined = self.declined.get(&seat.host).is_some_and(|(_, id)| *id == seat.id);
        seat.leaves || dead || declined || self.lost.contains(&seat.id) || look.presence(seat) == Presence::Left
    }

    fn step(&self, look: &Look<'_>) -> Option<Step> {
        let conf = &look.status.conf;
        if conf.is_joint() {
            return None;
        }
        let is_member = |seat: &&Seat| conf.contains(seat.id);
        if let Some(seat) = look.seats.iter().find(|seat| seat.leaves && !conf.contains(seat.id)) {
            return Some(Step::Forget(seat.host));
        }
        // One that was invited and is not there yet comes before all else, unless its host is gone.
        if let Some(seat) = look.seats.iter().find(|seat| !conf.contains(seat.id)) {
            if self.is_over(look, seat) {
                return Some(Step::Leave(seat.host));
            }
            return Some(Step::Change(ConfChange::AddLearner(seat.id)));
        }
        let over: Vec<&Seat> = look.seats.iter().filter(is_member).filter(|seat| self.is_over(look, seat)).collect();
        self.step_down(look, &over)
            .or_else(|| self.replace_voter(look, &over))
            .or_else(|| remove_learner(look, &over))
            .or_else(|| self.grow(look, &over))
            .or_else(|| self.even_out(look, &over))
            .or_else(|| self.shrink_standbys(look))
            .or_else(|| self.improve(look, &over))
    }

    /// The leader's own seat is to go, as before its host leaves: another voter leads first and does the rest. If it is the
    /// only voter, a stand-by votes beside it for that long: nobody else could go on.
    fn step_down(&self, look: &Look<'_>, over: &[&Seat]) -> Option<Step> {
        let voters = &look.status.conf.voters;
        let own = look.seat_of(look.status.id).filter(|seat| seat.leaves)?;
        let is_over = |id: u64| over.iter().any(|seat| seat.id == id);
        if let Some(next) = voters.iter().find(|id| **id != own.id && look.is_heard(**id) && !is_over(**id)) {
            return Some(Step::Transfer(*next));
        }
        if *voters != [own.id] {
            return None;
        }
        let ready = look.places(&self.ready(look, over));
        replicas::next(&[], &ready).map(|new| Step::Change(ConfChange::Promote(*new)))
    }

    /// A voter that is over is replaced in one change by a learner that has caught up.
    fn replace_voter(&self, look: &Look<'_>, over: &[&Seat]) -> Option<Step> {
        let conf = &look.status.conf;
        if look.silent() > look.tolerance() {
            return None;
        }
        let old = over.iter().find(|seat| conf.voters.contains(&seat.id) && seat.id != look.status.id)?;
        let ready = self.ready(look, over);
        let rest: Vec<u64> = conf.voters.iter().copied().filter(|id| *id != old.id).collect();
        let there: Vec<Domain> = look.places(&rest).into_iter().map(|place| place.domain).collect();
        if let Some(new) = replicas::next(&there, &look.places(&ready)) {
            if !old.leaves {
                return Some(Step::Leave(old.host));
            }
            return Some(Step::Change(ConfChange::Swap { old: old.id, new: *new }));
        }
        if self.has_learner(look, over) {
            // It catches up.
            return None;
        }
        let seat = self.candidate(look).map(Step::Seat);
        if seat.is_some() {
            return seat;
        }
        // Nobody takes its place. One that left goes all the same; so does one that is to go and makes their number even, and
        // one whose host can begin anew, if there is no other gap; one that is down may come back.
        let begins_anew = self.lost.contains(&old.id)
            && look.presence(old) == Presence::There
            && conf.voters.len() >= self.targets(look).0;
        let makes_even = old.leaves && conf.voters.len().is_multiple_of(2) && look.presence(old) == Presence::There;
        if rest.is_empty() || !(begins_anew || makes_even || look.presence(old) == Presence::Left) {
            return None;
        }
        Some(if old.leaves { Step::Change(ConfChange::Remove(old.id)) } else { Step::Leave(old.host) })
    }

    /// More voters, two at a time, and more stand-bys.
    fn grow(&self, look: &Look<'_>, over: &[&Seat]) -> Option<Step> {
        let conf = &look.status.conf;
        if conf.voters.len().is_multiple_of(2) {
            return None;
        }
        let (voters, standbys) = self.targets(look);
        let ready = self.ready(look, over);
        if conf.voters.len() + 2 <= voters {
            let there: Vec<Domain> = look.places(&conf.voters).into_iter().map(|place| place.domain).collect();
            if let Some(first) = replicas::next(&there, &look.places(&ready)) {
                let rest: Vec<u64> = ready.iter().copied().filter(|id| id != first).collect();
                let there = [there, vec![look.places(&[*first]).remove(0).domain]].concat();
                if let Some(second) = replicas::next(&there, &look.places(&rest)) {
                    return Some(Step::Change(ConfChange::PromoteTwo(*first, *second)));
                }
            }
        }
        let members = conf.voters.len() + conf.learners.len();
        let wanted = voters.max(conf.voters.len()) + standbys;
        if members < wanted { self.candidate(look).map(Step::Seat) } else { None }
    }

    /// An even number of voters, as after one left, becomes odd.
    fn even_out(&self, look: &Look<'_>, over: &[&Seat]) -> Option<Step> {
        let conf = &look.status.conf;
        if !conf.voters.len().is_multiple_of(2) {
            return None;
        }
        let (voters, _) = self.targets(look);
        let there: Vec<Domain> = look.places(&conf.voters).into_iter().map(|place| place.domain).collect();
        let ready = look.places(&self.ready(look, over));
        if conf.voters.len() < voters {
            if let Some(new) = replicas::next(&there, &ready) {
                return Some(Step::Change(ConfChange::Promote(*new)));
            }
            // One catches up, or all hosts that could be one are down: none of those that vote goes for that.
            return if self.has_learner(look, over) { None } else { self.candidate(look).map(Step::Seat) };
        }
        let others: Vec<u64> = conf.voters.iter().copied().filter(|id| *id != look.status.id).collect();
        replicas::surplus(&look.places(&others)).map(|id| Step::Change(ConfChange::Demote(*id)))
    }

    /// Too many stand-bys cost for nothing.
    fn shrink_standbys(&self, look: &Look<'_>) -> Option<Step> {
        let conf = &look.status.conf;
        let (voters, standbys) = self.targets(look);
        if conf.voters.len() < voters || conf.learners.len() <= standbys {
            return None;
        }
        let id = *replicas::surplus(&look.places(&conf.learners))?;
        look.seat_of(id).map(|seat| Step::Leave(seat.host))
    }

    /// The voters in more domains than before, when all are well and nothing else is to do.
    fn improve(&self, look: &Look<'_>, over: &[&Seat]) -> Option<Step> {
        let conf = &look.status.conf;
        let all_well = over.is_empty() && conf.voters.iter().all(|id| look.is_heard(*id)) && self.gone.is_empty();
        if !all_well {
            return None;
        }
        let others: Vec<u64> = conf.voters.iter().copied().filter(|id| *id != look.status.id).collect();
        let there = look.places(&conf.voters);
        let ready = look.places(&self.ready(look, over));
        let (old, _) = replicas::improvement(&there, &ready)?;
        // The leader stays: another one of its domain goes.
        let old = if *old == look.status.id {
            let domain = &there.iter().find(|place| place.host == *old)?.domain;
            look.places(&others).into_iter().find(|place| place.domain == *domain)?.host
        } else {
            *old
        };
        // The one that takes its place is chosen as if it were lost: in a domain that has none.
        look.seat_of(old).map(|seat| Step::Leave(seat.host))
    }

    /// Learners that may get a vote: heard just now, and not over.
    fn ready(&self, look: &Look<'_>, over: &[&Seat]) -> Vec<u64> {
        let is_over = |id: u64| over.iter().any(|seat| seat.id == id);
        let learners = look.status.conf.learners.iter().copied();
        learners.filter(|id| look.is_heard(*id) && !is_over(*id) && self.is_close(look, *id)).collect()
    }

    /// Whether it has nearly all; what is too far off the consensus refuses.
    fn is_close(&self, look: &Look<'_>, id: u64) -> bool {
        let matched = look.status.peers.iter().find(|peer| peer.id == id).map_or(0, |peer| peer.matched);
        matched > 0
    }

    fn has_learner(&self, look: &Look<'_>, over: &[&Seat]) -> bool {
        let learners = &look.status.conf.learners;
        let is_good = |seat: &&Seat| learners.contains(&seat.id) && !self.gone.contains_key(&seat.id);
        look.seats.iter().filter(is_good).any(|seat| !over.iter().any(|over| over.id == seat.id))
    }

    /// How many voters and stand-bys there are to be. Hosts that are down count: their death makes no set smaller.
    fn targets(&self, look: &Look<'_>) -> (usize, usize) {
        let hosts = || look.hosts.values().filter(|host| host.presence != Presence::Left);
        let domains: BTreeSet<&Domain> = hosts().map(|host| &host.domain).collect();
        let count = hosts().count();
        let voters = match self.settings.voters {
            Voters::Auto => replicas::voters_for(count, domains.len()),
            Voters::Fixed(voters) if voters <= count => voters,
            // As many as can be, and an odd number.
            Voters::Fixed(_) => count.saturating_sub(1) / 2 * 2 + 1,
        };
        let voters = voters.max(1);
        (voters, self.settings.standbys.min(count.saturating_sub(voters)))
    }

    /// The host that is to get the next replica.
    fn candidate(&self, look: &Look<'_>) -> Option<HostId> {
        let is_free = |host: &Host| {
            host.presence == Presence::There
                && !look.seats.iter().any(|seat| seat.host == host.id)
                && !self.declined.contains_key(&host.id)
        };
        let free = look.hosts.values().filter(|host| is_free(host));
        let free: Vec<Place<HostId>> = free.map(|host| Place { host: host.id, domain: host.domain.clone() }).collect();
        let there: Vec<Domain> = look.seats.iter().map(|seat| look.domain_of(seat.host)).collect();
        replicas::next(&there, &free).copied()
    }
}

/// A stand-by that is over.
fn remove_learner(look: &Look<'_>, over: &[&Seat]) -> Option<Step> {
    let seat = over.iter().find(|seat| look.status.conf.learners.contains(&seat.id))?;
    Some(if seat.leaves { Step::Change(ConfChange::Remove(seat.id)) } else { Step::Leave(seat.host) })
}
