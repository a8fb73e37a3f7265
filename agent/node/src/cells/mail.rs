//! What members of a cell say to each other, within one turn of it.

use std::collections::VecDeque;

use super::member::MAX_LETTER;

/// Letters that wait in one turn of a cell. A turn in which each of 64 members probes and asks three others for help makes
/// some 700 of them; beyond that they are dropped, as SWIM allows.
const MAX_LETTERS: usize = 1024;

/// Letters of the cell whose turn it is. It is empty between turns.
#[derive(Default)]
pub(super) struct Mailbox {
    letters: VecDeque<Letter>,
    dropped: u64,
}

pub(super) struct Letter {
    pub(super) to: u16,
    len: u8,
    bytes: [u8; MAX_LETTER],
}

impl Letter {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Mailbox {
    pub(super) fn put(&mut self, to: u16, data: &[u8]) {
        if self.letters.len() == MAX_LETTERS || data.len() > MAX_LETTER {
            self.dropped += 1;
            return;
        }
        let mut bytes = [0; MAX_LETTER];
        bytes[..data.len()].copy_from_slice(data);
        self.letters.push_back(Letter { to, len: data.len() as u8, bytes });
    }

    pub(super) fn take(&mut self) -> Option<Letter> {
        self.letters.pop_front()
    }

    /// How many were dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}
