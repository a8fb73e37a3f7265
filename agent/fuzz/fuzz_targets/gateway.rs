//! Any text as a JSON request of the store, for each method that there is; and any bytes as an answer to be written.
//! The first byte says for which. What is read and written reads back the same.
#![no_main]

// The daemon itself would be built with coverage only for these files, which refer to little else of it.
#[path = "../../agentd/src/store/gateway/json.rs"]
#[allow(dead_code, unreachable_pub)]
mod json;
#[path = "../../agentd/src/store/gateway/paths.rs"]
#[allow(unreachable_pub)]
mod paths;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use prost_reflect::{DescriptorPool, MethodDescriptor};
use ringmesh_proto::etcd::DESCRIPTORS;
use tonic::{Code, Status};

static METHODS: LazyLock<Vec<MethodDescriptor>> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(DESCRIPTORS).expect("our own descriptors are whole");
    pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect()
});

fuzz_target!(|bytes: &[u8]| {
    let [number, rest @ ..] = bytes else { return };
    if let Ok(text) = str::from_utf8(rest) {
        let _ = paths::find(text);
    }
    let method = &METHODS[usize::from(*number) % METHODS.len()];
    let _ = json::write(method.output(), rest.to_vec().into());
    match json::read(method.input(), rest) {
        Ok(message) => {
            let text = json::write(method.input(), message.clone()).expect("what was read can be written");
            let again = json::read(method.input(), text.as_bytes()).expect("what we write, we read");
            assert_eq!(again, message, "{text}");
        }
        Err(status) => {
            assert!(status.code() == Code::InvalidArgument && !status.message().is_empty());
            let _ = json::error(&status);
        }
    }
});

/// What the gateway says of a body beyond all bounds.
fn too_large() -> Status {
    Status::invalid_argument("etcdserver: request is too large")
}
