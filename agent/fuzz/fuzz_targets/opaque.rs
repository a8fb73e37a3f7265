//! Any text as a token of a page or a watch.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmesh_proto::{
    opaque::{decode, encode},
    peer::{PageToken, WatchToken},
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(token) = decode::<PageToken>(text) {
        assert_eq!(decode(&encode(&token)), Ok(token), "a token survives its text");
    }
    if let Ok(token) = decode::<WatchToken>(text) {
        assert_eq!(decode(&encode(&token)), Ok(token), "a token survives its text");
    }
});
