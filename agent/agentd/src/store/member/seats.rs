//! Who the other members are, and on which hosts. Those of a standalone store are named by the command line; those of
//! agents have seats among the keys, which the leader gives and takes as `ringmesh_node::roles` says.
//!
//! ```text
//!  View, seats, Status ─▶ Roles ─▶ Step ─┬─▶ a change of a seat (a key) ─▶ the log
//!                                        └─▶ a change of the members ────▶ the consensus
//! ```

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use ringmesh_node::{
    View,
    roles::{self, Host, Presence, Roles, Seat, Standing, Step},
};
use ringmesh_proto::{
    HostId, Instant,
    etcd::etcdserverpb::{
        Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
        compare::{CompareResult, CompareTarget, TargetUnion},
        request_op::Request as Op,
    },
    peer::ReplicaRecord,
    store::{ReplicaSeat, command::Change},
    v1::host::State,
};
use ringmesh_store::{consensus::Conf, kv::Kv};
use ringmesh_topology::replicas::Domain;
use tokio::sync::{oneshot, watch};

use super::Member;
use crate::store::{
    peer::Verdict,
    request::{Changed, Failure},
    road::Place,
    settings::Member as Named,
};

/// Before the host's id in eight hexadecimal digits.
const PREFIX: &str = "/ringmesh/store/replicas/";

/// The first key after all of these.
const PREFIX_END: &str = "/ringmesh/store/replicas0";

/// Between two looks at who should be a member.
const LOOK: Duration = Duration::from_secs(1);

/// The same while they change.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Members that have greeted and are remembered.
const MAX_GREETED: usize = 64;

/// Of the replica with which a cluster begins; others are revisions, the first of which is 2.
pub(in crate::store) const FOUNDER: u64 = 1;

/// See above.
pub(in crate::store) enum Others {
    /// With this one.
    Named(Vec<Named>),
    /// By their seats.
    Mesh(Box<Mesh>),
}

/// What the replica of an agent works with.
pub(in crate::store) struct Mesh {
    /// This host.
    pub(in crate::store) host: HostId,
    /// For people.
    pub(in crate::store) name: String,
    /// What an operator wants.
    pub(in crate::store) settings: roles::Settings,
    /// What gossip says.
    pub(in crate::store) view: watch::Receiver<Arc<View>>,
    /// What is said to those who greet.
    pub(in crate::store) known: Arc<Mutex<Known>>,
    /// What this host says of itself.
    pub(in crate::store) told: watch::Sender<Option<ReplicaRecord>>,
    /// Where those were seen that have greeted: before the first snapshot there are no seats here.
    greeted: BTreeMap<u64, Place>,
    /// While it leads.
    roles: Option<Roles>,
    looks_at: Instant,
    /// A change of a seat that is under way.
    changing: Option<oneshot::Receiver<Result<Changed, Failure>>>,
}

/// Who is a member, as far as this replica has applied it.
#[derive(Debug, Default)]
pub(in crate::store) struct Known {
    /// Up to here.
    pub(in crate::store) revision: i64,
    /// By the ids of their replicas.
    pub(in crate::store) hosts: BTreeMap<u64, HostId>,
}

/// Whether somebody who greets is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Greeted {
    /// It is.
    Member,
    /// It was a member, and is one no longer.
    Gone,
    /// It is another host's.
    Stolen,
}

impl Known {
    /// What is known of that replica, which greets from that host. One that is newer than what is known here is heard.
    pub(in crate::store) fn judge(&self, id: u64, host: HostId) -> Greeted {
        match self.hosts.get(&id) {
            Some(known) if *known == host => Greeted::Member,
            Some(_) => Greeted::Stolen,
            None if i64::try_from(id).is_ok_and(|id| id <= self.revision) => Greeted::Gone,
            None => Greeted::Member,
        }
    }
}

/// The lock is held for moments.
pub(in crate::store) fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mesh {
    pub(in crate::store) fn new(
        (host, name): (HostId, String),
        settings: roles::Settings,
        view: watch::Receiver<Arc<View>>,
        known: Arc<Mutex<Known>>,
        told: watch::Sender<Option<ReplicaRecord>>,
    ) -> Self {
        Self {
            host,
            name,
            settings,
            view,
            known,
            told,
            greeted: BTreeMap::new(),
            roles: None,
            looks_at: Instant::ZERO,
            changing: None,
        }
    }

    /// The hosts of this one's zone.
    fn hosts(&self) -> Vec<Host> {
        let view = self.view.borrow();
        let host = |host: &ringmesh_proto::v1::Host| {
            let presence = match host.state() {
                State::Down => Presence::Down,
                State::Left => Presence::Left,
                State::Unknown | State::Alive | State::Suspect | State::Isolated => Presence::There,
            };
            let domain = Domain { zone: host.zone.clone(), rack: host.rack.clone() };
            Some(Host { id: host.id.parse().ok()?, name: host.name.clone(), domain, presence })
        };
        view.hosts.iter().filter_map(host).collect()
    }

    /// Whether a change of a seat is under way still.
    fn is_changing(&mut self) -> bool {
        let Some(changing) = &mut self.changing else { return false };
        match changing.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => return true,
            Ok(Err(error)) => tracing::debug!(%error, "a seat was not changed"),
            Ok(Ok(_)) | Err(oneshot::error::TryRecvError::Closed) => {}
        }
        self.changing = None;
        false
    }
}

impl Others {
    /// When it is to be looked at again who should be a member.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Named(_) => None,
            Self::Mesh(mesh) => mesh.roles.as_ref().map(|_| mesh.looks_at),
        }
    }

    /// Another one leads, or this member.
    pub(super) fn note_leader(&mut self, us: bool) {
        if let Self::Mesh(mesh) = self {
            mesh.roles = us.then(|| Roles::new(mesh.settings.clone()));
            mesh.changing = None;
        }
    }

    /// All members with their names and, if they have one, the URL by which the others find them.
    pub(in crate::store) fn members(&self, kv: &Kv, conf: &Conf) -> Vec<(u64, String, Vec<String>)> {
        match self {
            Self::Named(named) => {
                named.iter().map(|member| (member.id, member.name.clone(), vec![member.peer_url.clone()])).collect()
            }
            Self::Mesh(_) => {
                let seats = seats(kv).into_iter().map(|seated| seated.seat).filter(|seat| conf.contains(seat.id));
                seats.map(|seat| (seat.id, seat.name, Vec::new())).collect()
            }
        }
    }

    /// Why each host has its role, by the leader.
    pub(in crate::store) fn standings(&self) -> &[Standing] {
        match self {
            Self::Named(_) => &[],
            Self::Mesh(mesh) => mesh.roles.as_ref().map_or(&[], Roles::standings),
        }
    }
}

impl Member {
    /// Greets whoever is a member now, and leaves out who is one no longer.
    pub(super) fn meet(&mut self) {
        let mesh = match &mut self.others {
            Others::Named(named) => {
                let place =
                    |member: &Named| Place::Address { name: member.name.clone(), address: member.address.clone() };
                let places = named.iter().map(|member| (member.id, place(member))).collect();
                return self.peers.set(&places, |_| false);
            }
            Others::Mesh(mesh) => mesh,
        };
        let status = self.consensus.status();
        let seats = seats(&self.kv);
        let members = [&status.conf.voters, &status.conf.learners, &status.conf.outgoing];
        let mut places: BTreeMap<u64, Place> = members
            .into_iter()
            .flatten()
            .filter_map(|id| {
                let seat = seats.iter().find(|seat| seat.seat.id == *id);
                let place = |seat: &Seated| Place::Host { name: seat.seat.name.clone(), host: seat.seat.host };
                Some((*id, seat.map(place).or_else(|| mesh.greeted.get(id).cloned())?))
            })
            .collect();
        if status.conf.voters.is_empty() {
            // It was invited, and has heard nothing but that.
            places.extend(mesh.greeted.iter().map(|(id, place)| (*id, place.clone())));
        }
        let is_new = |id: u64| {
            // One that has greeted is there, even if a new leader has not heard yet what it has.
            let is_there =
                mesh.greeted.contains_key(&id) || status.peers.iter().any(|peer| peer.id == id && peer.matched > 0);
            self.leads && status.conf.learners.contains(&id) && !is_there
        };
        self.peers.set(&places, is_new);
        // Before it has the first seats it knows of nobody whether it is a member.
        let revision = if seats.is_empty() { 0 } else { self.kv.revision() };
        let hosts = seats.iter().map(|seat| (seat.seat.id, seat.seat.host)).chain([(self.settings.id, mesh.host)]);
        *lock(&mesh.known) = Known { revision, hosts: hosts.collect() };
        let votes = status.conf.is_voter(self.settings.id);
        let record = ReplicaRecord { id: self.settings.id, votes, leads: self.leads, term: self.term };
        mesh.told.send_if_modified(|told| told.replace(record) != Some(record));
    }

    /// Somebody has greeted this member.
    pub(super) fn note_greeting(&mut self, from: u64, place: Option<Place>) {
        let (Others::Mesh(mesh), Some(place)) = (&mut self.others, place) else { return };
        if mesh.greeted.insert(from, place.clone()) != Some(place) {
            // Ids are not used again: old ones are of no use.
            while mesh.greeted.len() > MAX_GREETED {
                mesh.greeted.pop_first();
            }
            self.meet();
        }
    }

    /// What a member said before it hung up.
    pub(super) fn note_verdict(&mut self, now: Instant, to: u64, why: Option<Verdict>) {
        let Others::Mesh(mesh) = &mut self.others else { return };
        match (why, &mut mesh.roles) {
            (Some(Verdict::Gone), _) => {
                tracing::warn!(
                    member = format!("{to:x}"),
                    "this replica is a member no longer: another one has its place"
                );
                self.end = super::End::Gone;
            }
            (Some(Verdict::Lost), Some(roles)) => roles.handle_lost(to),
            (Some(Verdict::Declined), Some(roles)) => {
                if let Some(seat) = seats(&self.kv).into_iter().find(|seat| seat.seat.id == to) {
                    roles.handle_declined(now, seat.seat.host, to);
                }
            }
            (Some(Verdict::Kept | Verdict::Lost | Verdict::Declined) | None, _) => {}
        }
    }

    /// By the leader, about once a second: looks who should be a member, and does the next step.
    pub(super) fn manage(&mut self, now: Instant) {
        let Others::Mesh(mesh) = &mut self.others else { return };
        if mesh.roles.is_none() || now < mesh.looks_at {
            return;
        }
        mesh.looks_at = now + LOOK;
        // A new leader first applies all that was agreed on before.
        if !self.keeps_leases {
            return;
        }
        let seated = seats(&self.kv);
        let seats: Vec<Seat> = seated.iter().map(|seated| seated.seat.clone()).collect();
        let hosts = mesh.hosts();
        let Some(roles) = &mut mesh.roles else { return };
        let status = self.consensus.status();
        let step = roles.handle_look(now, &hosts, &seats, &status);
        if step.is_some() || status.conf.is_joint() {
            mesh.looks_at = now + LOOK_AGAIN;
        }
        if mesh.is_changing() {
            return;
        }
        let own = ReplicaSeat { host: mesh.host.raw(), name: mesh.name.clone(), id: self.settings.id, leaves: false };
        let change = if seats.iter().any(|seat| seat.id == own.id) {
            step.and_then(|step| self.carry_out_step(now, step, &seated, &hosts))
        } else {
            // It has founded, or began from a snapshot.
            Some(put_seat(0, &own))
        };
        if let (Some(change), Others::Mesh(mesh)) = (change, &mut self.others) {
            let (reply, answer) = oneshot::channel();
            mesh.changing = Some(answer);
            self.changes.take(change, reply);
        }
        self.meet();
    }

    /// The change of the keys that is the step, if it is one; a change of the members is proposed here.
    fn carry_out_step(&mut self, now: Instant, step: Step, seated: &[Seated], hosts: &[Host]) -> Option<Change> {
        let of = |host: HostId| seated.iter().find(|seated| seated.seat.host == host);
        tracing::debug!(?step, "the members of the store change");
        match step {
            Step::Seat(host) => {
                let name = hosts.iter().find(|known| known.id == host).map(|known| known.name.clone());
                let seat = ReplicaSeat { host: host.raw(), name: name.unwrap_or_default(), id: 0, leaves: false };
                Some(put_seat(0, &seat))
            }
            Step::Leave(host) => {
                let Seated { stored, mod_revision, .. } = of(host)?;
                Some(put_seat(*mod_revision, &ReplicaSeat { leaves: true, ..stored.clone() }))
            }
            Step::Forget(host) => of(host).map(|seated| {
                let delete = DeleteRangeRequest { key: key(host), ..DeleteRangeRequest::default() };
                only_if(key(host), seated.mod_revision, Op::RequestDeleteRange(delete))
            }),
            Step::Change(change) => {
                let proposed = self.consensus.propose_conf(now, change);
                if proposed.is_ok() {
                    tracing::info!(?change, "the members of the store change");
                }
                if let Err(refused) = proposed {
                    tracing::debug!(?change, %refused, "not now");
                }
                None
            }
            Step::Transfer(to) => {
                match self.consensus.transfer_leader(to) {
                    Ok(()) => tracing::debug!(member = format!("{to:x}"), "another one is to lead"),
                    Err(refused) => tracing::debug!(member = format!("{to:x}"), %refused, "it cannot lead now"),
                }
                None
            }
        }
    }
}

/// What the replica `id` asks for before its host leaves: its seat is to go. `None` if it has no vote, or nobody could take
/// it.
pub(in crate::store) fn give_up(kv: &Kv, conf: &Conf, id: u64) -> Option<Change> {
    let others = conf.voters.iter().chain(&conf.learners).any(|other| *other != id);
    if !others || !conf.is_voter(id) {
        return None;
    }
    let Seated { stored, mod_revision, .. } = seats(kv).into_iter().find(|seated| seated.seat.id == id)?;
    Some(put_seat(mod_revision, &ReplicaSeat { leaves: true, ..stored }))
}

/// A seat, as it is stored.
struct Seated {
    seat: Seat,
    stored: ReplicaSeat,
    mod_revision: i64,
}

/// All seats. What is no seat is passed over: nobody else writes there.
fn seats(kv: &Kv) -> Vec<Seated> {
    let all = RangeRequest {
        key: Bytes::from_static(PREFIX.as_bytes()),
        range_end: Bytes::from_static(PREFIX_END.as_bytes()),
        ..RangeRequest::default()
    };
    let found = kv.range(&all).map(|found| found.kvs).unwrap_or_default();
    let seated = found.into_iter().filter_map(|record| {
        let stored = ReplicaSeat::decode(record.value).ok()?;
        let id = if stored.id == 0 { u64::try_from(record.create_revision).ok()? } else { stored.id };
        let seat = Seat { id, host: HostId::new(stored.host), name: stored.name.clone(), leaves: stored.leaves };
        Some(Seated { seat, stored, mod_revision: record.mod_revision })
    });
    seated.collect()
}

fn key(host: HostId) -> Bytes {
    format!("{PREFIX}{host}").into()
}

/// If the key was last changed at that revision; 0: if it is not there.
fn put_seat(mod_revision: i64, seat: &ReplicaSeat) -> Change {
    let key = key(HostId::new(seat.host));
    let put = PutRequest { key: key.clone(), value: seat.encode_to_vec().into(), ..PutRequest::default() };
    only_if(key, mod_revision, Op::RequestPut(put))
}

fn only_if(key: Bytes, mod_revision: i64, op: Op) -> Change {
    let compare = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(mod_revision)),
        ..Compare::default()
    };
    Change::Txn(TxnRequest {
        compare: vec![compare],
        success: vec![RequestOp { request: Some(op) }],
        failure: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_greets_is_known_gone_newer_or_not_who_it_says() {
        let host = HostId::new;
        let known = Known { revision: 9, hosts: BTreeMap::from([(1, host(1)), (7, host(2))]) };
        for (id, from, greeted) in [
            (1, 1, Greeted::Member),
            (7, 2, Greeted::Member),
            (7, 3, Greeted::Stolen),
            (5, 3, Greeted::Gone),
            (12, 3, Greeted::Member),
            (u64::MAX, 3, Greeted::Member),
        ] {
            assert_eq!(known.judge(id, host(from)), greeted, "{id} of {from}");
        }
    }
}
