//! What a service may say of itself: "SERVICE [ok|warn|fail] [text]" in one datagram, such as "web fail the disk is full".
//!
//! It is compiled into the fuzz target, too, and so refers to nothing else of this crate.

use ringmesh_node::health::spec::Beat;

/// The most bytes of a datagram; a longer one is refused as a whole.
pub const MAX_DATAGRAM: usize = 1024;

/// A datagram that says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a heartbeat is \"SERVICE [ok|warn|fail] [text]\", at most {MAX_DATAGRAM} bytes of UTF-8")]
pub struct Malformed;

/// The service, how it does, and what else it says.
///
/// A word that is none of the three is a failure: what a service means by it nobody knows, and that it is well is not the thing
/// to guess.
pub fn parse(bytes: &[u8]) -> Result<(&str, Beat, &str), Malformed> {
    let text = str::from_utf8(bytes).ok().filter(|text| text.len() <= MAX_DATAGRAM).ok_or(Malformed)?;
    let (service, rest) = first_word(text);
    if service.is_empty() {
        return Err(Malformed);
    }
    let (state, said) = first_word(rest);
    Ok(match state {
        "" | "ok" => (service, Beat::Ok, said),
        "warn" => (service, Beat::Warn, said),
        "fail" => (service, Beat::Fail, said),
        _ => (service, Beat::Fail, rest),
    })
}

fn first_word(text: &str) -> (&str, &str) {
    let text = text.trim();
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim()),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_of_a_service() {
        assert_eq!(parse(b"web"), Ok(("web", Beat::Ok, "")));
        assert_eq!(parse(b" web  ok\n"), Ok(("web", Beat::Ok, "")));
        assert_eq!(parse(b"web warn  queue of 900 \n"), Ok(("web", Beat::Warn, "queue of 900")));
        assert_eq!(parse(b"web\tfail\tthe disk is full"), Ok(("web", Beat::Fail, "the disk is full")));
        assert_eq!(parse(b"web failed again"), Ok(("web", Beat::Fail, "failed again")));
        for bad in [&b""[..], b" \n", b"web \xff", &[b'x'; MAX_DATAGRAM + 1]] {
            assert_eq!(parse(bad), Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = parse(&bytes);
        }
    }
}
