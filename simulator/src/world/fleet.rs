//! Hosts with containers by the thousand, of which nothing is kept while they are well, if the fleet is implicit.
//!
//! A container is *awake* from when something is done to it until it is again as if nothing had been. The node is told before
//! anything happens, so that it has all that it would have had. What a probe of a sleeping one takes follows from the seed.

use std::{sync::Arc, time::Duration};

use ringmesh_node::{
    Output,
    health::{
        Answered,
        spec::{CheckId, ContainerSpec, ContainerState, ContainerStatus},
    },
};
use ringmesh_proto::{
    Instant,
    peer::{ArmingRecord, OrderRequest, order_request::Order},
    v1::{OrderContainerRequest, arming, operation::Kind},
};
use ringmesh_topology::hash;

use super::{Cure, HostIndex, World};
use crate::fleet::{Fleet, How, container_name};

/// What simulated services answer, and how long they say that it took.
pub(super) const ANSWER: (&str, Duration) = ("simulated", Duration::from_millis(1));

impl World {
    /// Adds a host with the containers of a fleet, which knows the first hosts, and starts it.
    pub fn add_fleet(&mut self, fleet: &Arc<Fleet>) -> HostIndex {
        let first: Vec<HostIndex> = (0..self.hosts.len().min(super::SEEDS)).collect();
        let host = self.put_host(Vec::new(), 0, [[0, 1]; 2]);
        self.put_fleet(host, fleet);
        self.place_in(host, "default", &first);
        self.start(host);
        host
    }

    /// Gives a host that does not run the containers of a fleet, and its way of repair.
    pub fn put_fleet(&mut self, host: HostIndex, fleet: &Arc<Fleet>) {
        let place = &mut self.hosts[host];
        place.config.repair = fleet.settings();
        if fleet.implicit {
            place.runtime.reserve(fleet.containers);
            place.fleet = Some(Arc::clone(fleet));
        } else {
            place.config.containers = (0..fleet.containers).map(|number| fleet.spec(host, number)).collect();
        }
    }

    /// Containers of a host of which something is kept.
    pub fn awake(&self, host: HostIndex) -> usize {
        let place = &self.hosts[host];
        if place.fleet.is_some() { place.runtime.awake.len() } else { place.config.containers.len() }
    }

    /// Containers of which more was to be told when they were woken than the model knew: none, if it is true.
    pub fn misjudged(&self) -> u64 {
        self.misjudged
    }

    /// Something is wrong with a container from now on, until it is made well.
    pub fn ail(&mut self, host: HostIndex, number: u32, how: How, cure: Cure) {
        self.wake(host, number);
        let name = container_name(host, number);
        match how {
            How::End => {
                let name = self.hosts[host].runtime.instance(&name);
                self.set_container(host, &name, ContainerState::Stopped);
            }
            How::Silent => self.mute_container(host, &name, true),
            How::Wrong | How::Late(_) => self.hosts[host].runtime.ail(name, how, cure),
        }
    }

    /// That is over, whoever cured it.
    pub fn recover(&mut self, host: HostIndex, number: u32, how: How) {
        let name = container_name(host, number);
        match how {
            How::End => {
                let name = self.hosts[host].runtime.instance(&name);
                if self.hosts[host].runtime.status(&name).state == ContainerState::Stopped {
                    self.set_container(host, &name, ContainerState::Running);
                }
            }
            How::Silent => self.mute_container(host, &name, false),
            How::Wrong | How::Late(_) => self.hosts[host].runtime.ails_no_more(&name),
        }
    }

    /// An operator freezes a container, or releases it.
    pub fn freeze(&mut self, host: HostIndex, number: u32, freeze: bool) {
        self.wake(host, number);
        let container = self.hosts[host].runtime.instance(&container_name(host, number));
        let kind = if freeze { Kind::Freeze } else { Kind::Release } as i32;
        let order = OrderContainerRequest { kind, container, ..OrderContainerRequest::default() };
        self.ordered += 1;
        let order = OrderRequest { order: Some(Order::Container(order)), who: "simulated".into(), nonce: self.ordered };
        self.order(host, order);
    }

    /// An operator disarms the cluster at a host, or arms it again.
    pub fn disarm(&mut self, host: HostIndex, disarm: bool) {
        self.ordered += 1;
        let mode = if disarm { arming::Mode::Freeze } else { arming::Mode::Armed } as u32;
        let version = self.time(host).unix.0.max(self.ordered);
        let arming = ArmingRecord {
            version,
            host: super::id(host).raw(),
            mode,
            reason: "simulated".into(),
            ..Default::default()
        };
        let order = OrderRequest { order: Some(Order::Arming(arming)), who: "simulated".into(), nonce: self.ordered };
        self.order(host, order);
    }

    /// All containers of a host, before something is done to all of them.
    pub(super) fn wake_all(&mut self, host: HostIndex) {
        let containers = self.hosts[host].fleet.as_ref().map_or(0, |fleet| fleet.containers);
        (0..containers).for_each(|number| self.wake(host, number));
    }

    /// A container of which nothing was kept so far becomes one like any other.
    pub(super) fn wake(&mut self, host: HostIndex, number: u32) {
        let Some(fleet) = self.hosts[host].fleet.clone().filter(|fleet| number < fleet.containers) else { return };
        if !self.hosts[host].runtime.awake.insert(number) {
            return;
        }
        let spec = fleet.spec(host, number);
        let runtime = &mut self.hosts[host].runtime;
        runtime.make_as(&spec.name, number + 1);
        let status = runtime.status(&spec.name);
        self.tell_awake(host, spec, status);
        // It is to be probed, perhaps sooner than anything else is due.
        self.drain(host);
    }

    /// Tells a node that runs of a container that is awake; `status`: as its agent found it when it started.
    pub(super) fn tell_awake(&mut self, host: HostIndex, spec: ContainerSpec, status: ContainerStatus) {
        let now = self.time(host);
        let (seed, place) = (self.settings.seed, &mut self.hosts[host]);
        let Some(node) = &mut place.node else { return };
        let timeout = spec.services.first().map_or(Duration::ZERO, |service| service.timeout);
        let answered = |id: CheckId, asked: Instant| Answered {
            after: takes(seed, host, id, asked).min(timeout),
            latency: ANSWER.1,
            answer: ANSWER.0,
        };
        let (implicit, asked) = node.wake(now, spec, status, answered);
        self.misjudged += u64::from(!implicit);
        let life = place.life;
        for (asked, output) in asked {
            if let Output::Probe(request) = output {
                let at = asked + takes(seed, host, request.id, asked).min(request.timeout);
                self.push(at, super::Event::Probed { host: host as u32, life, request: Box::new(request) });
            }
        }
    }

    /// How long a probe takes that is begun now.
    pub(super) fn probe_takes(&self, host: u32, id: CheckId, pid: Option<u32>, timeout: Duration) -> Duration {
        let ails = self.hosts[host as usize].runtime.delays(pid, timeout);
        ails.unwrap_or_else(|| takes(self.settings.seed, host as usize, id, self.now)).min(timeout)
    }

    /// Forgets containers that are as if nothing had been done to them.
    pub fn rest(&mut self) {
        for host in self.hosts() {
            let now = self.now;
            let place = &mut self.hosts[host];
            let (Some(fleet), Some(node)) = (&place.fleet, &mut place.node) else { continue };
            let awake: Vec<u32> = place.runtime.awake.iter().copied().collect();
            for number in awake {
                let name = fleet.name(host, number);
                let status = place.runtime.status(&name);
                let untouched = status.pid == Some(number + 1) && !place.runtime.is_unwell(&name) && !place.sick;
                if untouched && node.rest(now, &status) {
                    place.runtime.forget(&name, number);
                }
            }
        }
    }

    /// Containers that a starting agent finds and of which something is kept, as the supervisor left them.
    pub(super) fn awake_specs(&self, host: HostIndex) -> Vec<ContainerSpec> {
        let place = &self.hosts[host];
        let Some(fleet) = &place.fleet else { return place.config.containers.clone() };
        place.runtime.awake.iter().map(|number| fleet.spec(host, *number)).collect()
    }
}

/// What a probe of a service that is well takes: it follows from when it is begun, so that nothing else moves it.
fn takes(seed: u64, host: HostIndex, id: CheckId, asked: Instant) -> Duration {
    let drawn = hash(&[seed, host as u64, id.0, asked.as_nanos()]);
    Duration::from_micros(200 + drawn % 1800)
}
