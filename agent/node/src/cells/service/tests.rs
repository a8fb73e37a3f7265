#![allow(clippy::unwrap_used)]

use bytes::{BufMut, BytesMut};

use super::{member::Representative, *};
use crate::health::spec::{Check, ServiceSpec};

const SECOND: Duration = Duration::from_secs(1);

fn spec(container: &str, services: &[&str]) -> ContainerSpec {
    let service = |name: &&str| ServiceSpec::new(name, Check::Tcp { address: ([127, 0, 0, 1], 80).into() });
    ContainerSpec {
        name: container.to_owned(),
        driver: "oci".into(),
        tenant: "acme".into(),
        services: services.iter().map(service).collect(),
        ..ContainerSpec::default()
    }
}

/// Hosts with one service, between which nothing is lost.
struct Hosts {
    hosts: Vec<ServiceCells>,
    now: Instant,
    sent: usize,
    silent: BTreeSet<String>,
}

impl Hosts {
    fn new(containers: &[usize]) -> Self {
        let mut hosts = Vec::new();
        for (host, containers) in containers.iter().enumerate() {
            let mut cells = ServiceCells::new(HostId::new(host as u32 + 1), 1, host as u64);
            (0..*containers).for_each(|number| cells.declare(&spec(&format!("h{}-c{number}", host + 1), &["web"])));
            hosts.push(cells);
        }
        let mut hosts = Self { hosts, now: Instant::ZERO, sent: 0, silent: BTreeSet::new() };
        let all: Vec<u32> = (1..=containers.len() as u32).collect();
        hosts.tell(&all);
        hosts
    }

    /// These hosts live.
    fn tell(&mut self, live: &[u32]) {
        let key = self.hosts[0].announced().next().unwrap();
        let hosts = BTreeMap::from([(key, live.iter().map(|host| HostId::new(*host)).collect())]);
        let now = self.now;
        self.hosts.iter_mut().for_each(|host| host.handle_hosts(now, &hosts));
    }

    fn run(&mut self, seconds: u64) {
        let silent = &self.silent;
        let voice = |name: &str| if silent.contains(name) { Voice::Silent } else { Voice::Speaks };
        for _ in 0..seconds {
            self.now += SECOND;
            for at in 0..self.hosts.len() {
                self.hosts[at].handle_timeout(self.now, voice);
            }
            let (mut moved, mut turns) = (true, 0);
            while std::mem::take(&mut moved) {
                turns += 1;
                assert!(turns < 100, "they come to rest");
                for at in 0..self.hosts.len() {
                    while let Some((to, payload)) = self.hosts[at].poll_transmit() {
                        moved = true;
                        self.sent += 1;
                        let from = HostId::new(at as u32 + 1);
                        self.hosts[to.raw() as usize - 1].handle_message(self.now, from, payload, voice).unwrap();
                    }
                }
            }
        }
    }

    /// Of the only cell.
    fn key(&self) -> u32 {
        *self.hosts[0].cells.keys().next().unwrap()
    }

    fn sizes(&self) -> Vec<(u32, u32)> {
        let show = |host: &ServiceCells| host.show("h", |id| id.to_string()).pop();
        self.hosts.iter().map(|host| show(host).map_or((0, 0), |cell| (cell.alive, cell.size))).collect()
    }
}

#[test]
fn hosts_with_a_service_find_each_other_with_three_representatives_each() {
    let mut hosts = Hosts::new(&[5, 1, 3]);
    hosts.run(120);
    assert_eq!(hosts.sizes(), [(7, 7); 3]);
    // A probe and an answer each, every ten seconds, when all know of all.
    let before = hosts.sent;
    hosts.run(1000);
    assert!((700..1600).contains(&(hosts.sent - before)), "{}", hosts.sent - before);
}

#[test]
fn of_many_hosts_each_sends_one() {
    let mut hosts = Hosts::new(&[3; 40]);
    hosts.run(600);
    assert_eq!(hosts.sizes(), [(40, 40); 40]);
}

#[test]
fn one_that_is_silent_is_lost_once_by_the_word_of_others_and_another_takes_its_place() {
    let mut hosts = Hosts::new(&[4, 2, 2]);
    hosts.run(120);
    hosts.silent.insert("h1-c1".into());
    hosts.run(120);
    let lost = hosts.hosts[0].poll_lost().unwrap();
    assert_eq!((&*lost.container, lost.service.as_str()), ("h1-c1", "web"));
    assert!(lost.accusers.iter().all(|host| [2, 3].contains(&host.raw())) && !lost.accusers.is_empty(), "{lost:?}");
    hosts.run(600);
    assert!(hosts.hosts.iter_mut().all(|host| host.poll_lost().is_none()));
    assert_eq!(hosts.sizes(), [(7, 7); 3]);
}

#[test]
fn a_host_that_is_down_takes_its_representatives_along_and_brings_them_back() {
    let mut hosts = Hosts::new(&[2, 2, 2]);
    hosts.run(120);
    hosts.tell(&[1, 2]);
    hosts.run(30);
    assert_eq!(hosts.sizes()[..2], [(4, 4); 2]);
    hosts.tell(&[1, 2, 3]);
    hosts.run(300);
    assert_eq!(hosts.sizes(), [(6, 6); 3], "{:#?}", hosts.hosts[2].show("h3", |id| id.to_string()));
    assert!(hosts.hosts.iter_mut().all(|host| host.poll_lost().is_none()));
}

#[test]
fn a_host_that_is_cut_off_or_paused_suspects_nobody() {
    let mut hosts = Hosts::new(&[2, 2, 2]);
    hosts.run(120);
    hosts.hosts[1].freeze(hosts.now, true);
    assert_eq!(hosts.hosts[1].poll_timeout(), None);
    let later = hosts.now + SECOND * 600;
    hosts.hosts[1].freeze(later, false);
    assert!(hosts.hosts[1].poll_timeout().is_some_and(|at| at > later && at <= later + PROBE_PERIOD));
}

#[test]
fn what_a_stranger_or_an_impostor_says_does_nothing() {
    let mut hosts = Hosts::new(&[1, 1, 1]);
    hosts.hosts[0].next_look = Some(Instant::ZERO);
    hosts.hosts[0].handle_timeout(hosts.now, |_| Voice::Speaks);
    let (to, payload) = hosts.hosts[0].poll_transmit().unwrap();
    let take = |cells: &mut ServiceCells, from, payload: &Bytes| {
        cells.handle_message(Instant::ZERO, HostId::new(from), payload.clone(), |_| Voice::Speaks)
    };
    let mut cells = Hosts::new(&[1, 1, 1]).hosts.swap_remove(to.raw() as usize - 1);
    assert_eq!(take(&mut cells, 9, &payload), Ok(()), "of no host of this cell");
    let other = if to.raw() == 3 { 2 } else { 3 };
    assert_eq!(take(&mut cells, other, &payload), Err(Refused::Spoofed));
    assert_eq!(take(&mut cells, 1, &payload.slice(..3)), Err(Refused::Malformed));
    assert_eq!(take(&mut cells, 1, &payload.slice(..5)), Err(Refused::Malformed));
    assert_eq!(take(&mut cells, 1, &Bytes::from_static(&[1, 2, 3, 4, 5])), Ok(()), "of no cell of ours");
}

#[test]
fn lives_of_ours_that_we_never_gave_are_not_believed() {
    let mut hosts = Hosts::new(&[2, 1, 1]);
    hosts.run(120);
    let member = |hosts: &Hosts, host: usize, slot| hosts.hosts[host].cells.values().next().unwrap().member(slot);
    let (ours, liar) = (member(&hosts, 0, 0), member(&hosts, 2, 0));
    let key = hosts.key();
    let forged = Representative { born: 9, ..member(&hosts, 0, 1) };
    for (from, src) in [(3, liar), (1, forged)] {
        let mut message = BytesMut::new();
        message.put_u32(key);
        message.put_slice(&filter::gossip(&src, &ours, &foca::Member::alive(forged)).unwrap());
        let taken = hosts.hosts[0].handle_message(hosts.now, HostId::new(from), message.freeze(), |_| Voice::Speaks);
        assert_eq!(taken, if from == 1 { Err(Refused::Spoofed) } else { Ok(()) });
    }
    hosts.run(60);
    assert_eq!((member(&hosts, 0, 1).life, hosts.sizes()), (2, vec![(4, 4); 3]), "nobody had to begin another life");
}

#[test]
fn one_that_others_will_not_hear_begins_another_life_once_in_a_while() {
    let mut hosts = Hosts::new(&[1, 1, 1]);
    hosts.run(120);
    // h2 believes of h1's that it lives a life which it cannot come to by counting.
    let member = |hosts: &Hosts, host: usize| hosts.hosts[host].cells.values().next().unwrap().member(0);
    let (one, other, liar) = (member(&hosts, 0), member(&hosts, 1), member(&hosts, 2));
    let mut message = BytesMut::new();
    message.put_u32(hosts.key());
    let forged = foca::Member::alive(Representative { born: 9, ..one });
    message.put_slice(&filter::gossip(&liar, &other, &forged).unwrap());
    let now = hosts.now;
    hosts.hosts[1].handle_message(now, HostId::new(3), message.freeze(), |_| Voice::Speaks).unwrap();
    hosts.run(60);
    let lives = member(&hosts, 0).life - one.life;
    assert!((1..=7).contains(&lives), "{lives}");
}

#[test]
fn of_too_many_services_all_hosts_choose_the_same() {
    let names: Vec<String> = (0..20).map(|number| format!("s{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut one = ServiceCells::new(HostId::new(1), 1, 1);
    one.declare(&spec("a", &names));
    let mut other = ServiceCells::new(HostId::new(2), 1, 2);
    names.iter().rev().for_each(|name| other.declare(&spec("b", &[name])));
    assert_eq!((one.announced().count(), one.left_out()), (MAX_SERVICES, 4));
    assert!(one.announced().eq(other.announced()));
}

#[test]
fn a_service_is_the_same_for_the_same_tenant_application_and_name() {
    let plain = spec("a", &[]);
    let of = |tenant: &str, app: Option<&str>, service| {
        let labels = Arc::new(app.map(|app| ("app".to_owned(), app.to_owned())).into_iter().collect());
        key(&ContainerSpec { tenant: tenant.into(), labels, ..plain.clone() }, service)
    };
    assert_eq!(of("acme", Some("shop"), "web"), of("acme", Some("shop"), "web"));
    let others = [
        of("acme", None, "web"),
        of("acme", Some("shop"), "db"),
        of("", Some("shop"), "web"),
        of("acmeshop", None, "web"),
    ];
    let all: BTreeSet<u32> = others.into_iter().chain([of("acme", Some("shop"), "web")]).collect();
    assert_eq!(all.len(), 5);
    let labels = Arc::new(BTreeMap::from([("app".to_owned(), "shop".to_owned())]));
    assert_eq!(full_name(&ContainerSpec { tenant: String::new(), labels, ..plain }, "web"), "shop/web");
}
