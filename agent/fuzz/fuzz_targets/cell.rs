//! What another host may send to a cell of a service, as steps of cells that live: nothing panics, what is known of other
//! hosts stays bounded, and nobody makes a container lost that speaks.
#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::{BufMut, BytesMut};
use libfuzzer_sys::fuzz_target;
use ringmesh_node::{
    cells::{Voice, service::ServiceCells},
    health::spec::{Check, ContainerSpec, ServiceSpec},
};
use ringmesh_proto::{HostId, Instant};

/// Two hosts beside ours, three representatives each.
const MAX_MEMBERS: u32 = 9;
const MAX_TURNS: usize = 100;

fuzz_target!(|bytes: &[u8]| {
    let mut now = Instant::from_nanos(1);
    let mut cells = ServiceCells::new(HostId::new(1), 1, 1);
    ["a", "b"].into_iter().for_each(|name| cells.declare(&container(name)));
    let service = cells.announced().next().expect("there is one");
    let others: BTreeSet<HostId> = [2, 3].map(HostId::new).into();
    cells.handle_hosts(now, &BTreeMap::from([(service, others)]));
    let speaks = |_: &str| Voice::Speaks;
    cells.handle_timeout(now, speaks);
    let key = cells.show("h1", |_| String::new())[0].number;
    let mut rest = bytes;
    // A step is: what it is, its length, its bytes.
    while let [step, len, tail @ ..] = rest {
        let (input, tail) = tail.split_at(tail.len().min(usize::from(*len)));
        rest = tail;
        if step % 4 == 0 {
            now += Duration::from_millis(u64::from(*len) * 100);
        } else {
            let mut payload = BytesMut::new();
            payload.put_u32(if step % 4 == 1 { u32::from(*len) } else { key });
            payload.put_slice(input);
            let _ = cells.handle_message(now, HostId::new(u32::from(step >> 6)), payload.freeze(), speaks);
        }
        let mut turns = 0;
        while cells.poll_timeout().is_some_and(|due| due <= now) {
            cells.handle_timeout(now, speaks);
            turns += 1;
            assert!(turns < MAX_TURNS, "the timer moves on");
        }
        while let Some((to, message)) = cells.poll_transmit() {
            assert!(to != HostId::new(1) && message.len() <= ringmesh_proto::datagram::MAX_PAYLOAD);
        }
        assert_eq!(cells.poll_lost(), None);
        assert!(cells.show("h1", |_| String::new()).iter().all(|cell| cell.size <= MAX_MEMBERS));
    }
});

fn container(name: &str) -> ContainerSpec {
    let service = ServiceSpec::new("web", Check::Tcp { address: ([127, 0, 0, 1], 80).into() });
    ContainerSpec { name: name.into(), driver: "oci".into(), services: vec![service], ..ContainerSpec::default() }
}
