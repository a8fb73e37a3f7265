#![allow(clippy::unwrap_used)]

mod inside;

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Cells whose containers are probed every two seconds, in virtual time.
struct Host {
    cells: Cells,
    now: Instant,
    /// By name: what its runtime says, and whether it answers.
    containers: BTreeMap<String, (ContainerState, bool)>,
    changes: Vec<Change>,
}

impl Host {
    fn new(seed: u64, containers: usize) -> Self {
        let cells = Cells::new(seed);
        let mut host = Self { cells, now: Instant::ZERO, containers: BTreeMap::new(), changes: Vec::new() };
        for number in 0..containers {
            host.tell(&name(number), ContainerState::Running);
        }
        host
    }

    fn tell(&mut self, container: &str, state: ContainerState) {
        self.containers.entry(container.to_owned()).or_insert((state, true)).0 = state;
        let status = ContainerStatus { name: container.to_owned(), state, ..Default::default() };
        self.cells.handle_status(self.now, &status);
    }

    fn mute(&mut self, container: &str, mute: bool) {
        self.containers.get_mut(container).unwrap().1 = !mute;
    }

    fn run(&mut self, seconds: u64) {
        (0..seconds * 10).for_each(|_| self.tick());
    }

    fn tick(&mut self) {
        self.now += TICK;
        if self.now.as_nanos().is_multiple_of(2 * SECOND.as_nanos() as u64) {
            for (name, (_, answers)) in &self.containers {
                self.cells.handle_reply(self.now, name, !answers, 2 * SECOND, SECOND);
            }
        }
        while self.cells.poll_timeout().is_some_and(|due| due <= self.now) {
            self.cells.handle_timeout(self.now);
        }
        self.changes.extend(std::iter::from_fn(|| self.cells.poll_change()));
    }

    fn state(&self, container: &str) -> MemberState {
        let of = |change: &&Change| &*change.container == container;
        self.changes.iter().rfind(of).map_or(MemberState::Gone, |change| change.state)
    }

    fn news(&self) -> Vec<(&str, News)> {
        self.changes.iter().filter_map(|change| Some((&*change.container, change.news?))).collect()
    }

    fn counts(&self) -> (u32, u32) {
        let shown = self.cells.show("h1");
        (shown.iter().map(|cell| cell.alive).sum(), shown.iter().map(|cell| cell.size).sum())
    }
}

fn name(number: usize) -> String {
    format!("c{number}")
}

/// Or this host would go on to say the old hash.
#[test]
fn whenever_the_hash_of_all_cells_is_another_one_so_is_the_revision() {
    let mut host = Host::new(3, 5);
    host.run(10);
    let before = (host.cells.root(), host.cells.revision());
    let status = ContainerStatus { name: name(2), state: ContainerState::Running, pid: Some(7), ..Default::default() };
    host.cells.handle_status(host.now, &status);
    host.run(10);
    assert_eq!(host.state(&name(2)), MemberState::Alive);
    assert_ne!(host.cells.root(), before.0, "it lives another life");
    assert_ne!(host.cells.revision(), before.1);
}

#[test]
fn containers_that_answer_are_alive_in_as_many_cells_as_they_need() {
    for count in [1, 2, 63, 64, 200] {
        let mut host = Host::new(1, count);
        host.run(300);
        assert_eq!(host.counts(), (count as u32, count as u32));
        assert_eq!(host.cells.show("h1").len(), count.div_ceil(63));
        assert_eq!(host.changes.len(), count, "each came, and nothing else: {:?}", host.changes);
        assert_eq!(host.cells.dropped(), 0);
    }
}

#[test]
fn one_that_is_silent_is_told_once_and_once_again_when_it_is_heard() {
    for seed in 0..10 {
        let mut host = Host::new(seed, 70);
        host.run(20);
        host.mute("c7", true);
        host.run(90);
        assert_eq!(host.news(), [("c7", News::Silent)], "seed {seed}");
        assert_eq!(host.state("c7"), MemberState::Down);
        let down = host.changes.iter().find(|change| change.news.is_some()).unwrap();
        assert!((SECOND * 15..=SECOND * 21).contains(&down.silent_for), "{down:?}");
        host.run(300);
        host.mute("c7", false);
        host.run(5);
        assert_eq!(host.news(), [("c7", News::Silent), ("c7", News::Heard)], "seed {seed}");
        let generation = host.changes.last().unwrap().generation;
        assert_eq!((host.state("c7"), generation), (MemberState::Alive, 2));
        host.run(120);
        assert_eq!(host.counts(), (70, 70), "seed {seed}");
        assert_eq!(host.news().len(), 2, "seed {seed}");
    }
}

#[test]
fn one_that_was_silent_for_short_is_not_told() {
    for seed in 0..20 {
        let mut host = Host::new(seed, 30);
        host.run(20);
        host.mute("c7", true);
        host.run(12);
        host.mute("c7", false);
        host.run(120);
        assert_eq!(host.news(), [], "seed {seed}");
        assert_eq!(host.state("c7"), MemberState::Alive);
    }
}

#[test]
fn a_frozen_one_is_shown_frozen_for_as_long_as_it_takes_and_never_told_as_silent() {
    for seed in 0..5 {
        let mut host = Host::new(seed, 30);
        host.run(20);
        host.tell("c3", ContainerState::Paused);
        host.mute("c3", true);
        host.run(300);
        assert_eq!(host.state("c3"), MemberState::Frozen);
        host.tell("c3", ContainerState::Running);
        host.run(2);
        host.mute("c3", false);
        host.run(120);
        assert_eq!(host.state("c3"), MemberState::Alive);
        assert_eq!(host.news(), [], "seed {seed}");
    }
}

#[test]
fn one_that_is_down_is_frozen_when_it_is_paused_and_heard_when_it_goes_on() {
    let mut host = Host::new(2, 3);
    host.run(20);
    host.mute("c1", true);
    host.run(90);
    host.tell("c1", ContainerState::Paused);
    host.run(2);
    assert_eq!(host.state("c1"), MemberState::Frozen);
    host.mute("c1", false);
    host.tell("c1", ContainerState::Running);
    host.run(30);
    assert_eq!((host.state("c1"), host.news()), (MemberState::Alive, vec![("c1", News::Silent), ("c1", News::Heard)]));
}

#[test]
fn one_whose_process_ends_is_no_member_and_comes_back_in_its_slot_as_another_life() {
    let mut host = Host::new(3, 30);
    host.run(20);
    let root = host.cells.root();
    let place = host.changes.iter().find(|change| &*change.container == "c9").unwrap().place;
    host.tell("c9", ContainerState::Stopped);
    host.run(120);
    assert_eq!((host.state("c9"), host.counts()), (MemberState::Gone, (29, 29)));
    assert_ne!(host.cells.root(), root);
    host.tell("c9", ContainerState::Running);
    host.run(120);
    let change = host.changes.last().unwrap();
    assert_eq!((change.place, change.generation, change.state), (place, 2, MemberState::Alive));
    assert_eq!((host.counts(), host.news()), ((30, 30), vec![]));
}

#[test]
fn a_restart_that_was_too_fast_to_be_seen_is_another_life() {
    let mut host = Host::new(3, 5);
    let running = |pid| ContainerStatus {
        name: "c2".into(),
        state: ContainerState::Running,
        pid: Some(pid),
        ..Default::default()
    };
    host.cells.handle_status(host.now, &running(10));
    host.run(10);
    let before = host.changes.iter().rfind(|change| &*change.container == "c2").unwrap().generation;
    host.cells.handle_status(host.now, &running(11));
    host.cells.handle_status(host.now, &running(11));
    host.run(10);
    assert_eq!(host.cells.slots.begin(host.cells.places["c2"]), before + 2, "one life, and the one that this asks for");
    assert_eq!(host.counts(), (5, 5));
}

#[test]
fn what_a_paused_agent_did_not_hear_is_held_against_nobody() {
    let mut host = Host::new(4, 100);
    host.run(20);
    host.now += SECOND * 60;
    host.cells.pause(host.now, SECOND * 60);
    host.run(120);
    assert_eq!((host.counts(), host.news()), ((100, 100), vec![]));
}

#[test]
fn containers_that_nobody_can_ask_are_not_silent() {
    let mut host = Host::new(5, 10);
    host.run(20);
    host.containers.clear();
    host.run(600);
    assert_eq!((host.counts(), host.news()), ((10, 10), vec![]));
}

#[test]
fn all_of_a_host_silent_at_once_are_told_once_each_and_come_back() {
    let mut host = Host::new(6, 126);
    host.run(20);
    (0..126).for_each(|number| host.mute(&name(number), true));
    host.run(600);
    assert_eq!(host.news().len(), 126);
    (0..126).for_each(|number| host.mute(&name(number), false));
    host.run(60);
    assert_eq!((host.counts(), host.news().len()), ((126, 126), 252));
    assert_eq!(host.cells.dropped(), 0);
}

#[test]
fn whole_cells_that_fall_silent_together_are_told_as_fast_as_one_container() {
    for seed in 0..5 {
        let mut host = Host::new(seed, 400);
        host.run(20);
        // Five cells and a bit of the sixth.
        (0..320).for_each(|number| host.mute(&name(number), true));
        let muted = host.now;
        while host.news().len() < 320 && host.now.since(muted) < SECOND * 120 {
            host.run(1);
        }
        let took = host.now.since(muted);
        // Seven seconds that signs hold, to the next probe one more; a turn; the time to refute, and a turn.
        assert!(took <= SECOND * 20, "seed {seed}: {} told after {took:?}", host.news().len());
        host.run(120);
        assert_eq!(host.news().len(), 320, "seed {seed}");
        assert_eq!(host.counts(), (80, 400), "seed {seed}");
        assert_eq!(host.cells.dropped(), 0, "seed {seed}");
    }
}

#[test]
fn one_that_is_overdue_to_speak_up_is_told_though_nobody_asks_it() {
    let mut host = Host::new(9, 10);
    host.containers.clear();
    let beat = |host: &mut Host| host.cells.handle_heartbeat(host.now, "c4", SECOND * 5);
    (0..10).for_each(|_| {
        beat(&mut host);
        host.run(4);
    });
    host.run(1);
    host.cells.handle_missed(host.now, "c4");
    host.run(20);
    assert_eq!((host.news(), host.state("c4")), (vec![("c4", News::Silent)], MemberState::Down));
    beat(&mut host);
    host.run(5);
    assert_eq!(host.news(), [("c4", News::Silent), ("c4", News::Heard)]);
}

#[test]
fn one_that_another_took_the_place_of_is_forgotten() {
    let mut host = Host::new(10, 5);
    host.run(20);
    host.cells.forget(host.now, "c2");
    host.run(60);
    assert_eq!((host.state("c2"), host.counts(), host.news()), (MemberState::Gone, (4, 4), vec![]));
}

#[test]
fn cells_that_are_emptied_become_one_without_a_word_to_anybody() {
    let mut host = Host::new(7, 126);
    host.run(20);
    for number in (0..126).filter(|number| number % 63 >= 12) {
        host.tell(&name(number), ContainerState::Absent);
    }
    host.run(120);
    assert_eq!((host.counts(), host.cells.show("h1").len()), ((24, 24), 1));
    assert_eq!(host.news(), []);
}

#[test]
fn the_bitmap_says_what_each_slot_is() {
    let mut host = Host::new(8, 4);
    host.run(5);
    host.tell("c1", ContainerState::Paused);
    host.tell("c2", ContainerState::Stopped);
    host.mute("c3", true);
    host.run(60);
    let cell = &host.cells.show("h1")[0];
    // From the right: the agent, c0, frozen, nobody; then down.
    assert_eq!((cell.bitmap[0], cell.bitmap[1], cell.bitmap.len()), (0b00_10_01_01, 0b11, 16));
    assert_eq!((cell.alive, cell.frozen, cell.down, cell.size), (1, 1, 1, 3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens to the others, one that answers is never told as silent; in the end all are what they are.
    #[test]
    fn whatever_happens_only_the_silent_are_told_and_all_is_right_in_the_end(
        seed: u64,
        steps in prop::collection::vec((0_usize..80, 0_u8..6, 0_u64..30), 1..40),
    ) {
        let mut host = Host::new(seed, 80);
        let mut muted = std::collections::BTreeSet::new();
        for (number, step, seconds) in steps {
            let name = name(number);
            match step {
                0 => { host.mute(&name, true); muted.insert(name); }
                1 => host.mute(&name, false),
                2 => host.tell(&name, ContainerState::Paused),
                3 => host.tell(&name, ContainerState::Stopped),
                4 => host.tell(&name, ContainerState::Absent),
                _ => host.tell(&name, ContainerState::Running),
            }
            host.run(seconds);
        }
        host.run(200);
        for (name, news) in host.news() {
            prop_assert!(news == News::Heard || muted.contains(name), "{} is told as silent", name);
        }
        for (name, (state, answers)) in &host.containers {
            let expected = match (state, answers) {
                (ContainerState::Running, true) => MemberState::Alive,
                (ContainerState::Running, false) => MemberState::Down,
                (ContainerState::Paused, _) => MemberState::Frozen,
                _ => MemberState::Gone,
            };
            prop_assert_eq!(host.state(name), expected, "{}", name);
        }
    }
}
