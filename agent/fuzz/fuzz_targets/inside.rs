//! What a container may say in its member's place, and what an agent may say to a member, as steps of a cell and a member
//! that live: nothing panics, and nobody in the cell but the container itself is taken for anything else.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ringmesh_member::{
    inside::Inside,
    message::{MAX_HEARD, Order, Word},
};
use ringmesh_node::{
    cells::{Cells, MemberState},
    health::spec::{ContainerState, ContainerStatus},
};
use ringmesh_proto::Instant;

const MAX_TURNS: usize = 1000;

fuzz_target!(|bytes: &[u8]| {
    let mut now = Instant::from_nanos(1_000_000_000);
    let mut cells = Cells::new(1);
    for name in ["a", "b", "c"] {
        let state = ContainerState::Running;
        cells.handle_status(now, &ContainerStatus { name: name.into(), state, ..ContainerStatus::default() });
    }
    cells.handle_inside(now, "a");
    let mut member = Inside::default();
    let mut rest = bytes;
    // A step is: what it is, its length, its bytes.
    while let [step, len, tail @ ..] = rest {
        let (input, tail) = tail.split_at(tail.len().min(usize::from(*len)));
        rest = tail;
        match step % 4 {
            0 => now += Duration::from_millis(u64::from(*len) * 100),
            // Anything, as the member's word and as the agent's.
            1 => {
                match Word::decode(input) {
                    Ok(Word::Letter { to, bytes }) => drop(cells.handle_letter(now, "a", to, bytes)),
                    Ok(Word::Answer { .. }) | Err(_) => {}
                }
                if let Ok(order) = Order::decode(input) {
                    member.handle(Duration::from_nanos(now.as_nanos()), order);
                }
            }
            // Anything within a good frame.
            2 => drop(cells.handle_letter(now, "a", u16::from(step >> 6), input)),
            _ => drop(member.handle(Duration::from_nanos(now.as_nanos()), Order::Letter(input))),
        }
        let mut turns = 0;
        while cells.poll_timeout().is_some_and(|due| due <= now) {
            cells.handle_timeout(now);
            turns += 1;
            assert!(turns < MAX_TURNS, "the timer moves on");
        }
        while let Some((container, packet)) = cells.poll_packet() {
            assert_eq!(&*container, "a");
            let order = Order::decode(&packet).expect("a cell says what a member reads");
            member.handle(Duration::from_nanos(now.as_nanos()), order);
        }
        member.handle_timeout(Duration::from_nanos(now.as_nanos()));
        while let Some(packet) = member.poll_transmit() {
            assert!(packet.len() <= MAX_HEARD && Word::decode(&packet).is_ok());
        }
        while let Some(change) = cells.poll_change() {
            let harmed = &*change.container != "a" && change.state > MemberState::Alive;
            assert!(!harmed && (change.news.is_none() || &*change.container == "a"), "{change:?}");
        }
    }
});
