//! Any bytes as what a service says of itself.
#![no_main]

// The daemon itself would be built with coverage only for this file, which refers to nothing else of it.
#[path = "../../agentd/src/probe/heartbeat/datagram.rs"]
#[allow(unreachable_pub)]
mod datagram;

use datagram::{MAX_DATAGRAM, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok((service, _, text)) = parse(bytes) else { return };
    assert!(bytes.len() <= MAX_DATAGRAM && service.len() + text.len() <= bytes.len());
    assert!(!service.is_empty() && !service.contains(char::is_whitespace));
    assert_eq!(text.trim(), text);
});
