use std::{sync::Arc, time::Duration};

use rand::{SeedableRng, rngs::StdRng};
use ringmesh_proto::{
    UnixMillis,
    peer::{OrderRequest, order_request::Order},
    v1::{Arming, DecideOperationRequest, OrderContainerRequest, OrderHostRequest, arming, operation::Kind},
};

use super::*;
use crate::health::spec::{Check, ContainerState, ContainerStatus, ProbeReply, Purpose, ServiceSpec, Sign, Verbs};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const WEB: u16 = 80;
/// Whoever has not answered after that is given up.
const MAX_PATIENCE: Duration = Duration::from_secs(100);

/// Health and repair of one host, and a runtime that does what it is told.
struct Bench {
    now: Now,
    health: Health,
    remedy: Remedy,
    settings: Settings,
    /// Services that answer wrongly, by port.
    bad: BTreeSet<u16>,
    /// What makes the service of a container answer rightly.
    cure: Option<&'static str>,
    /// Acts fail with this.
    broken: Option<Failure>,
    /// Acts are not carried out.
    stuck: bool,
    full: bool,
    isolated: bool,
    zone: Share,
    events: Vec<v1::Event>,
    acts: Vec<String>,
    kept: Arc<RepairState>,
}

fn spec(name: &str, port: u16, verbs: bool, restart: bool) -> ContainerSpec {
    ContainerSpec {
        name: name.into(),
        driver: if verbs { "oci" } else { "declared" }.into(),
        tenant: "red".into(),
        labels: Arc::new([("app".to_owned(), name.to_owned())].into()),
        verbs: Verbs { restart: verbs, clone: verbs, pause: verbs, mount: verbs },
        address: "10.1.3.2/24".into(),
        score: None,
        member: false,
        services: vec![ServiceSpec {
            interval: SECOND,
            timeout: SECOND / 2,
            threshold_down: 2,
            restart: if restart { vec!["restart".into(), port.to_string()] } else { Vec::new() },
            ..ServiceSpec::new("http", Check::Tcp { address: ([127, 0, 0, 1], port).into() })
        }],
    }
}

fn step(rung: Rung, attempts: u32) -> Step {
    Step { rung, attempts, timeout: SECOND * 5, back_off: SECOND }
}

fn settings() -> Settings {
    let steps = vec![
        step(Rung::RestartService, 1),
        step(Rung::RestartContainer, 2),
        step(Rung::Clone, 1),
        step(Rung::Freeze, 1),
    ];
    Settings { default: Policy { steps, ..Policy::default() }, ..Settings::default() }
}

fn many(count: u16) -> Vec<ContainerSpec> {
    (0..count).map(|n| spec(&format!("c{n:02}"), 1000 + n, true, false)).collect()
}

impl Bench {
    fn new(settings: Settings, containers: Vec<ContainerSpec>) -> Self {
        let now = Now { instant: Instant::ZERO + SECOND, unix: UnixMillis(1_700_000_000_000) };
        let mut bench = Self {
            now,
            health: Health::new(now.instant, "h1", containers, StdRng::seed_from_u64(1)),
            remedy: Remedy::new(now, HostId::new(1), 1, settings.clone(), RepairState::default()),
            settings,
            bad: BTreeSet::new(),
            cure: None,
            broken: None,
            stuck: false,
            full: false,
            isolated: false,
            zone: Share::default(),
            events: Vec::new(),
            acts: Vec::new(),
            kept: Arc::default(),
        };
        bench.start_all();
        bench.run(SECOND * 3);
        assert!(bench.acts.is_empty());
        bench
    }

    fn web() -> Self {
        Self::new(settings(), vec![spec("web", WEB, true, true), spec("other", 81, true, true)])
    }

    fn start_all(&mut self) {
        for name in self.names() {
            self.state(&name, ContainerState::Running);
        }
    }

    fn names(&mut self) -> Vec<String> {
        self.health.containers().iter().map(|container| container.spec.name.clone()).collect()
    }

    fn state(&mut self, name: &str, state: ContainerState) {
        let status = ContainerStatus { name: name.into(), state, ..ContainerStatus::default() };
        self.remedy.note_status(&status);
        self.health.handle_status(self.now, status);
        self.turn();
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Remedy, Now, &Around<'_>) -> T) -> T {
        let zone = self.zone;
        let around = Around { health: &self.health, isolated: self.isolated, zone: &|| zone };
        act(&mut self.remedy, self.now, &around)
    }

    fn order(&mut self, order: Order) -> Result<Operation, Refused> {
        let order = OrderRequest { order: Some(order), who: "me".into(), nonce: 0 };
        let taken = self.with(|remedy, now, around| remedy.obey(now, around, order));
        self.turn();
        taken
    }

    fn container(&mut self, kind: Kind, container: &str) -> Result<Operation, Refused> {
        let container = container.to_owned();
        self.order(Order::Container(OrderContainerRequest { kind: kind as i32, container, ..Default::default() }))
    }

    fn container_host(&mut self, kind: Kind) {
        self.order(Order::Host(OrderHostRequest { kind: kind as i32, ..Default::default() })).expect("it makes sense");
    }

    /// As the node does it.
    fn turn(&mut self) {
        loop {
            while let Some(name) = self.health.poll_touched() {
                self.with(|remedy, now, around| remedy.assess(now, around, &name));
            }
            self.with(|remedy, now, around| remedy.settle(now, around));
            let mut some = false;
            while let Some(effect) = self.remedy.poll_effect() {
                some = true;
                self.carry_out(effect);
            }
            if let Some((version, state)) = self.remedy.poll_keep() {
                some = true;
                let result = if self.full { Err("the disk is full".to_owned()) } else { Ok(()) };
                if result.is_ok() {
                    self.kept = state;
                }
                self.with(|remedy, now, around| remedy.handle_kept(now, around, version, &result));
            }
            if !some {
                return;
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Act { operation, act } => self.act(&operation, act),
            Effect::Exec(request) => {
                let Check::Exec { argv } = &*request.check else { panic!("{request:?}") };
                assert_eq!(request.id.purpose(), Some(Purpose::Command));
                self.acts.push("restart-service".into());
                if self.stuck {
                    return;
                }
                if self.cure == Some("restart-service") {
                    self.bad.remove(&argv[1].parse().expect("the port"));
                }
                let reply = ProbeReply { id: request.id, sign: Sign::Right, answer: String::new(), latency: MS };
                self.with(|remedy, now, around| remedy.handle_exec(now, around, request.id, Some(&reply)));
            }
            Effect::Tell(event) => self.events.push(*event),
            Effect::Note { container, what } => self.health.note_repair(self.now, &container, &what),
            Effect::Mark { container, marks } => self.health.mark(self.now, &container, marks),
            Effect::Replace { old, spec } => self.health.replace(self.now.instant, &old, *spec),
            Effect::Status(status) => self.health.handle_status(self.now, *status),
            Effect::Unjudge { container } => self.health.unjudge(self.now, &container),
            Effect::Hurry { container, after } => self.health.hurry(self.now.instant, &container, after),
            Effect::Record => {}
        }
    }

    fn act(&mut self, operation: &str, act: Act) {
        let (word, name, state) = match &act {
            Act::Restart { container } => ("restart-container", container.clone(), ContainerState::Running),
            Act::Clone { to, .. } => ("clone", to.clone(), ContainerState::Running),
            Act::Freeze { container } => ("freeze", container.clone(), ContainerState::Paused),
            Act::Release { container } => ("release", container.clone(), ContainerState::Running),
        };
        self.acts.push(match &act {
            Act::Clone { container, to, address } => {
                format!("clone {container} {to} {}", address.as_deref().unwrap_or("-"))
            }
            Act::Restart { .. } | Act::Freeze { .. } | Act::Release { .. } => format!("{word} {name}"),
        });
        if self.stuck {
            return;
        }
        let result = self.broken.clone().map_or(Ok(()), Err);
        if result.is_ok() {
            if self.cure == Some(word) {
                self.bad.clear();
            }
            let status = ContainerStatus { name, state, ..ContainerStatus::default() };
            self.health.handle_status(self.now, status);
        }
        self.with(|remedy, now, around| remedy.handle_done(now, around, operation, result));
    }

    /// Lets time go by.
    fn run(&mut self, span: Duration) {
        let end = self.now.instant + span;
        while self.now.instant < end {
            let due = [self.health.poll_timeout(), self.remedy.poll_timeout()].into_iter().flatten().min();
            let next = due.unwrap_or(end).max(self.now.instant + MS).min(end);
            self.now.unix.0 += next.since(self.now.instant).as_millis() as u64;
            self.now.instant = next;
            for request in self.health.handle_timeout(next, 64) {
                let Check::Tcp { address } = *request.check else { panic!("{request:?}") };
                let success = !self.bad.contains(&address.port());
                let answer = if success { "fine" } else { "connection refused" }.to_owned();
                self.health
                    .handle_reply(self.now, ProbeReply { id: request.id, sign: success.into(), answer, latency: MS });
            }
            self.turn();
        }
    }

    /// Another life of the agent, of which the containers notice nothing.
    fn restart_agent(&mut self, containers: Vec<ContainerSpec>) {
        self.health = Health::new(self.now.instant, "h1", containers, StdRng::seed_from_u64(2));
        let left = RepairState::clone(&self.kept);
        self.remedy = Remedy::new(self.now, HostId::new(1), 2, self.settings.clone(), left);
        self.turn();
    }

    fn kinds(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.kind.as_str()).collect()
    }

    fn open(&self) -> Vec<Operation> {
        self.remedy.operations.open().cloned().collect()
    }

    fn told(&self, kind: &str) -> usize {
        self.events.iter().filter(|event| event.kind == kind).count()
    }
}

#[test]
fn the_ladder_is_climbed_to_its_end_and_the_container_frozen() {
    let mut bench = Bench::web();
    bench.bad.insert(WEB);
    bench.run(SECOND * 60);
    assert_eq!(
        bench.acts,
        ["restart-service", "restart-container web", "restart-container web", "clone web web.1 -", "freeze web.1"]
    );
    assert!(bench.remedy.is_held("web.1"));
    assert_eq!(bench.told("operation-failed"), 4);
    let last = bench.events.last().expect("events");
    assert_eq!((last.kind.as_str(), last.container.as_str()), ("operation-done", "web.1"));
    let failed = bench.events.iter().find(|event| event.kind == "operation-failed").expect("told");
    assert!(failed.text.contains("http is critical: connection refused"), "{}", failed.text);
    let frozen = bench
        .health
        .containers()
        .iter()
        .map(|row| row.show())
        .find(|container| container.name == "web.1")
        .expect("shown");
    assert!(frozen.frozen && frozen.hold.as_ref().is_some_and(|hold| hold.who == "repair"));
    // Frozen: nothing more happens.
    bench.run(SECOND * 600);
    assert_eq!(bench.acts.len(), 5);
    assert_eq!(bench.health.digest().frozen, 1);
}

#[test]
fn what_helps_ends_the_ladder_and_a_relapse_goes_on_where_it_was() {
    let mut bench = Bench::web();
    bench.cure = Some("restart-container");
    bench.bad.insert(WEB);
    bench.run(SECOND * 30);
    assert_eq!(bench.acts, ["restart-service", "restart-container web"]);
    bench.bad.insert(WEB);
    bench.run(SECOND * 30);
    assert_eq!(bench.acts[2..], ["restart-container web"]);
    // It was well for long enough: from the foot again.
    bench.run(SECOND * 600);
    bench.bad.insert(WEB);
    bench.run(SECOND * 30);
    assert_eq!(bench.acts[3..], ["restart-service", "restart-container web"]);
}

#[test]
fn what_was_done_is_in_the_histories_which_a_clone_takes_over() {
    use ringmesh_proto::v1::history::behaviour::Kind;
    let mut bench = Bench::web();
    bench.cure = Some("clone");
    bench.run(SECOND * 10);
    let before = bench.health.histories(bench.now.unix, "web", "http").remove(0);
    bench.health.take_all(bench.now);
    bench.bad.insert(WEB);
    bench.run(SECOND * 60);
    assert_eq!(bench.health.histories(bench.now.unix, "web", "http"), []);
    let history = bench.health.histories(bench.now.unix, "web.1", "http").remove(0);
    assert_eq!(history.since, before.since, "it goes on");
    let repairs = history.changes.iter().filter(|change| change.kind() == Kind::Repair);
    let causes: Vec<&str> = repairs.map(|change| change.cause.as_str()).collect();
    let began = |begin: &str| causes.iter().filter(|cause| cause.starts_with(begin)).count();
    assert_eq!(began("started: restart of http in web; "), 1, "{causes:?}");
    assert_eq!(began("failed: restart of web: "), 2, "{causes:?}");
    assert_eq!((began("started: clone of web as web.1"), began("done: clone of web as web.1")), (1, 1), "{causes:?}");
    assert!(causes[0].contains("http is critical: connection refused"), "{causes:?}");
    // On disk it is under its new name alone.
    let shards = bench.health.take_all(bench.now);
    let names: Vec<&str> = shards.iter().flat_map(|(_, of)| of).map(|record| record.container.as_str()).collect();
    assert!(names.contains(&"web.1") && !names.contains(&"web"), "{names:?}");
    assert_eq!(shards.iter().filter(|(_, of)| of.is_empty()).count(), 1, "the shard of the old name is written, too");
}

#[test]
fn a_service_that_is_damped_and_does_not_answer_is_not_well() {
    let mut bench = Bench::web();
    bench.remedy.settings.default.mode = Mode::Off;
    for _ in 0..5 {
        bench.bad.insert(WEB);
        bench.run(SECOND * 4);
        bench.bad.clear();
        bench.run(SECOND * 4);
    }
    let well = |bench: &Bench| bench.health.condition("web").expect("it is there").well;
    let flaps = |bench: &mut Bench| {
        bench.health.services().iter().map(|row| row.show()).any(|of| of.container == "web" && of.flapping)
    };
    assert!(flaps(&mut bench) && well(&bench), "it answers");
    bench.bad.insert(WEB);
    bench.run(SECOND * 4);
    assert!(flaps(&mut bench) && !well(&bench));
    bench.bad.clear();
    bench.run(SECOND * 4);
    bench.health.unjudge(bench.now, "web");
    assert!(!well(&bench), "what is made anew must answer first");
}

#[test]
fn a_container_that_stopped_is_restarted_whatever_its_services() {
    let mut bench = Bench::web();
    bench.state("web", ContainerState::Stopped);
    assert_eq!(bench.acts, ["restart-container web"]);
    let operation = &bench.remedy.operations()[0];
    assert!(operation.reason.contains("restart-service is left out, the container does not run"), "{operation:?}");
    bench.run(SECOND * 2);
    assert_eq!(bench.told("operation-done"), 1);
}

#[test]
fn a_driver_without_verbs_has_only_what_is_left() {
    let mut bench = Bench::new(settings(), vec![spec("web", WEB, false, false), spec("other", 81, true, true)]);
    bench.bad.insert(WEB);
    bench.run(SECOND * 10);
    assert!(bench.acts.is_empty() && bench.open().is_empty());
    assert_eq!(bench.told("repair-exhausted"), 1, "a freeze would only end its probes");
    bench.bad.clear();
    bench.run(SECOND * 2);
    bench.bad.insert(WEB);
    bench.run(SECOND * 10);
    assert_eq!(bench.told("repair-exhausted"), 2, "it is watched all the time");
    // By order it is held.
    let freeze = bench.container(Kind::Freeze, "web").expect("it can be held");
    let freeze = bench.remedy.operations.get(&freeze.id).cloned().expect("it is kept");
    assert!(freeze.progress.contains("it runs on"), "{freeze:?}");
}

#[test]
fn nothing_is_done_on_the_word_of_a_host_that_is_cut_off_or_was_paused() {
    let mut bench = Bench::web();
    bench.isolated = true;
    bench.turn();
    bench.bad.insert(WEB);
    bench.run(SECOND * 60);
    assert!(bench.acts.is_empty() && bench.open().is_empty());
    bench.isolated = false;
    bench.turn();
    bench.run(SECOND * 4);
    assert!(bench.acts.is_empty(), "verdicts are made anew first");
    bench.run(SECOND * 4);
    assert_eq!(bench.acts, ["restart-service"]);

    let mut bench = Bench::web();
    bench.cure = Some("restart-service");
    let now = bench.now.instant;
    bench.remedy.distrust(now);
    bench.bad.insert(WEB);
    bench.run(SECOND * 4);
    assert!(bench.acts.is_empty());
    bench.run(SECOND * 4);
    assert_eq!(bench.acts, ["restart-service"]);
}

#[test]
fn manual_repair_is_proposed_approved_and_rejected() {
    let mut settings = settings();
    let manual = Policy { mode: Mode::Manual, ..settings.default.clone() };
    settings.policies.push(([("app".to_owned(), "web".to_owned())].into(), manual));
    let mut bench = Bench::new(settings, vec![spec("web", WEB, true, true), spec("other", 81, true, true)]);
    bench.bad.insert(WEB);
    bench.run(SECOND * 60);
    assert!(bench.acts.is_empty());
    assert_eq!(bench.kinds(), ["operation-proposed"]);
    let proposed = bench.open().remove(0);
    assert_eq!((proposed.state(), proposed.kind()), (State::Proposed, Kind::RestartService));

    let decide = |id: &str, approve| {
        Order::Decide(DecideOperationRequest { id: id.to_owned(), approve, ..DecideOperationRequest::default() })
    };
    bench.order(decide(&proposed.id, true)).expect("it may be approved");
    assert_eq!(bench.acts, ["restart-service"]);
    assert_eq!(bench.order(decide(&proposed.id, true)).expect_err("once").code, Code::Precondition);
    bench.run(SECOND * 10);
    let next = bench.open().remove(0);
    assert_eq!((next.state(), next.kind()), (State::Proposed, Kind::RestartContainer));
    bench.order(decide(&next.id, false)).expect("it may be rejected");
    bench.run(SECOND * 60);
    assert_eq!(bench.acts.len(), 1);
    assert!(bench.open().is_empty(), "it is left alone");

    bench.bad.clear();
    bench.run(SECOND * 3);
    bench.bad.insert(WEB);
    bench.run(SECOND * 10);
    assert_eq!(bench.open().len(), 1, "it was well meanwhile");
    bench.bad.clear();
    bench.run(SECOND * 3);
    assert!(bench.open().is_empty());
    let last = bench.events.last().expect("told");
    assert!(last.kind == "operation-refused" && last.text.contains("well again by itself"), "{last:?}");
}

#[test]
fn a_mass_failure_stops_repair_with_one_alarm_and_it_goes_on_by_itself() {
    let mut bench = Bench::new(settings(), many(20));
    bench.stuck = true;
    bench.bad.extend(1000..1015);
    bench.run(SECOND * 10);
    assert!(bench.acts.len() <= 4, "at most so many at once: {:?}", bench.acts);
    assert_eq!(bench.told("repair-stopped"), 1, "{:?}", bench.kinds());
    assert_eq!(bench.told("operation-proposed"), 0, "one alarm is enough");
    let proposed = bench.open().iter().filter(|operation| operation.state() == State::Proposed).count();
    assert_eq!(proposed, 15 - bench.acts.len());
    let stopped = bench.events.iter().find(|event| event.kind == "repair-stopped").expect("told");
    assert!(stopped.text.contains("of 20 containers of this host are sick, more than 40 %"), "{}", stopped.text);

    let before = bench.acts.len();
    bench.stuck = false;
    bench.bad.retain(|port| *port >= 1012);
    bench.run(SECOND * 8);
    assert_eq!(bench.told("repair-resumed"), 1);
    bench.run(SECOND * 200);
    assert!(bench.acts.len() > before, "what is still sick is repaired then");
    assert!(bench.open().is_empty(), "{:?}", bench.open());
}

#[test]
fn budgets_of_a_container_and_of_the_zone_hold() {
    let mut settings = settings();
    settings.limits = Limits { container_actions: 1, window: SECOND * 60, ..Limits::default() };
    let mut bench = Bench::new(settings, vec![spec("web", WEB, true, true), spec("other", 81, true, true)]);
    bench.bad.insert(WEB);
    bench.run(SECOND * 30);
    assert_eq!(bench.acts, ["restart-service"]);
    assert_eq!(bench.told("operation-proposed"), 1);
    bench.run(SECOND * 40);
    assert_eq!(bench.acts, ["restart-service", "restart-container web"], "the budget is there again");

    let mut bench = Bench::web();
    bench.zone = Share { sick: 50, of: 100 };
    bench.bad.insert(WEB);
    bench.run(SECOND * 30);
    assert!(bench.acts.is_empty());
    bench.zone = Share::default();
    bench.run(SECOND * 2);
    assert_eq!(bench.acts, ["restart-service"]);
}

#[test]
fn a_frozen_container_is_left_alone_until_its_hold_ends() {
    let mut bench = Bench::web();
    let lasts = prost_types::Duration { seconds: 60, nanos: 0 };
    let order = OrderContainerRequest {
        kind: Kind::Freeze as i32,
        container: "web".into(),
        reason: "a leak".into(),
        lasts: Some(lasts),
        ..OrderContainerRequest::default()
    };
    let freeze = bench.order(Order::Container(order)).expect("it can be frozen");
    assert_eq!(bench.remedy.operations.get(&freeze.id).map(Operation::state), Some(State::Done));
    bench.bad.insert(WEB);
    bench.run(SECOND * 50);
    assert_eq!(bench.acts, ["freeze web"]);
    let refused = bench.container(Kind::RestartContainer, "web").expect_err("it is frozen");
    assert!(refused.code == Code::Precondition && refused.text.contains("frozen by me"), "{refused:?}");

    // It stays frozen over a restart of the agent, which still knows when it ends.
    bench.restart_agent(vec![spec("web", WEB, true, true), spec("other", 81, true, true)]);
    bench.state("other", ContainerState::Running);
    bench.state("web", ContainerState::Paused);
    assert!(
        bench
            .health
            .containers()
            .iter()
            .map(|row| row.show())
            .any(|container| container.name == "web" && container.frozen)
    );
    bench.bad.clear();
    bench.run(SECOND * 20);
    assert_eq!(bench.acts, ["freeze web", "release web"]);
    let released = bench.remedy.operations().last().cloned().expect("an operation");
    assert_eq!((released.kind(), released.state(), released.automatic), (Kind::Release, State::Done, true));
    let refused = bench.container(Kind::Release, "web").expect_err("it is not");
    assert_eq!(refused.text, "web is not frozen");
}

#[test]
fn a_freeze_stops_a_ladder_in_the_middle() {
    let mut bench = Bench::web();
    bench.bad.insert(WEB);
    bench.run(SECOND * 3);
    assert_eq!(bench.acts, ["restart-service"]);
    bench.container(Kind::Freeze, "web").expect("it can be frozen");
    bench.run(SECOND * 60);
    assert_eq!(bench.acts, ["restart-service", "freeze web"]);
    assert!(bench.open().is_empty(), "{:?}", bench.open());
    bench.container(Kind::Release, "web").expect("it is frozen");
    bench.run(SECOND * 4);
    assert_eq!(bench.acts[2..], ["release web", "restart-service"], "from the foot");
}

#[test]
fn a_drained_host_and_a_disarmed_cluster_only_propose() {
    let mut bench = Bench::web();
    bench.cure = Some("restart-service");
    let host = |kind: Kind| Order::Host(OrderHostRequest { kind: kind as i32, ..OrderHostRequest::default() });
    bench.order(host(Kind::Drain)).expect("it can be drained");
    bench.bad.insert(WEB);
    bench.run(SECOND * 20);
    assert!(bench.acts.is_empty());
    assert_eq!(bench.open().len(), 1);
    bench.order(host(Kind::Undrain)).expect("it is drained");
    bench.run(SECOND);
    assert_eq!(bench.acts, ["restart-service"]);
    bench.run(SECOND * 3);

    let arming =
        |version, mode: arming::Mode| ArmingRecord { version, host: 9, mode: mode as u32, ..Default::default() };
    let now = bench.now;
    assert!(bench.remedy.learn_arming(now, &arming(5, arming::Mode::Ignore)));
    assert!(!bench.remedy.learn_arming(now, &arming(4, arming::Mode::Armed)), "an older one");
    bench.bad.insert(WEB);
    bench.run(SECOND * 60);
    assert_eq!((bench.acts.len(), bench.open().len()), (1, 0));
    let Arming { mode, .. } = bench.remedy.show_arming(bench.now);
    assert_eq!(mode, arming::Mode::Ignore as i32);
    let now = bench.now;
    assert!(bench.remedy.learn_arming(now, &arming(6, arming::Mode::Armed)));
    bench.turn();
    assert_eq!(bench.acts.len(), 2);
}

#[test]
fn orders_are_obeyed_once_and_what_makes_no_sense_is_refused() {
    let mut bench = Bench::web();
    let order = |container: &str, kind: Kind, nonce| OrderRequest {
        order: Some(Order::Container(OrderContainerRequest {
            kind: kind as i32,
            container: container.into(),
            ..OrderContainerRequest::default()
        })),
        who: "me".into(),
        nonce,
    };
    let mut give = |order: OrderRequest| {
        let taken = bench.with(|remedy, now, around| remedy.obey(now, around, order));
        bench.turn();
        taken
    };
    let first = give(order("web", Kind::RestartContainer, 7)).expect("it can be restarted");
    let second = give(order("web", Kind::RestartContainer, 7)).expect("the same");
    assert_eq!(first.id, second.id);
    assert_eq!(give(order("web", Kind::RestartContainer, 8)).expect_err("it is under way").code, Code::Busy);
    assert_eq!(give(order("none", Kind::RestartContainer, 9)).expect_err("there is none").code, Code::NotFound);
    assert_eq!(give(order("web", Kind::Drain, 10)).expect_err("no order for one").code, Code::Invalid);
    assert_eq!(bench.acts, ["restart-container web"]);
    bench.run(SECOND * 2);
    assert_eq!(bench.remedy.operations.get(&first.id).map(Operation::state), Some(State::Done));
    assert_eq!(bench.remedy.operations.get(&first.id).map(|o| o.progress.clone()), Some("it is well".into()));
}

#[test]
fn a_clone_gets_an_address_of_its_tenants_pool_and_gives_it_back() {
    let mut settings = settings();
    let network = "10.1.3.64".parse().expect("an address");
    let reserved = ["10.1.3.65".parse().expect("an address")].into();
    settings.pools.push(Pool { tenant: "red".into(), network, length: 30, reserved });
    let mut bench = Bench::new(settings, vec![spec("web", WEB, true, true), spec("other", 81, true, true)]);
    bench.container(Kind::Clone, "web").expect("it can be cloned");
    bench.run(SECOND * 2);
    bench.container(Kind::Clone, "other").expect("it can be cloned");
    bench.run(SECOND * 2);
    assert_eq!(bench.acts, ["clone web web.1 10.1.3.66/24", "clone other other.1 -"], "the pool is empty");
    assert_eq!(bench.names(), ["other.1", "web.1"]);
    assert_eq!(bench.kept.instances["web"].name, "web.1");
    assert_eq!(bench.kept.instances["web"].replaces, "", "that is gone");
}

/// The daemon dies: what was begun in that moment was no attempt, and nothing is begun until it is back.
#[test]
fn what_nobody_can_do_waits_for_who_does_it() {
    let mut bench = Bench::web();
    bench.broken = Some(Failure { text: "no daemon".into(), removed: false, unreachable: true });
    bench.cure = Some("restart-container");
    bench.bad.insert(WEB);
    bench.state("web", ContainerState::Stopped);
    assert_eq!(bench.acts, ["restart-container web"]);
    let unreachable = |state| ContainerStatus { name: "web".into(), state, unreachable: true, ..Default::default() };
    bench.health.handle_status(bench.now, unreachable(ContainerState::Stopped));
    bench.run(SECOND * 600);
    assert_eq!(bench.acts, ["restart-container web"], "it waits");
    assert!(!bench.remedy.is_held("web"));
    bench.broken = None;
    bench.state("web", ContainerState::Stopped);
    bench.run(SECOND * 5);
    assert_eq!(bench.acts, ["restart-container web"; 2], "the same attempt");
    assert!(bench.health.condition("web").is_some_and(|web| web.well));

    // A restart command needs nobody.
    bench.cure = Some("restart-service");
    bench.run(SECOND * 3600);
    bench.health.handle_status(bench.now, unreachable(ContainerState::Running));
    bench.bad.insert(WEB);
    bench.run(SECOND * 60);
    assert_eq!(bench.acts[2..], ["restart-service"]);
    assert!(bench.bad.is_empty());
}

#[test]
fn what_cannot_be_written_down_is_not_begun_and_waits_for_room() {
    let mut bench = Bench::web();
    bench.full = true;
    let restart = bench.container(Kind::RestartContainer, "other").expect("it can be tried");
    bench.run(SECOND);
    let restart = bench.remedy.operations.get(&restart.id).cloned().expect("it is kept");
    let expected = "not begun, because it cannot be written down: the disk is full";
    assert_eq!((restart.state(), &*restart.progress), (State::Failed, expected));
    bench.cure = Some("restart-container");
    bench.bad.insert(WEB);
    bench.run(SECOND * 600);
    assert_eq!(bench.acts, ["restart-service"], "that needs no disk, and all else waits");
    let failed = bench.events.iter().filter(|event| event.kind == "operation-failed");
    assert_eq!(failed.count(), 2, "{:?}", bench.events);
    assert!(!bench.remedy.is_held("web"));
    bench.full = false;
    bench.run(SECOND * 5);
    assert_eq!(bench.acts, ["restart-service", "restart-container web"]);
    assert!(bench.health.condition("web").is_some_and(|web| web.well));
}

#[test]
fn an_order_in_the_middle_of_a_clone_is_told_to_wait() {
    let mut bench = Bench::web();
    bench.stuck = true;
    let clone = bench.container(Kind::Clone, "web").expect("it can be cloned");
    for (kind, name) in [(Kind::Freeze, "web"), (Kind::Freeze, "web.1"), (Kind::RestartContainer, "web.1")] {
        let refused = bench.container(kind, name).expect_err("it is neither the one nor the other");
        assert_eq!(refused.code, Code::Busy);
        let expected = format!(
            "the clone of web as web.1 is under way; wait for it, then order it of what is there: ringmesh operation wait {}",
            clone.id
        );
        assert_eq!(refused.text, expected);
    }
    bench.run(SECOND * 100);
    assert_eq!(bench.container(Kind::Freeze, "web.1").expect_err("the runtime still works on it").code, Code::Busy);
}

#[test]
fn a_clone_that_cannot_be_made_changes_nothing() {
    let mut bench = Bench::web();
    bench.broken = Some(Failure { text: "it hangs".into(), removed: false, unreachable: false });
    let clone = bench.container(Kind::Clone, "web").expect("it can be tried");
    bench.run(SECOND);
    assert_eq!(bench.remedy.operations.get(&clone.id).map(Operation::state), Some(State::Failed));
    assert_eq!(bench.names(), ["other", "web"]);
    assert!(bench.kept.instances.is_empty());
    assert!(bench.health.condition("web").is_some_and(|web| web.well), "it is watched as before");

    // What its runtime says meanwhile is not lost: it was killed, and could not be removed.
    let mut bench = Bench::web();
    bench.stuck = true;
    let clone = bench.container(Kind::Clone, "web").expect("it can be tried");
    bench.state("web", ContainerState::Stopped);
    let failure = Failure { text: "it hangs".into(), removed: false, unreachable: false };
    bench.with(|remedy, now, around| remedy.handle_done(now, around, &clone.id, Err(failure)));
    bench.stuck = false;
    bench.run(SECOND);
    assert_eq!(bench.acts.last().map(String::as_str), Some("restart-container web"), "{:?}", bench.acts);

    // Nor one that cannot be written down: after a crash nobody would know of it.
    let mut bench = Bench::web();
    bench.full = true;
    let clone = bench.container(Kind::Clone, "web").expect("it can be tried");
    bench.run(SECOND);
    assert!(bench.acts.is_empty());
    let clone = bench.remedy.operations.get(&clone.id).cloned().expect("it is kept");
    assert!(clone.state() == State::Failed && clone.progress.contains("the disk is full"), "{clone:?}");
    assert_eq!(bench.names(), ["other", "web"]);
    assert!(bench.health.condition("web").is_some_and(|web| web.well), "it is watched as before");
    bench.full = false;
    bench.bad.insert(WEB);
    bench.run(SECOND * 20);
    assert_eq!(bench.acts[..2], ["restart-service", "restart-container web"], "and repaired");
}

#[test]
fn a_clone_that_is_made_too_late_or_not_at_all_has_its_place_or_leaves_it() {
    for removed in [true, false] {
        let mut bench = Bench::web();
        bench.stuck = true;
        let clone = bench.container(Kind::Clone, "web").expect("it can be tried");
        bench.run(MAX_PATIENCE);
        assert_eq!(bench.remedy.operations.get(&clone.id).map(Operation::state), Some(State::Failed));
        assert_eq!(bench.kept.instances["web"].replaces, "web", "that it is gone nobody has said");
        let failure = Failure { text: "it hung".into(), removed, unreachable: false };
        bench.with(|remedy, now, around| remedy.handle_done(now, around, &clone.id, Err(failure)));
        bench.turn();
        assert_eq!(bench.names(), ["other", if removed { "web.1" } else { "web" }]);
        assert_eq!(bench.kept.instances.get("web").map(|web| web.replaces.as_str()), removed.then_some(""));
    }
}

#[test]
fn clones_that_are_made_at_once_get_addresses_of_their_own() {
    let mut settings = settings();
    settings.default.steps = vec![step(Rung::Clone, 1)];
    let network = "10.1.3.64".parse().expect("an address");
    settings.pools.push(Pool { tenant: "red".into(), network, length: 26, reserved: BTreeSet::new() });
    let mut bench = Bench::new(settings, many(5));
    bench.container_host(Kind::Drain);
    bench.bad.extend([1000, 1001]);
    bench.run(SECOND * 5);
    bench.container_host(Kind::Undrain);
    bench.run(SECOND * 2);
    let addresses: BTreeSet<&str> = bench.acts.iter().filter_map(|act| act.split(' ').nth(3)).collect();
    assert_eq!((bench.acts.len(), addresses.len()), (2, 2), "{:?}", bench.acts);
}

#[test]
fn a_ladder_begins_anew_when_a_clone_by_order_was_well_for_long_enough() {
    let mut bench = Bench::web();
    bench.cure = Some("restart-container");
    bench.bad.insert(WEB);
    bench.run(SECOND * 20);
    assert_eq!(bench.acts, ["restart-service", "restart-container web"]);
    bench.container(Kind::Clone, "web").expect("it can be cloned");
    bench.run(Policy::default().quiet + SECOND * 5);
    bench.bad.insert(WEB);
    bench.run(SECOND * 3);
    assert_eq!(bench.acts[3..], ["restart-service"]);
}

#[test]
fn a_rejection_outlives_the_agent() {
    let mut settings = settings();
    settings.default.mode = Mode::Manual;
    let containers = || vec![spec("web", WEB, true, true), spec("other", 81, true, true)];
    let mut bench = Bench::new(settings, containers());
    bench.bad.insert(WEB);
    bench.run(SECOND * 5);
    let id = bench.open()[0].id.clone();
    let reject = DecideOperationRequest { id, approve: false, ..DecideOperationRequest::default() };
    bench.order(Order::Decide(reject)).expect("it is proposed");
    bench.restart_agent(containers());
    bench.start_all();
    bench.run(SECOND * 30);
    assert!(bench.open().is_empty(), "{:?}", bench.open());
}

#[test]
fn a_restart_command_that_there_is_no_room_for_is_no_attempt() {
    let mut bench = Bench::web();
    bench.stuck = true;
    bench.bad.insert(WEB);
    while bench.acts.is_empty() {
        bench.run(MS * 10);
    }
    let check = *bench.remedy.execs.keys().next().expect("it was to run");
    bench.with(|remedy, now, around| remedy.handle_exec(now, around, check, None));
    bench.run(SECOND * 10);
    assert_eq!(bench.acts, ["restart-service"; 2], "once more, not the next rung");
}

#[test]
fn an_agent_that_ends_in_the_middle_of_a_rung_goes_on_with_what_is_there() {
    for (acts, kind) in [(1, Kind::RestartService), (2, Kind::RestartContainer), (4, Kind::Clone)] {
        let mut bench = Bench::web();
        bench.bad.insert(WEB);
        while bench.acts.len() < acts {
            bench.run(MS * 10);
        }
        let open = bench.open();
        assert_eq!((open.len(), open[0].kind()), (1, kind));
        let name = if kind == Kind::Clone { "web.1" } else { "web" };
        bench.restart_agent(vec![spec(name, WEB, true, true), spec("other", 81, true, true)]);
        bench.start_all();
        let open = bench.open();
        assert_eq!((open.len(), open[0].state()), (1, State::Running), "{kind:?}");
        assert!(open[0].progress.contains("the agent ended in the middle"), "{open:?}");
        // Had it helped, that is seen.
        bench.bad.clear();
        bench.run(SECOND * 10);
        assert!(bench.open().is_empty(), "{kind:?}");
        assert_eq!(bench.acts.len(), acts, "{kind:?}: nothing is done twice");
        assert_eq!(bench.remedy.operations().last().map(|operation| operation.state()), Some(State::Done));
    }
}

#[test]
fn what_was_killed_but_not_made_anew_when_the_agent_ended_is_made_anew() {
    for (kind, service, act) in
        [(Kind::RestartContainer, "", "restart-container web"), (Kind::RestartService, "http", "restart-service")]
    {
        let mut bench = Bench::web();
        bench.stuck = true;
        let order = OrderContainerRequest {
            kind: kind as i32,
            container: "web".into(),
            service: service.into(),
            ..OrderContainerRequest::default()
        };
        let order = bench.order(Order::Container(order)).expect("it can be restarted");
        assert_eq!(bench.acts, [act]);
        (bench.stuck, bench.cure, bench.settings.default.mode) = (false, Some("restart-service"), Mode::Off);
        bench.restart_agent(vec![spec("web", WEB, true, true), spec("other", 81, true, true)]);
        bench.start_all();
        if kind == Kind::RestartContainer {
            bench.state("web", ContainerState::Stopped);
        } else {
            bench.bad.insert(WEB);
        }
        bench.run(SECOND * 10);
        let after = bench.remedy.operations.get(&order.id).cloned().expect("it is kept");
        assert_eq!((after.state(), after.progress.as_str()), (State::Done, "it is well"));
        assert_eq!(bench.acts, [act, act]);
    }
}

#[test]
fn a_ladder_is_not_climbed_from_its_foot_again_because_the_agent_was_restarted() {
    let mut bench = Bench::web();
    bench.bad.insert(WEB);
    bench.run(SECOND * 10);
    assert_eq!(bench.acts, ["restart-service", "restart-container web"]);
    bench.restart_agent(vec![spec("web", WEB, true, true), spec("other", 81, true, true)]);
    bench.start_all();
    bench.run(SECOND * 60);
    assert_eq!(bench.acts[2..], ["restart-container web", "clone web web.1 -", "freeze web.1"]);
}

#[test]
fn a_runtime_that_never_answers_is_given_up() {
    let mut bench = Bench::web();
    bench.stuck = true;
    let restart = bench.container(Kind::RestartContainer, "web").expect("it can be restarted");
    bench.run(SECOND * 100);
    let restart = bench.remedy.operations.get(&restart.id).cloned().expect("it is kept");
    assert_eq!((restart.state(), restart.progress.as_str()), (State::Failed, "the runtime did not answer in time"));
}

#[test]
fn names_of_clones_count_on() {
    assert_eq!((next_name("web").as_str(), next_name("web.1").as_str()), ("web.1", "web.2"));
    assert_eq!((base("web.12"), base("web")), ("web", "web"));
}
