//! Tokens that a client gets and gives back unread: where a list goes on, where a watch goes on.
//!
//! Base64 of a message. They are no secret and bear no seal: whoever makes one up asks for something that is checked like
//! any question.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost::Message;

/// The most bytes of a token: four names, each of at most 63 bytes, and three numbers.
const MAX_TEXT: usize = 512;

/// Not a token that this API gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is none that this API gave")]
pub struct NoToken;

/// The token as text.
pub fn encode(token: &impl Message) -> String {
    URL_SAFE_NO_PAD.encode(token.encode_to_vec())
}

/// Reads a token.
pub fn decode<T: Message + Default>(text: &str) -> Result<T, NoToken> {
    if text.len() > MAX_TEXT {
        return Err(NoToken);
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| NoToken)?;
    T::decode(&bytes[..]).map_err(|_| NoToken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::peer::{PageToken, Position, WatchToken};

    #[test]
    fn a_token_comes_back_as_it_was() {
        let name = "n".repeat(63);
        let after = Position { zone: name.clone(), host: name.clone(), container: name.clone(), service: name };
        let token = PageToken { question: u64::MAX, after: Some(after) };
        assert_eq!(decode(&encode(&token)), Ok(token));
        assert_eq!(decode::<PageToken>("not base64!"), Err(NoToken));
        assert_eq!(decode::<PageToken>(&"A".repeat(MAX_TEXT + 1)), Err(NoToken));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,600}", bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            for text in [text, URL_SAFE_NO_PAD.encode(bytes)] {
                let _ = decode::<PageToken>(&text);
                let _ = decode::<WatchToken>(&text);
            }
        }
    }
}
