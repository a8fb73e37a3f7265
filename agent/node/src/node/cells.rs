//! What the cells hear of containers, and what becomes of what they conclude.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use ringmesh_proto::{
    HostId, Instant, Now, UnixMillis,
    datagram::{Datagram, Kind},
    member::Member,
    peer::{EventRecord, RecordMore},
    v1,
};

use super::{Implicit, Node, Output};
use crate::{
    cells::{
        self, Cells, MemberState, News, Voice,
        service::{Lost, MAX_SERVICES, ServiceCells},
    },
    health::{
        Health,
        spec::{ContainerSpec, ContainerStatus, ProbeReply},
    },
    membership::{Refused, SwimState},
};

/// Which hosts have which services is looked at so long after something may have changed: when hosts join, all at once.
const GATHER: Duration = Duration::from_secs(1);

/// The cells of services, and when the hosts that are in them may have changed.
pub(super) struct OwnServices {
    pub(super) cells: ServiceCells,
    /// When it is next to be found out which hosts have our services.
    gather: Option<Instant>,
    /// The revision that was last shown.
    shown: u64,
}

impl OwnServices {
    pub(super) fn new(me: Member, containers: &[ContainerSpec], seed: u64) -> Self {
        let mut cells = ServiceCells::new(me.id, me.generation, seed);
        containers.iter().for_each(|container| cells.declare(container));
        Self { cells, gather: None, shown: 0 }
    }

    /// Which hosts live, or what services they have, may have changed.
    pub(super) fn stale_if(&mut self, now: Now, changed: bool) {
        if changed && self.cells.announced().next().is_some() {
            self.gather.get_or_insert(now.instant + GATHER);
        }
    }

    /// Those that the host's record names.
    pub(super) fn announced(&self) -> Vec<u32> {
        self.cells.announced().collect()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.cells.poll_timeout().into_iter().chain(self.gather).min()
    }
}

impl Node {
    /// One that is not declared is none of ours.
    pub(super) fn seat_container(&mut self, now: Now, status: &ContainerStatus) {
        if self.health.spec(&status.name).is_some() {
            self.cells.handle_status(now.instant, status);
        }
    }

    /// Another container takes the place of this one.
    pub(super) fn replace_in_cells(&mut self, now: Now, old: &str, spec: &ContainerSpec) {
        self.cells.forget(now.instant, old);
        self.services.cells.replace(old, spec);
    }

    /// To be called while health still waits for the reply.
    pub(super) fn note_probed(&mut self, now: Now, reply: &ProbeReply) {
        if let Some((container, check)) = self.health.asked(reply.id) {
            self.cells.handle_reply(now.instant, container, reply.sign.is_silent(), check.interval, check.timeout);
        }
    }

    pub(super) fn tend_cells(&mut self, now: Now) {
        self.cells.handle_timeout(now.instant);
        if self.services.gather.take_if(|due| *due <= now.instant).is_some() {
            let hosts = self.hosts_by_service();
            self.services.cells.handle_hosts(now.instant, &hosts);
        }
        let (implicit, health, cells) = (&self.implicit, &self.health, &self.cells);
        self.services
            .cells
            .handle_timeout(now.instant, |container| voice(implicit, health, cells, now.instant, container));
    }

    /// The other hosts that live, by the services that they say they have.
    fn hosts_by_service(&self) -> BTreeMap<u32, BTreeSet<HostId>> {
        let lives = |id: HostId| {
            let state = self.membership.state(id).map(|(_, state)| state);
            matches!(state, Some(SwimState::Alive | SwimState::Suspect)) && !self.has_left(id)
        };
        let mut hosts = BTreeMap::<u32, BTreeSet<HostId>>::new();
        for (id, heard) in self.store.hosts().filter(|(id, _)| lives(*id)) {
            let more = RecordMore::decode(heard.record.more.as_ref()).unwrap_or_default();
            more.services.iter().take(MAX_SERVICES).for_each(|service| {
                hosts.entry(*service).or_default().insert(id);
            });
        }
        hosts
    }

    pub(super) fn handle_cell_message(&mut self, now: Now, from: HostId, payload: Bytes) {
        let (implicit, health, cells) = (&self.implicit, &self.health, &self.cells);
        let voice = |container: &str| voice(implicit, health, cells, now.instant, container);
        match self.services.cells.handle_message(now.instant, from, payload, voice) {
            Ok(()) => {}
            Err(Refused::Malformed) => self.count("datagram_malformed"),
            Err(Refused::Spoofed) => self.count("datagram_spoofed"),
        }
    }

    /// Sends what representatives say, and tells of those that are lost.
    pub(super) fn settle_services(&mut self, now: Now) {
        while let Some((to, payload)) = self.services.cells.poll_transmit() {
            if let Some((to, SwimState::Alive | SwimState::Suspect)) = self.membership.state(to) {
                self.send_to_cell(to, payload);
            }
        }
        while let Some(lost) = self.services.cells.poll_lost() {
            self.tell_lost(now, lost);
        }
        if self.services.shown != self.services.cells.revision() {
            self.services.shown = self.services.cells.revision();
            self.shown.details_stale();
        }
    }

    /// Over the better uplink alone: what is lost is tried by others.
    fn send_to_cell(&mut self, to: Member, payload: Bytes) {
        let uplink = self.best_uplink(to);
        if to.address(uplink).is_none() || self.config.me.address(uplink).is_none() {
            return;
        }
        let cell = payload.get(2..4).map_or(0, |low| u16::from_be_bytes([low[0], low[1]]));
        let datagram = Datagram { kind: Kind::Cell, cell, zone: self.zone.id, sequence: 0, payload };
        self.outputs.push_back(Output::Datagram { to, uplink, bytes: datagram.encode(self.config.cluster) });
    }

    fn tell_lost(&mut self, now: Now, lost: Lost) {
        if !self.admits(now, "services unheard".into(), v1::event::Severity::Warning) {
            return;
        }
        let by: Vec<String> = lost.accusers.iter().map(|host| self.name_of(*host)).collect();
        let event = EventRecord {
            kind: "service-unheard".into(),
            host: self.me().id.raw(),
            severity: v1::event::Severity::Warning as u32,
            text: format!("{} in {} is not heard by its peers on {}", lost.service, lost.container, by.join(", ")),
            container: lost.container.to_string(),
            service: lost.service,
            accusers: lost.accusers.iter().map(|host| host.raw()).collect(),
            ..EventRecord::default()
        };
        self.tell(now, event, false);
    }

    /// The hosted cells, and this host's view of those of services.
    pub(super) fn show_cells(&self) -> Vec<v1::Cell> {
        let mut cells = self.cells.show(&self.config.name);
        cells.extend(self.services.cells.show(&self.config.name, |host| self.name_of(host)));
        cells
    }

    pub(super) fn cell_changed(&mut self, now: Now, change: cells::Change) {
        let silent = matches!(change.state, MemberState::Suspect | MemberState::Down);
        let since = UnixMillis(now.unix.0.saturating_sub(change.silent_for.as_millis() as u64));
        let member = (change.state != MemberState::Gone).then(|| v1::CellMember {
            cell: change.place.cell.into(),
            slot: change.place.slot.into(),
            generation: change.generation.into(),
            state: state(change.state) as i32,
            silent_since: silent.then(|| since.into()),
            inside: change.inside,
            ..v1::CellMember::default()
        });
        self.health.handle_cell(&change.container, member);
        let Some(news) = change.news else { return };
        let (kind, severity, class) = match news {
            News::Silent => ("container-silent", v1::event::Severity::Critical, "containers silent"),
            News::Heard => ("container-heard", v1::event::Severity::Info, "containers heard again"),
        };
        if !self.admits(now, class.into(), severity) {
            return;
        }
        let what = match news {
            News::Silent => {
                let seconds = change.silent_for.as_secs();
                let silent = match change.inside {
                    true => "'s member inside has said nothing",
                    false => " has given no sign of life",
                };
                format!("{silent} for {seconds} s: its cell takes it for down")
            }
            News::Heard => " gives signs of life again, its cell hears it".into(),
        };
        let event = EventRecord {
            kind: kind.into(),
            host: self.me().id.raw(),
            severity: severity as u32,
            text: format!("{}{what}", change.container),
            container: change.container.to_string(),
            ..EventRecord::default()
        };
        self.tell(now, event, false);
    }
}

/// What there is of a container to speak for.
fn voice(implicit: &Implicit, health: &Health, cells: &Cells, now: Instant, container: &str) -> Voice {
    if implicit.keeps(health, container) { Voice::Speaks } else { cells.voice(now, container) }
}

fn state(state: MemberState) -> v1::cell_member::State {
    match state {
        MemberState::Gone => v1::cell_member::State::Gone,
        MemberState::Alive => v1::cell_member::State::Alive,
        MemberState::Suspect => v1::cell_member::State::Suspect,
        MemberState::Down => v1::cell_member::State::Down,
        MemberState::Frozen => v1::cell_member::State::Frozen,
    }
}
