//! What agent and member say to each other: one message a packet, a byte of version and then postcard.
//!
//! Both ends decode only what the other one says. Nothing that is decoded allocates: texts and bytes are borrowed.

use alloc::vec::Vec;
use core::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::swim::Slot;

/// The first byte of every packet. Agent and program are installed together; another version is refused.
pub const VERSION: u8 = 1;

/// The most bytes of a packet: a question with all that may be sent.
pub const MAX_PACKET: usize = 2048;

/// The most bytes of an answer that a member passes on.
pub const MAX_HEARD: usize = 1024;

/// Bytes of a slot in a list of them: slot and generation, the high byte first.
const SLOT_LEN: usize = 4;

/// What an agent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order<'a> {
    /// Live this life, alone as yet. What was before is over.
    Begin {
        /// Who you are.
        me: Slot,
        /// For all your draws.
        seed: u64,
    },
    /// These have gone and come; see [`pack`].
    Roster {
        /// Packed.
        gone: &'a [u8],
        /// Packed.
        come: &'a [u8],
    },
    /// A message of SWIM to you.
    Letter(&'a [u8]),
    /// Ask this.
    Ask {
        /// Comes back with the answer.
        number: u32,
        /// Give up after so many milliseconds; the agent needs not to be told.
        timeout_ms: u32,
        /// What.
        #[serde(borrow)]
        question: Question<'a>,
    },
}

/// What can be asked from the inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question<'a> {
    /// A connection, and what comes over it.
    Connect {
        /// Where.
        #[serde(borrow)]
        to: Address<'a>,
        /// Sent first.
        send: &'a [u8],
        /// Whether to wait for an answer.
        listen: bool,
    },
    /// How old a file is, and how long.
    File(&'a str),
}

/// Where something listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address<'a> {
    /// By TCP.
    Tcp(SocketAddr),
    /// A unix socket of streams in the container's files.
    Unix(&'a str),
    /// One without a file (unix(7)).
    Abstract(&'a str),
}

/// What a member says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word<'a> {
    /// A message of SWIM to the member in this slot.
    Letter {
        /// The slot.
        to: u16,
        /// The message.
        bytes: &'a [u8],
    },
    /// What came of a question; of a connection that is listened to there may be several, each with all that came before.
    Answer {
        /// Of the question.
        number: u32,
        /// What.
        #[serde(borrow)]
        answer: Answer<'a>,
    },
}

/// What came of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer<'a> {
    /// The connection stands, and this came over it.
    Heard {
        /// At most [`MAX_HEARD`].
        bytes: &'a [u8],
        /// No more will come, or no more is read.
        ended: bool,
    },
    /// The file is there.
    File {
        /// Since it was last written, in milliseconds; 0 for one from the future.
        age_ms: u64,
        /// In bytes.
        size: u64,
    },
    /// The kernel refused, with this error (errno(3)).
    Failed(u16),
    /// It has too many questions already.
    Busy,
}

/// A packet that says nothing to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It is of this version.
    Version(u8),
    /// It is too long, too short, or no message.
    Bytes,
}

impl<'a> Order<'a> {
    /// As a packet; `None` if it is too long for one.
    pub fn encode(&self) -> Option<Vec<u8>> {
        encode(self)
    }

    /// Of a packet.
    pub fn decode(packet: &'a [u8]) -> Result<Self, Malformed> {
        decode(packet)
    }
}

impl<'a> Word<'a> {
    /// As a packet; `None` if it is too long for one.
    pub fn encode(&self) -> Option<Vec<u8>> {
        encode(self)
    }

    /// Of a packet.
    pub fn decode(packet: &'a [u8]) -> Result<Self, Malformed> {
        decode(packet)
    }
}

/// Slots as bytes, for [`Order::Roster`].
pub fn pack(slots: impl IntoIterator<Item = Slot>) -> Vec<u8> {
    let pack = |slot: Slot| slot.slot.to_be_bytes().into_iter().chain(slot.generation.to_be_bytes());
    slots.into_iter().flat_map(pack).collect()
}

/// The slots in bytes; what is too short for one at their end is left out.
pub fn unpack(bytes: &[u8]) -> impl Iterator<Item = Slot> {
    bytes.chunks_exact(SLOT_LEN).map(|slot| Slot {
        slot: u16::from_be_bytes([slot[0], slot[1]]),
        generation: u16::from_be_bytes([slot[2], slot[3]]),
    })
}

fn encode(message: &impl Serialize) -> Option<Vec<u8>> {
    let mut packet = Vec::with_capacity(64);
    packet.push(VERSION);
    // Into a vector it cannot fail.
    let packet = postcard::to_extend(message, packet).ok()?;
    (packet.len() <= MAX_PACKET).then_some(packet)
}

fn decode<'a, T: Deserialize<'a>>(packet: &'a [u8]) -> Result<T, Malformed> {
    match packet {
        [VERSION, message @ ..] if packet.len() <= MAX_PACKET => match postcard::take_from_bytes(message) {
            Ok((message, [])) => Ok(message),
            Ok(_) | Err(_) => Err(Malformed::Bytes),
        },
        [VERSION, ..] | [] => Err(Malformed::Bytes),
        [version, ..] => Err(Malformed::Version(*version)),
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    const ME: Slot = Slot { slot: 3, generation: 258 };

    #[test]
    fn every_message_reads_back_the_same() {
        let roster = pack([ME, Slot { slot: 1, generation: 1 }]);
        let connect = |to| Question::Connect { to, send: b"PING\r\n", listen: true };
        let orders = [
            Order::Begin { me: ME, seed: u64::MAX },
            Order::Roster { gone: &roster, come: &[] },
            Order::Letter(&[7; 128]),
            Order::Ask { number: 1, timeout_ms: 1000, question: Question::File("/tmp/alive") },
            Order::Ask { number: 2, timeout_ms: 10, question: connect(Address::Unix("/run/app")) },
            Order::Ask { number: 3, timeout_ms: 10, question: connect(Address::Abstract("app")) },
            Order::Ask { number: 4, timeout_ms: 10, question: connect(Address::Tcp(([127, 0, 0, 1], 80).into())) },
            Order::Ask { number: 5, timeout_ms: 10, question: connect(Address::Tcp(([0; 16], 80).into())) },
        ];
        for order in orders {
            assert_eq!(Order::decode(&order.encode().expect("it is short")), Ok(order));
        }
        let answer = |answer| Word::Answer { number: 9, answer };
        let words = [
            Word::Letter { to: 63, bytes: &[1, 2] },
            answer(Answer::Heard { bytes: &[0; MAX_HEARD], ended: true }),
            answer(Answer::File { age_ms: u64::MAX, size: 0 }),
            answer(Answer::Failed(111)),
            answer(Answer::Busy),
        ];
        for word in words {
            assert_eq!(Word::decode(&word.encode().expect("it is short")), Ok(word));
        }
    }

    /// Another build must read it.
    #[test]
    fn the_bytes_of_a_letter_and_a_life() {
        assert_eq!(Word::Letter { to: 300, bytes: b"ab" }.encode(), Some(vec![1, 0, 0xac, 2, 2, b'a', b'b']));
        assert_eq!(Order::Begin { me: ME, seed: 5 }.encode(), Some(vec![1, 0, 3, 0x82, 2, 5]));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let good = Word::Letter { to: 1, bytes: b"ab" }.encode().expect("it is short");
        let mut longer = good.clone();
        longer.push(0);
        for bad in [&[][..], &[VERSION], &good[..good.len() - 1], &longer, &[VERSION, 9], &[VERSION; MAX_PACKET + 1]] {
            assert_eq!(Word::decode(bad), Err(Malformed::Bytes), "{bad:?}");
        }
        assert_eq!(Word::decode(&[2, 0]), Err(Malformed::Version(2)));
        assert_eq!(Word::Letter { to: 1, bytes: &[0; MAX_PACKET] }.encode(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let _ = (Order::decode(&bytes), Word::decode(&bytes));
            prop_assert!(unpack(&bytes).count() <= bytes.len() / SLOT_LEN);
        }

        #[test]
        fn slots_read_back(slots in prop::collection::vec((any::<u16>(), any::<u16>()), 0..64)) {
            let slots: Vec<Slot> = slots.into_iter().map(|(slot, generation)| Slot { slot, generation }).collect();
            let packed = pack(slots.iter().copied());
            prop_assert_eq!(unpack(&packed).collect::<Vec<_>>(), slots);
        }
    }
}
