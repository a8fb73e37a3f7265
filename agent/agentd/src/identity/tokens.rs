//! What the issuer keeps of join tokens, in `tokens.json`.
//!
//! It owns the list and its bounds. Of a secret only the SHA-256 is kept: who reads the file cannot join with it.

use std::path::{Path, PathBuf};

use ringmesh_proto::ClusterId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{IdentityError, files};

/// The most tokens that can be used at one time.
pub const MAX_LIVE: usize = 1000;

/// The most that are kept, with those that have ended: for a clear answer to who still brings one.
const MAX_KEPT: usize = 2 * MAX_LIVE;

/// The list, in memory and on disk.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    cluster: ClusterId,
    tokens: Vec<StoredToken>,
}

/// `tokens.json`
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    cluster_id: String,
    tokens: Vec<StoredToken>,
}

/// One token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredToken {
    id: [u8; 8],
    secret_sha256: [u8; 32],
    expires_at: u64,
    uses_left: u16,
}

/// Why a token does not admit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// No such id, or another secret.
    Unknown,
    /// Expired at this Unix second.
    Expired(u64),
    /// Used as often as it may be.
    UsedUp,
}

impl TokenFile {
    /// Reads the list; an empty one if there is no file, or one that an earlier cluster left behind.
    pub(super) fn open(state_dir: &Path, cluster: ClusterId) -> Result<Self, IdentityError> {
        let path = state_dir.join("tokens.json");
        let Some(bytes) = files::read_secret_if_there(&path)? else {
            return Ok(Self { path, cluster, tokens: Vec::new() });
        };
        let stored: Stored = serde_json::from_slice(&bytes).map_err(|error| IdentityError::Damaged {
            path: path.clone(),
            message: format!("is not a list of tokens ({error})"),
            cure: "restore it from a backup, or move it away and make new tokens; the old ones are then void",
        })?;
        let tokens = if stored.cluster_id == cluster.to_string() { stored.tokens } else { Vec::new() };
        Ok(Self { path, cluster, tokens })
    }

    /// How many can be used now.
    pub(super) fn live(&self, now_unix: u64) -> usize {
        self.tokens.iter().filter(|token| token.is_live(now_unix)).count()
    }

    /// Adds a token; on disk before it returns.
    pub(super) fn add(
        &mut self,
        id: [u8; 8],
        secret: &[u8; 16],
        expires_at: u64,
        uses: u16,
        now_unix: u64,
    ) -> Result<(), IdentityError> {
        let mut tokens = self.tokens.clone();
        if tokens.len() >= MAX_KEPT {
            tokens.retain(|token| token.is_live(now_unix));
        }
        tokens.push(StoredToken { id, secret_sha256: Sha256::digest(secret).into(), expires_at, uses_left: uses });
        self.replace(tokens)
    }

    /// Checks a token and changes nothing.
    pub(super) fn check(&self, id: &[u8], secret: &[u8], now_unix: u64) -> Result<(), Unusable> {
        self.find(id, secret, now_unix).map(drop)
    }

    /// Takes one use off a token; on disk before it returns.
    pub(super) fn take_use(&mut self, id: &[u8], secret: &[u8], now_unix: u64) -> Result<(), TakeError> {
        let at = self.find(id, secret, now_unix)?;
        let mut tokens = self.tokens.clone();
        tokens[at].uses_left -= 1;
        Ok(self.replace(tokens)?)
    }

    fn find(&self, id: &[u8], secret: &[u8], now_unix: u64) -> Result<usize, Unusable> {
        let presented: [u8; 32] = Sha256::digest(secret).into();
        let at = self.tokens.iter().position(|token| token.id == *id).ok_or(Unusable::Unknown)?;
        let token = &self.tokens[at];
        if !equal_in_constant_time(&token.secret_sha256, &presented) {
            return Err(Unusable::Unknown);
        }
        if token.expires_at <= now_unix {
            return Err(Unusable::Expired(token.expires_at));
        }
        if token.uses_left == 0 { Err(Unusable::UsedUp) } else { Ok(at) }
    }

    /// On disk first: what memory says was never more than the disk did.
    fn replace(&mut self, tokens: Vec<StoredToken>) -> Result<(), IdentityError> {
        let stored = Stored { cluster_id: self.cluster.to_string(), tokens };
        let json = serde_json::to_vec(&stored).expect("tokens are plain data");
        files::write(&self.path, &json, files::SECRET)?;
        self.tokens = stored.tokens;
        Ok(())
    }
}

impl StoredToken {
    fn is_live(&self, now_unix: u64) -> bool {
        self.expires_at > now_unix && self.uses_left > 0
    }
}

/// Why no use was taken.
#[derive(Debug)]
pub(super) enum TakeError {
    /// The token's fault.
    Unusable(Unusable),
    /// The disk's.
    Disk(IdentityError),
}

impl From<Unusable> for TakeError {
    fn from(reason: Unusable) -> Self {
        Self::Unusable(reason)
    }
}

impl From<IdentityError> for TakeError {
    fn from(error: IdentityError) -> Self {
        Self::Disk(error)
    }
}

/// Takes as long for a first byte that differs as for the last.
fn equal_in_constant_time(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let differences = a.iter().zip(b).fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
    differences == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId::new(7);
    const ID: [u8; 8] = [1; 8];
    const SECRET: [u8; 16] = [2; 16];

    #[test]
    fn uses_are_counted_on_disk() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let open = || TokenFile::open(directory.path(), CLUSTER).expect("a good file or none");
        open().add(ID, &SECRET, 100, 2, 10).expect("it can be written");
        for _ in 0..2 {
            open().take_use(&ID, &SECRET, 99).expect("a use is left");
        }
        assert_eq!(open().check(&ID, &SECRET, 99), Err(Unusable::UsedUp));
        assert_eq!(open().live(10), 0);
        let other = TokenFile::open(directory.path(), ClusterId::new(8)).expect("a good file");
        assert_eq!(other.check(&ID, &SECRET, 99), Err(Unusable::Unknown), "tokens of another cluster are none");
    }

    #[test]
    fn expired_and_unknown_tokens_and_other_secrets_do_not_admit() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let mut file = TokenFile::open(directory.path(), CLUSTER).expect("no file");
        file.add(ID, &SECRET, 100, 1, 10).expect("it can be written");
        assert_eq!(file.check(&ID, &SECRET, 99), Ok(()));
        assert_eq!(file.check(&ID, &SECRET, 100), Err(Unusable::Expired(100)));
        assert_eq!(file.check(&[9; 8], &SECRET, 99), Err(Unusable::Unknown));
        for secret in [&[3; 16][..], &SECRET[..15], &[]] {
            assert_eq!(file.check(&ID, secret, 99), Err(Unusable::Unknown));
        }
    }

    #[test]
    fn a_use_that_cannot_be_written_down_is_not_given() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let mut file = TokenFile::open(directory.path(), CLUSTER).expect("no file");
        file.add(ID, &SECRET, 100, 1, 10).expect("it can be written");
        file.path = directory.path().join("gone/tokens.json");
        assert!(matches!(file.take_use(&ID, &SECRET, 20), Err(TakeError::Disk(_))));
        assert_eq!(file.check(&ID, &SECRET, 20), Ok(()));
    }

    #[test]
    fn the_list_is_bounded_and_holds_no_secret() {
        let directory = tempfile::tempdir().expect("a directory for the test");
        let mut file = TokenFile::open(directory.path(), CLUSTER).expect("no file");
        let ended = StoredToken { id: ID, secret_sha256: [0; 32], expires_at: 5, uses_left: 1 };
        file.tokens = vec![ended; MAX_KEPT];
        file.add(ID, b"sixteen letters!", 100, 1, 10).expect("it can be written");
        assert_eq!((file.tokens.len(), file.live(10)), (1, 1));
        let text = std::fs::read_to_string(&file.path).expect("JSON is text");
        let digits = b"sixteen letters!".map(|byte| byte.to_string()).join(",");
        assert!(!text.contains("sixteen") && !text.contains(&digits));
    }
}
