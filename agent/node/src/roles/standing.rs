//! Why each host has the role that it has, in words.

use ringmesh_proto::HostId;

use super::{Look, Presence, Roles, Seat};

/// What a host holds of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A replica with a vote.
    Voter,
    /// A replica without one.
    Standby,
    /// Nothing: it asks the others.
    Spare,
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub host: HostId,
    /// For people.
    pub name: String,
    /// What it holds.
    pub role: Role,
    /// Of its replica; 0 of a spare.
    pub replica: u64,
    /// Entries by which its replica is behind the leader.
    pub lag: u64,
    /// The leader has just heard it.
    pub is_heard: bool,
    /// One sentence.
    pub why: String,
}

pub(super) fn all(roles: &Roles, look: &Look<'_>) -> Vec<Standing> {
    let mut standings: Vec<Standing> = look.seats.iter().map(|seat| of_seat(roles, look, seat)).collect();
    let spares = look
        .hosts
        .values()
        .filter(|host| host.presence != Presence::Left && !look.seats.iter().any(|seat| seat.host == host.id));
    standings.extend(spares.map(|host| Standing {
        host: host.id,
        name: host.name.clone(),
        role: Role::Spare,
        replica: 0,
        lag: 0,
        is_heard: false,
        why: why_spare(roles, look, host.id, host.presence),
    }));
    standings.sort_by_cached_key(|standing| (standing.role, crate::natural(&standing.name)));
    standings
}

fn of_seat(roles: &Roles, look: &Look<'_>, seat: &Seat) -> Standing {
    let status = look.status;
    let role = if status.conf.voters.contains(&seat.id) {
        Role::Voter
    } else if status.conf.contains(seat.id) {
        Role::Standby
    } else {
        Role::Spare
    };
    let matched = status.peers.iter().find(|peer| peer.id == seat.id).map(|peer| peer.matched);
    let matched = if seat.id == status.id { status.last.index } else { matched.unwrap_or(0) };
    Standing {
        host: seat.host,
        name: seat.name.clone(),
        role,
        replica: seat.id,
        lag: status.last.index.saturating_sub(matched),
        is_heard: look.is_heard(seat.id),
        why: why_seat(roles, look, seat, role),
    }
}

fn why_seat(roles: &Roles, look: &Look<'_>, seat: &Seat, role: Role) -> String {
    let conf = &look.status.conf;
    if roles.lost.contains(&seat.id) {
        return "its host has lost what it held: it is replaced".into();
    }
    if look.presence(seat) == Presence::Left {
        return "its host has left: it is replaced".into();
    }
    if let Some(since) = roles.gone.get(&seat.id) {
        let (gone_s, patience_s) = (look.now.since(*since).as_secs(), roles.patience(seat.id).as_secs());
        let silent = look.silent();
        return match role {
            Role::Voter if silent > look.tolerance() => {
                format!("down for {gone_s} s; {silent} voters are silent, so none is replaced: start their hosts")
            }
            Role::Voter if gone_s >= patience_s && roles.candidate(look).is_none() && conf.learners.is_empty() => {
                format!("down for {gone_s} s; there is no other host to take its place")
            }
            Role::Voter | Role::Standby | Role::Spare => {
                format!("down for {gone_s} s: it is replaced after {patience_s} s")
            }
        };
    }
    if seat.leaves {
        return "another host has taken its place: it goes".into();
    }
    let domain = look.domain_of(seat.host);
    let rack = if domain.rack.is_empty() { String::new() } else { format!(" in rack {}", domain.rack) };
    match role {
        Role::Voter if seat.id == look.status.id => format!("leads, one of {} voters{rack}", conf.voters.len()),
        Role::Voter => format!("one of {} voters{rack}", conf.voters.len()),
        Role::Standby if look.is_heard(seat.id) => format!("takes the place of a voter that is lost{rack}"),
        Role::Standby => "does not answer yet".into(),
        Role::Spare => "is about to get a replica".into(),
    }
}

fn why_spare(roles: &Roles, look: &Look<'_>, host: HostId, presence: Presence) -> String {
    let conf = &look.status.conf;
    if presence == Presence::Down {
        return "is down".into();
    }
    if roles.declined.contains_key(&host) {
        return "was asked to hold a replica and does not: see store.eligible and the log there".into();
    }
    format!("{} and {} are enough", counted(conf.voters.len(), "voter"), counted(conf.learners.len(), "stand-by"))
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
