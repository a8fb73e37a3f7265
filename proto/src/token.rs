//! The join token that an operator carries from one host to the next.
//!
//! ```text
//! rm1.BASE64URL( version u8 | id 8 | secret 16 | CA fingerprint 32 (SHA-256 of the DER) | expiry u64 (Unix seconds)
//!                | uses u16 | count u8 | count × (family u8 (4 or 6) | address 4 or 16 | port u16) | checksum u32 )
//! ```
//!
//! The checksum (CRC-32, IEEE) catches a token that was cut or mistyped; it is no protection.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{Buf, BufMut};

const PREFIX: &str = "rm1.";
const VERSION: u8 = 1;

/// The most addresses in a token.
pub const MAX_ADDRESSES: usize = 16;

/// Enough for [`MAX_ADDRESSES`] IPv6 addresses in base64; longer text is refused unread.
pub const MAX_TEXT: usize = 640;

/// What a host needs to join.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Names the token at its issuer.
    pub id: [u8; 8],
    /// Proves that the bearer was given the token.
    pub secret: [u8; 16],
    /// SHA-256 of the CA certificate's DER; the bearer trusts no other CA.
    pub ca_fingerprint: [u8; 32],
    /// Unix seconds after which the issuer refuses it.
    pub expires_at: u64,
    /// How many hosts may join with it.
    pub uses: u16,
    /// Where the issuer listens; 1 to [`MAX_ADDRESSES`].
    pub addresses: Vec<SocketAddr>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("expires_at", &self.expires_at)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::with_capacity(128);
        out.put_u8(VERSION);
        out.put_slice(&self.id);
        out.put_slice(&self.secret);
        out.put_slice(&self.ca_fingerprint);
        out.put_u64(self.expires_at);
        out.put_u16(self.uses);
        let addresses = &self.addresses[..self.addresses.len().min(MAX_ADDRESSES)];
        out.put_u8(addresses.len() as u8);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(ip) => {
                    out.put_u8(4);
                    out.put_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.put_u8(6);
                    out.put_slice(&ip.octets());
                }
            }
            out.put_u16(address.port());
        }
        out.put_u32(crc32(&out));
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(&out))
    }
}

/// Why text is not a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// No token at all.
    #[error("not a join token: it should start with \"{PREFIX}\"; make one with `ringmesh token create`")]
    NotAToken,
    /// Cut, mistyped or too long.
    #[error("the join token is damaged (cut off or mistyped); copy it again, whole")]
    Damaged,
    /// Made by a later version.
    #[error("the join token has version {0}, this ringmesh reads {VERSION}; use the same release on both hosts")]
    Version(u8),
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        if body.len() > MAX_TEXT {
            return Err(TokenError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Damaged)?;
        let (content, mut checksum) =
            bytes.split_at_checked(bytes.len().saturating_sub(4)).ok_or(TokenError::Damaged)?;
        if checksum.try_get_u32() != Ok(crc32(content)) {
            return Err(TokenError::Damaged);
        }
        decode(content)
    }
}

fn decode(mut content: &[u8]) -> Result<Token, TokenError> {
    let damaged = |_| TokenError::Damaged;
    let version = content.try_get_u8().map_err(damaged)?;
    if version != VERSION {
        return Err(TokenError::Version(version));
    }
    let mut token =
        Token { id: [0; 8], secret: [0; 16], ca_fingerprint: [0; 32], expires_at: 0, uses: 0, addresses: Vec::new() };
    content.try_copy_to_slice(&mut token.id).map_err(damaged)?;
    content.try_copy_to_slice(&mut token.secret).map_err(damaged)?;
    content.try_copy_to_slice(&mut token.ca_fingerprint).map_err(damaged)?;
    token.expires_at = content.try_get_u64().map_err(damaged)?;
    token.uses = content.try_get_u16().map_err(damaged)?;
    let count = content.try_get_u8().map_err(damaged)?;
    if count == 0 || usize::from(count) > MAX_ADDRESSES {
        return Err(TokenError::Damaged);
    }
    for _ in 0..count {
        let ip: IpAddr = match content.try_get_u8().map_err(damaged)? {
            4 => content.try_get_u32().map_err(damaged)?.to_be_bytes().into(),
            6 => content.try_get_u128().map_err(damaged)?.to_be_bytes().into(),
            _ => return Err(TokenError::Damaged),
        };
        token.addresses.push((ip, content.try_get_u16().map_err(damaged)?).into());
    }
    if content.has_remaining() { Err(TokenError::Damaged) } else { Ok(token) }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Token {
        Token {
            id: [1; 8],
            secret: [2; 16],
            ca_fingerprint: [3; 32],
            expires_at: 1_800_000_000,
            uses: 3,
            addresses: vec!["10.0.0.1:7400".parse().expect("valid"), "[fd00::1]:7400".parse().expect("valid")],
        }
    }

    #[test]
    fn crc32_has_the_check_value_of_ieee() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn round_trip_and_every_cut_is_damage() {
        let text = sample().to_string();
        assert_eq!(text.parse(), Ok(sample()));
        assert_eq!("hello".parse::<Token>(), Err(TokenError::NotAToken));
        for cut in PREFIX.len()..text.len() {
            assert_eq!(text[..cut].parse::<Token>(), Err(TokenError::Damaged), "cut at {cut}");
        }
        assert_eq!(format!("{PREFIX}{}", "A".repeat(MAX_TEXT + 1)).parse::<Token>(), Err(TokenError::Damaged));
    }

    #[test]
    fn debug_hides_the_secret() {
        assert!(!format!("{:?}", sample()).contains("2, 2"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = text.parse::<Token>();
            let _ = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&bytes)).parse::<Token>();
            let _ = decode(&bytes);
        }
    }
}
