//! A world under its faults: each begins and ends at its time, and two of a kind may overlap.
//!
//! What holds is always worked out from the faults that are active, so that the end of one is not the end of another.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ringmesh_node::health::spec::{Check, ContainerSpec, ServiceSpec, Verbs};

use crate::{
    HostIndex, Way, World,
    fault::{Action, rack_of},
    fleet::How,
    scenario::Scenario,
    world::{SEEDS, Settings, name},
};

/// The world of a scenario.
pub(crate) struct Stage {
    pub(crate) world: World,
    /// By number.
    active: BTreeMap<usize, Action>,
    started: Vec<bool>,
    /// Of each host.
    zone_of: Vec<usize>,
    /// The hosts of each.
    zones: Vec<Vec<HostIndex>>,
}

impl Stage {
    /// All hosts of a scenario, none of them running yet.
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let mut links = vec![scenario.link.clone(), scenario.link_in.clone()];
        let mut cables = BTreeMap::new();
        for cable in &scenario.cable {
            for (way, spec) in [(0, &cable.out), (1, &cable.into)] {
                if let Some(spec) = spec {
                    cables.insert(
                        (cable.host.clone(), ringmesh_proto::Uplink::from(cable.uplink), way),
                        links.len() as u16,
                    );
                    links.push(spec.clone());
                }
            }
        }
        let sync = scenario.disk.sync.0;
        let mut world = World::with(Settings { seed: scenario.seed, links, sync, wire: scenario.wire, views: false });
        let hosts = scenario.hosts + scenario.joining();
        let fleet = scenario.fleet.clone().map(Arc::new);
        for host in 0..hosts {
            let spec = ringmesh_proto::Uplink::BOTH
                .map(|uplink| [0, 1].map(|way| cables.get(&(name(host), uplink, way)).copied().unwrap_or(way)));
            let rack = rack_of(host, scenario.hosts, scenario.racks);
            world.put_host(containers(scenario, host), rack, spec);
            if let Some(fleet) = &fleet {
                world.put_fleet(host, fleet);
            }
        }
        let zone_of: Vec<usize> = (0..hosts).map(|host| scenario.zone_of(host)).collect();
        let mut zones = vec![Vec::new(); scenario.zones.into()];
        for host in 0..hosts {
            // The first hosts of the own zone, and one of each other that is there by then.
            let own = zones[zone_of[host]].iter().take(SEEDS);
            let others = zones.iter().enumerate().filter(|(zone, _)| *zone != zone_of[host]);
            let knows: Vec<HostIndex> = own.chain(others.filter_map(|(_, hosts)| hosts.first())).copied().collect();
            let name = if scenario.zones > 1 { format!("z{}", zone_of[host] + 1) } else { "default".into() };
            world.place_in(host, &name, &knows);
            zones[zone_of[host]].push(host);
        }
        Self { world, active: BTreeMap::new(), started: vec![false; hosts], zone_of, zones }
    }

    /// The hosts of each zone.
    pub(crate) fn zones(&self) -> &[Vec<HostIndex>] {
        &self.zones
    }

    /// The hosts of a host's zone, itself among them.
    pub(crate) fn zone_with(&self, host: HostIndex) -> &[HostIndex] {
        &self.zones[self.zone_of[host]]
    }

    /// Starts a host for the first time, unless a fault keeps it down.
    pub(crate) fn start(&mut self, host: HostIndex) {
        self.started[host] = true;
        if !self.is_down(host) {
            self.world.start(host);
        }
    }

    /// Begins a fault.
    pub(crate) fn begin(&mut self, number: usize, action: &Action) {
        self.active.insert(number, action.clone());
        match action {
            Action::Pause(hosts, span) => hosts.iter().for_each(|host| self.world.pause(*host, span.0)),
            Action::Clock(hosts, by) => hosts.iter().for_each(|host| self.world.step_clock(*host, *by)),
            Action::Part(hosts) => self.world.part(number as u64, hosts),
            Action::Leave(hosts) => hosts.iter().for_each(|host| self.world.leave(*host)),
            Action::Join(hosts) => hosts.iter().for_each(|host| self.start(*host)),
            Action::Down(hosts, power) => {
                for host in hosts {
                    if *power {
                        self.world.power_off(*host);
                    } else if self.world.runs(*host) {
                        self.world.kill(*host);
                    }
                }
            }
            Action::Ail(who, how, cure) => who.iter().for_each(|(host, nth)| self.world.ail(*host, *nth, *how, *cure)),
            Action::Freeze(who) => who.iter().for_each(|(host, nth)| self.world.freeze(*host, *nth, true)),
            Action::Disarm(hosts) => hosts.iter().for_each(|host| self.world.disarm(*host, true)),
            Action::Cut(..) | Action::Pair(..) | Action::Switch(..) => self.cut(action, true),
            Action::Slow(hosts, _) => self.settle(hosts),
            Action::Loss(hosts, ..) | Action::Disk(hosts) | Action::Sick(hosts) => self.settle(hosts),
        }
    }

    /// Ends a fault.
    pub(crate) fn end(&mut self, number: usize) {
        let Some(action) = self.active.remove(&number) else { return };
        match &action {
            Action::Pause(..) | Action::Join(_) => {}
            Action::Clock(hosts, by) => hosts.iter().for_each(|host| self.world.step_clock(*host, -by)),
            Action::Part(_) => self.world.join(number as u64),
            Action::Down(hosts, _) | Action::Leave(hosts) => hosts.iter().for_each(|host| {
                if self.started[*host] && !self.world.runs(*host) && !self.is_down(*host) {
                    self.world.start(*host);
                }
            }),
            Action::Ail(who, how, _) => who.iter().for_each(|who| self.recover(*who, *how)),
            Action::Freeze(who) => {
                let still = |who: &&(HostIndex, u32)| {
                    let frozen =
                        |action: &Action| matches!(action, Action::Freeze(of) if of.binary_search(who).is_ok());
                    !self.active.values().any(frozen)
                };
                let over: Vec<(HostIndex, u32)> = who.iter().filter(still).copied().collect();
                over.into_iter().for_each(|(host, nth)| self.world.freeze(host, nth, false));
            }
            Action::Disarm(hosts) => hosts.iter().for_each(|host| self.world.disarm(*host, false)),
            Action::Cut(..) | Action::Pair(..) | Action::Switch(..) => self.cut(&action, false),
            Action::Slow(hosts, _) => self.settle(hosts),
            Action::Loss(hosts, ..) | Action::Disk(hosts) | Action::Sick(hosts) => self.settle(hosts),
        }
    }

    /// A fault of a container has ended; another one may hold it still.
    fn recover(&mut self, who: (HostIndex, u32), how: How) {
        let answers = |how: How| matches!(how, How::Wrong | How::Late(_));
        let same = |still: How| still.word() == how.word() || answers(still) && answers(how);
        #[allow(clippy::wildcard_enum_match_arm, reason = "only this one makes a container ail")]
        let still = self.active.values().find_map(|action| match action {
            Action::Ail(of, still, cure) if same(*still) && of.binary_search(&who).is_ok() => Some((*still, *cure)),
            _ => None,
        });
        match still {
            None => self.world.recover(who.0, who.1, how),
            Some((still, cure)) if answers(still) => self.world.ail(who.0, who.1, still, cure),
            Some(_) => {}
        }
    }

    /// The faults under way.
    pub(crate) fn active(&self) -> impl Iterator<Item = &Action> {
        self.active.values()
    }

    /// Whether a host was started, at some time.
    pub(crate) fn has_started(&self, host: HostIndex) -> bool {
        self.started[host]
    }

    fn is_down(&self, host: HostIndex) -> bool {
        let keeps_down =
            |action: &Action| matches!(action, Action::Down(hosts, _) | Action::Leave(hosts) if hosts.contains(&host));
        self.active.values().any(keeps_down)
    }

    fn cut(&mut self, action: &Action, cut: bool) {
        if let Action::Cut(hosts, uplinks, ways) = action {
            for host in hosts {
                for uplink in uplinks {
                    ways.iter().for_each(|way| self.world.cut_way(*host, *uplink, *way, cut));
                }
            }
        }
        if let Action::Pair(one, other, uplinks) = action {
            uplinks.iter().for_each(|uplink| self.world.cut_pair_over(*one, *other, *uplink, cut));
        }
        if let Action::Switch(rack, uplinks) = action {
            uplinks.iter().for_each(|uplink| self.world.cut_switch(*rack, *uplink, cut));
        }
    }

    /// The worst of what is active counts.
    fn settle(&mut self, hosts: &[HostIndex]) {
        for host in hosts.iter().copied() {
            let (mut slow, mut full, mut sick) = (Duration::ZERO, false, false);
            let mut losses = [[0.0_f64; 2]; 2];
            for action in self.active.values() {
                if let Action::Slow(hosts, by) = action
                    && hosts.contains(&host)
                {
                    slow = slow.max(by.0);
                }
                full |= matches!(action, Action::Disk(hosts) if hosts.contains(&host));
                sick |= matches!(action, Action::Sick(hosts) if hosts.contains(&host));
                if let Action::Loss(hosts, uplinks, ways, loss) = action
                    && hosts.contains(&host)
                {
                    for (uplink, way) in uplinks.iter().flat_map(|uplink| ways.iter().map(move |way| (uplink, way))) {
                        let worst = &mut losses[uplink.index()][*way as usize];
                        *worst = worst.max(*loss);
                    }
                }
            }
            self.world.slow(host, slow);
            self.world.fill_disk(host, full);
            self.world.sicken(host, sick);
            for uplink in ringmesh_proto::Uplink::BOTH {
                for way in Way::BOTH {
                    self.world.lose_way(host, uplink, way, losses[uplink.index()][way as usize]);
                }
            }
        }
    }
}

fn containers(scenario: &Scenario, host: HostIndex) -> Vec<ContainerSpec> {
    let second = Duration::from_secs(1);
    let service = |number: u16| ServiceSpec {
        interval: second,
        timeout: second / 2,
        threshold_down: 2,
        ..ServiceSpec::new(&format!("s{}", number + 1), Check::Tcp { address: ([127, 0, 0, 1], 80).into() })
    };
    let container = |number: u16| ContainerSpec {
        name: format!("{}-c{}", name(host), number + 1),
        driver: "oci".into(),
        tenant: String::new(),
        labels: Arc::default(),
        verbs: Verbs::default(),
        address: String::new(),
        score: None,
        member: false,
        services: (0..scenario.services).map(service).collect(),
    };
    (0..scenario.containers).map(container).collect()
}
