//! The trace of a run, as one number: two runs are the same if their numbers are.
//!
//! What goes into it is the same whether messages were encoded or handed over: time, kind, hosts, length.

use ringmesh_proto::Instant;

/// Every event so far, folded.
#[derive(Clone, Debug)]
pub(crate) struct Trace(u64);

/// FNV-1a's start and prime, on whole words.
impl Default for Trace {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Trace {
    /// Something happened; of `kind` the first eight bytes count.
    pub(crate) fn note(&mut self, now: Instant, kind: &str, to: u64, from: u64, len: u64) {
        let mut word = [0; 8];
        word.iter_mut().zip(kind.bytes()).for_each(|(out, byte)| *out = byte);
        for word in [now.as_nanos(), u64::from_le_bytes(word), to << 32 | from, len] {
            self.fold(word);
        }
    }

    /// Bytes that arrived.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.fold(u64::from_le_bytes(word));
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.0
    }

    fn fold(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }
}
