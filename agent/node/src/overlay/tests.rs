use std::{collections::BTreeSet, time::Duration};

use ringmesh_proto::{HostId, Instant, Uplink, member::Member};

use super::{LinkMonitor, LinkProbe, LinkState, Order, Overlay, PROBE_INTERVAL, Timers, UplinkState, Wiring};

/// Feeds one outcome per probe: '1' answered at once, '0' lost. Returns the state after each.
fn states(outcomes: &str) -> Vec<LinkState> {
    let mut now = Instant::ZERO;
    let mut link = LinkMonitor::new(now, Duration::ZERO, PROBE_INTERVAL);
    let mut states = Vec::new();
    for outcome in outcomes.chars() {
        let number = link.probe(now);
        if outcome == '1' {
            link.ack(now + Duration::from_micros(300), number);
        }
        states.push(link.state());
        now += PROBE_INTERVAL;
    }
    states
}

#[test]
fn a_link_falls_after_three_losses_and_rises_after_two_answers() {
    use LinkState::{Down, Unknown, Up};
    assert_eq!(states("1111"), [Up, Up, Up, Up]);
    assert_eq!(states("110001"), [Up, Up, Up, Up, Up, Down], "the third loss shows when the fourth probe is sent");
    assert_eq!(states("0000"), [Unknown, Unknown, Unknown, Down]);
    assert_eq!(states("1000011"), [Up, Up, Up, Up, Down, Down, Up]);
}

#[test]
fn scattered_loss_degrades_and_heals() {
    let lossy = states("1110110110110111");
    assert_eq!(lossy.last(), Some(&LinkState::Degraded));
    let healed = states(&format!("1110110110110111{}", "1".repeat(16)));
    assert_eq!(healed.last(), Some(&LinkState::Up));
}

#[test]
fn a_pause_of_this_process_is_not_held_against_the_link() {
    let mut link = LinkMonitor::new(Instant::ZERO, Duration::ZERO, PROBE_INTERVAL);
    let number = link.probe(Instant::ZERO);
    link.ack(Instant::ZERO, number);
    let mut now = Instant::ZERO;
    for _ in 0..5 {
        now += Duration::from_secs(3);
        link.probe(now);
        assert_eq!(link.state(), LinkState::Up);
    }
}

#[test]
fn answers_that_were_never_asked_for_change_nothing() {
    let mut link = LinkMonitor::new(Instant::ZERO, Duration::ZERO, PROBE_INTERVAL);
    for number in [0, 1, u64::MAX] {
        link.ack(Instant::ZERO, number);
    }
    assert_eq!((link.state(), link.rtt()), (LinkState::Unknown, None));
}

fn member(id: u32) -> Member {
    let address = |net: u8| Some(([10, net, 0, id as u8], 7400).into());
    Member { id: HostId::new(id), generation: 1, addresses: [address(0), address(1)] }
}

fn overlay(hosts: u32) -> Overlay {
    let mut overlay = Overlay::new(HostId::new(1), Wiring::Switched { seed: 7 }, [true, true], Timers::default());
    let members: Vec<_> = (1..=hosts).map(member).collect();
    overlay.rebuild(Instant::ZERO, &members, &[], |_| 0);
    overlay
}

/// Runs for so many seconds; `answers` says whether a probe over this uplink is answered.
fn run(overlay: &mut Overlay, now: &mut Instant, seconds: u64, answers: impl Fn(Uplink) -> bool) {
    let end = *now + Duration::from_secs(seconds);
    while *now < end {
        *now = overlay.poll_timeout().expect("there are links");
        for LinkProbe { to, uplink, number, .. } in overlay.handle_timeout(*now) {
            if answers(uplink) {
                overlay.handle_ack(*now, to.id, uplink, number);
            }
        }
        overlay.judge_uplinks(*now, |_, _, _| true);
    }
}

#[test]
fn a_cut_uplink_is_down_and_the_other_is_up_until_it_heals() {
    let mut overlay = overlay(5);
    assert_eq!(overlay.links().count(), 4, "two neighbours on each ring");
    let mut now = Instant::ZERO;
    run(&mut overlay, &mut now, 3, |_| true);
    assert_eq!(overlay.uplinks(), [UplinkState::Up, UplinkState::Up]);
    run(&mut overlay, &mut now, 3, |uplink| uplink == Uplink::B);
    assert_eq!(overlay.uplinks(), [UplinkState::Down, UplinkState::Up]);
    run(&mut overlay, &mut now, 3, |_| true);
    assert_eq!(overlay.uplinks(), [UplinkState::Up, UplinkState::Up]);
}

#[test]
fn a_dead_neighbour_is_no_fault_of_the_uplink() {
    let mut overlay = overlay(5);
    let mut now = Instant::ZERO;
    let end = now + Duration::from_secs(10);
    let dead = overlay.links().next().map(|(_, link)| link.peer.id).expect("there are links");
    while now < end {
        now = overlay.poll_timeout().expect("there are links");
        for LinkProbe { to, uplink, number, .. } in overlay.handle_timeout(now) {
            if to.id != dead {
                overlay.handle_ack(now, to.id, uplink, number);
            }
        }
        overlay.judge_uplinks(now, |peer, _, _| peer != dead);
        assert_eq!(overlay.uplinks(), [UplinkState::Up, UplinkState::Up]);
    }
}

/// Rings have different neighbours: who is linked over one uplink only could not be heard over the other.
#[test]
fn a_silent_peer_is_asked_over_the_other_uplink_even_without_a_link_there() {
    let mut overlay = overlay(9);
    let mut now = Instant::ZERO;
    run(&mut overlay, &mut now, 3, |_| true);
    let over = |overlay: &Overlay, over: Uplink| -> BTreeSet<HostId> {
        overlay.links().filter(|(uplink, _)| *uplink == over).map(|(_, link)| link.peer.id).collect()
    };
    let only_a: BTreeSet<HostId> = &over(&overlay, Uplink::A) - &over(&overlay, Uplink::B);
    assert!(!only_a.is_empty());
    let (mut asked, end) = (BTreeSet::new(), now + Duration::from_secs(1));
    while now < end {
        now = overlay.poll_timeout().expect("there are links");
        for LinkProbe { to, uplink, number, .. } in overlay.handle_timeout(now) {
            if uplink == Uplink::B {
                asked.insert(to.id);
                overlay.handle_ack(now, to.id, uplink, number);
            }
        }
    }
    assert!(asked.is_superset(&only_a), "{only_a:?}, asked {asked:?}");
}

#[test]
fn who_is_probed_need_not_probe_until_the_probes_end() {
    let mut link = LinkMonitor::new(Instant::ZERO, Duration::ZERO, PROBE_INTERVAL);
    let mut now = Instant::ZERO;
    for _ in 0..20 {
        now += PROBE_INTERVAL;
        link.heard(now, Some(Duration::from_millis(1)));
        assert!(link.next_probe() > now + PROBE_INTERVAL, "no probe of its own");
    }
    assert_eq!((link.state(), link.loss_percent(), link.rtt()), (LinkState::Up, 0, Some(Duration::from_millis(1))));
    let silent_since = now;
    while link.state() != LinkState::Down {
        now = link.next_probe();
        link.probe(now);
    }
    assert!(now.since(silent_since) <= Duration::from_millis(2500), "{:?}", now.since(silent_since));
    link.heard(now, None);
    assert_eq!(link.state(), LinkState::Down, "one probe is no proof");
    link.heard(now + PROBE_INTERVAL, None);
    assert_eq!(link.state(), LinkState::Up);
}

#[test]
fn a_neighbour_that_probes_saves_a_probe_unless_it_does_not_hear_us() {
    let mut overlay = Overlay::new(HostId::new(3), Wiring::Switched { seed: 7 }, [true, true], Timers::default());
    overlay.rebuild(Instant::ZERO, &(1..=5).map(member).collect::<Vec<_>>(), &[], |_| 0);
    let links: Vec<_> = overlay.links().map(|(uplink, link)| (uplink, link.peer.id)).collect();
    let now = Instant::ZERO + PROBE_INTERVAL * 10;
    for (uplink, peer) in links {
        let due = |overlay: &Overlay| {
            overlay.links().any(|(over, l)| (over, l.peer.id) == (uplink, peer) && l.monitor.next_probe() <= now)
        };
        overlay.handle_probe(now, peer, uplink, false, None);
        assert!(due(&overlay), "deaf");
        overlay.handle_probe(now, peer, uplink, true, None);
        assert!(!due(&overlay), "whoever of the two it is");
    }
}

#[test]
fn rebuilding_keeps_the_history_of_links_that_stay() {
    let mut overlay = overlay(3);
    let mut now = Instant::ZERO;
    run(&mut overlay, &mut now, 3, |_| true);
    let members: Vec<_> = (1..=3).map(member).collect();
    assert!(!overlay.rebuild(now, &members, &[], |_| 0), "nothing changed");
    assert!(overlay.links().all(|(_, link)| link.monitor.state() == LinkState::Up));
    let mut moved = members.clone();
    moved[1] = Member { generation: 2, addresses: [None, Some(([10, 1, 0, 99], 7400).into())], ..moved[1] };
    assert!(overlay.rebuild(now, &moved, &[], |_| 0), "an address changed");
    assert!(overlay.links().all(|(uplink, link)| link.peer.id != moved[1].id || uplink == Uplink::B));
}

#[test]
fn a_failed_link_needs_two_answers_to_probes_of_after_that() {
    let mut link = LinkMonitor::new(Instant::ZERO, Duration::ZERO, PROBE_INTERVAL);
    let mut now = Instant::ZERO;
    for _ in 0..5 {
        let number = link.probe(now);
        link.ack(now, number);
        now += PROBE_INTERVAL;
    }
    let number = link.probe(now);
    link.fail(now);
    link.ack(now, number);
    assert_eq!(link.state(), LinkState::Down, "this answer was on its way");
    for expected in [LinkState::Down, LinkState::Up] {
        now += PROBE_INTERVAL;
        let number = link.probe(now);
        link.ack(now, number);
        assert_eq!(link.state(), expected);
    }
    assert_eq!((link.risen(), link.loss_percent()), (Some(now), 0));
}

#[test]
fn a_neighbour_that_says_that_its_uplink_is_down_is_believed_unless_the_link_just_came_up() {
    let mut overlay = overlay(5);
    let mut now = Instant::ZERO;
    run(&mut overlay, &mut now, 3, |_| true);
    let (uplink, peer) = overlay.links().map(|(uplink, link)| (uplink, link.peer.id)).next().expect("links");
    let state = |overlay: &Overlay| {
        overlay
            .links()
            .find(|(over, link)| (*over, link.peer.id) == (uplink, peer))
            .map(|(_, link)| link.monitor.state())
    };
    overlay.handle_peer_uplink_down(now, peer, uplink);
    assert_eq!(state(&overlay), Some(LinkState::Down));
    while state(&overlay) != Some(LinkState::Up) {
        now = overlay.poll_timeout().expect("links");
        for LinkProbe { to, uplink, number, .. } in overlay.handle_timeout(now) {
            overlay.handle_ack(now, to.id, uplink, number);
        }
    }
    overlay.handle_peer_uplink_down(now, peer, uplink);
    assert_eq!(state(&overlay), Some(LinkState::Up), "a stale report");
    overlay.handle_peer_uplink_down(now + Timers::default().guard, peer, uplink);
    assert_eq!(state(&overlay), Some(LinkState::Down));
}

#[test]
fn a_lost_carrier_takes_the_uplink_and_its_links_down_at_once() {
    let mut overlay = overlay(5);
    let mut now = Instant::ZERO;
    run(&mut overlay, &mut now, 3, |_| true);
    assert!(overlay.handle_carrier(now, Uplink::B, false));
    assert!(overlay.judge_uplinks(now, |_, _, _| true));
    assert_eq!(overlay.uplinks(), [UplinkState::Up, UplinkState::Down]);
    assert_eq!(overlay.poll_told(now), [(Uplink::B, UplinkState::Down)]);
    assert!(overlay.links().all(|(uplink, link)| (uplink == Uplink::B) == (link.monitor.state() == LinkState::Down)));
    overlay.set_order(Order::Manual(Uplink::B));
    assert!(overlay.preference(Uplink::A) < overlay.preference(Uplink::B), "a wish is none for what is down");
    assert!(overlay.handle_carrier(now, Uplink::B, true));
    run(&mut overlay, &mut now, 2, |_| true);
    assert_eq!(overlay.uplinks(), [UplinkState::Up, UplinkState::Up]);
    assert_eq!(overlay.poll_told(now), [], "it restores");
    let restored = overlay.restored_at(Uplink::B).expect("it restores");
    assert_eq!(overlay.poll_protection(), Some(restored));
    assert_eq!(overlay.poll_told(restored), [(Uplink::B, UplinkState::Up)]);
}
