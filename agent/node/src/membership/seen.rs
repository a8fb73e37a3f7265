//! Which datagrams of a sender arrived already, so that the copy from the second uplink is discarded.

/// A sliding window over 128 sequence numbers, as IPsec's anti-replay window (RFC 4303 §3.4.3), but one that a
/// restarted sender resets: this is to save work, not to protect.
#[derive(Clone, Copy, Debug, Default)]
pub struct SeenWindow {
    /// Highest number seen; `bits` is of it and the 127 before.
    top: u32,
    bits: u128,
}

impl SeenWindow {
    /// Marks `sequence` as seen; true if it was not yet.
    pub fn insert(&mut self, sequence: u32) -> bool {
        let ahead = sequence.wrapping_sub(self.top);
        let behind = self.top.wrapping_sub(sequence);
        if self.bits != 0 && behind < 128 {
            let bit = 1u128 << behind;
            let new = self.bits & bit == 0;
            self.bits |= bit;
            return new;
        }
        self.bits = if ahead < 128 { self.bits << ahead | 1 } else { 1 };
        self.top = sequence;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::SeenWindow;

    #[test]
    fn second_copies_are_found_in_any_order_across_the_wrap_and_a_restart_is_accepted() {
        let mut window = SeenWindow::default();
        for sequence in [u32::MAX - 1, 0, u32::MAX, 1, 5, 3] {
            assert!(window.insert(sequence), "{sequence} is new");
            assert!(!window.insert(sequence), "{sequence} is a copy");
        }
        assert!(!window.insert(u32::MAX - 1));
        assert!(window.insert(4));
        assert!(window.insert(1_000_000), "a jump ahead");
        assert!(window.insert(7), "a restarted sender");
        assert!(!window.insert(7));
    }
}
