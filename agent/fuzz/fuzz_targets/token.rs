//! Any text as a join token. Base64 and the checksum are also done for the fuzzer, which would not get past them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringmesh_proto::token::{MAX_ADDRESSES, Token};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = str::from_utf8(bytes) {
        check(text);
    }
    let mut content = bytes.to_vec();
    content.extend(crc32(bytes).to_be_bytes());
    check(&format!("rm1.{}", base64_url(&content)));
});

fn check(text: &str) {
    let Ok(token) = text.parse::<Token>() else { return };
    assert!((1..=MAX_ADDRESSES).contains(&token.addresses.len()));
    assert_eq!(token.to_string().parse(), Ok(token), "a token survives its text");
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// RFC 4648 §5, without padding.
fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len() * 4 / 3 + 4);
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text
}
