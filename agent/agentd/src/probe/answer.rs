//! The words of an answer: what a person reads when a probe fails. It knows nothing of probes.

use std::{error::Error, io, time::Duration};

use nix::errno::Errno;
use ringmesh_node::health::spec::MAX_ANSWER;

/// The container has no process and no network namespace.
pub(super) const NOT_RUNNING: &str = "the container does not run";

/// The most bytes of a longer text that are looked at for [`clean`]: white space at its ends is left out.
pub(super) const QUOTED: usize = 4 * MAX_ANSWER;

/// At most [`MAX_ANSWER`] bytes of `text`, with spaces for what would disturb a terminal or a table, and no white space
/// at its ends.
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len().min(MAX_ANSWER));
    for c in text.trim_matches(disturbs).chars() {
        let c = if disturbs(c) { ' ' } else { c };
        if clean.len() + c.len_utf8() > MAX_ANSWER {
            break;
        }
        clean.push(c);
    }
    clean.truncate(clean.trim_end().len());
    clean
}

/// Control characters, white space, and the marks that turn the direction of what follows.
fn disturbs(c: char) -> bool {
    c.is_control()
        || c.is_whitespace()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The error of a socket in words: "connection refused".
pub(super) fn io_error(error: &io::Error) -> String {
    let Some(errno) = error.raw_os_error().map(Errno::from_raw) else {
        return error.to_string();
    };
    #[allow(clippy::wildcard_enum_match_arm, reason = "what has no words of ours has those of the C library")]
    match errno {
        Errno::EHOSTUNREACH => "no route to the host".into(),
        Errno::EMFILE | Errno::ENFILE => "this agent has no free file descriptor; raise its limit".into(),
        // Only a connection to a unix socket says so.
        Errno::EAGAIN => "more connections wait to be taken than it has room for".into(),
        Errno::EADDRNOTAVAIL => "no free local port or no such address".into(),
        errno => {
            let words = errno.desc();
            let mut chars = words.chars();
            chars.next().map_or_else(String::new, |first| first.to_lowercase().collect::<String>() + chars.as_str())
        }
    }
}

/// What is at the bottom of `error`: the layers above say only that they failed.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut root = error;
    loop {
        // The source of an I/O error is that of the error within, which is the one to know.
        let within = root.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        match within.map(|error| error as &(dyn Error + 'static)).or_else(|| root.source()) {
            Some(next) => root = next,
            None => break,
        }
    }
    root.downcast_ref::<io::Error>().map_or_else(|| root.to_string(), io_error)
}

/// "no answer within 1.5 s".
pub(super) fn no_answer(timeout: Duration) -> String {
    let ms = timeout.as_millis();
    if ms < 1000 { format!("no answer within {ms} ms") } else { format!("no answer within {} s", ms as f64 / 1000.0) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn errors_read_like_sentences() {
        let words = |errno: Errno| io_error(&io::Error::from(errno));
        assert_eq!(words(Errno::ECONNREFUSED), "connection refused");
        assert_eq!(words(Errno::ENETUNREACH), "network is unreachable");
        assert_eq!(words(Errno::EHOSTUNREACH), "no route to the host");
        assert_eq!(io_error(&io::Error::other("as it says")), "as it says");
        assert_eq!(no_answer(Duration::from_millis(250)), "no answer within 250 ms");
        assert_eq!(no_answer(Duration::from_secs(1)), "no answer within 1 s");
        assert_eq!(no_answer(Duration::from_millis(1500)), "no answer within 1.5 s");
    }

    #[test]
    fn the_bottom_of_an_error_is_what_counts() {
        let error = io::Error::other(io::Error::other(io::Error::from(Errno::ECONNRESET)));
        assert_eq!(root_cause(&error), "connection reset by peer");
    }

    #[test]
    fn control_characters_become_spaces() {
        assert_eq!(clean("\r\n a\tb\u{1b}[31mc\u{202e}d\0\n"), "a b [31mc d");
        assert_eq!(clean(""), "");
        assert_eq!(clean(&"ä".repeat(150)), "ä".repeat(100));
        assert_eq!(clean(&("x".to_owned() + &"ä".repeat(150))), "x".to_owned() + &"ä".repeat(99));
    }

    proptest! {
        #[test]
        fn any_text_becomes_short_and_harmless(text in any::<String>()) {
            let clean = clean(&text);
            prop_assert!(clean.len() <= MAX_ANSWER);
            prop_assert!(!clean.contains(char::is_control));
            prop_assert_eq!(clean.trim(), clean.as_str());
        }
    }
}
