//! The queue of events: a wheel of buckets of time, with a heap for what lies beyond it.
//!
//! It owns the total order (time, sequence): what is pushed first comes first of what is due at the same time. It does
//! not know what it holds.
//!
//! ```text
//!  front: the bucket under the cursor, sorted ── wheel: the next 1.07 s, 65.5 µs a bucket ── beyond: a heap
//! ```

use std::{cmp::Reverse, collections::BinaryHeap};

/// A bucket spans 2^16 ns.
const BUCKET_BITS: u32 = 16;

/// Buckets of the wheel; a power of two.
const BUCKETS: usize = 1 << 14;

const WORDS: usize = BUCKETS / 64;

/// What is due, in order.
#[derive(Debug)]
pub struct Queue<T> {
    /// What is due first: the bucket under the cursor and whatever lies before it, the last one first.
    front: Vec<Entry<T>>,
    /// Number of the bucket that became `front`.
    cursor: u64,
    wheel: Vec<Vec<Entry<T>>>,
    /// One bit for each bucket of the wheel: not empty.
    filled: Box<[u64; WORDS]>,
    in_wheel: usize,
    beyond: BinaryHeap<Reverse<Entry<T>>>,
    pushed: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: u64,
    sequence: u64,
    item: T,
}

impl<T> Entry<T> {
    fn key(&self) -> (u64, u64) {
        (self.at, self.sequence)
    }

    fn bucket(&self) -> u64 {
        self.at >> BUCKET_BITS
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl<T> Eq for Entry<T> {}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            front: Vec::new(),
            cursor: 0,
            wheel: (0..BUCKETS).map(|_| Vec::new()).collect(),
            filled: Box::new([0; WORDS]),
            in_wheel: 0,
            beyond: BinaryHeap::new(),
            pushed: 0,
        }
    }
}

impl<T> Queue<T> {
    /// Adds what is due at `at`, in nanoseconds.
    pub fn push(&mut self, at: u64, item: T) {
        self.pushed += 1;
        let entry = Entry { at, sequence: self.pushed, item };
        let bucket = entry.bucket();
        if bucket <= self.cursor {
            // Descending: the next one is at the end.
            let place = self.front.partition_point(|other| other.key() > entry.key());
            self.front.insert(place, entry);
        } else if bucket < self.cursor + BUCKETS as u64 {
            self.put(entry);
        } else {
            self.beyond.push(Reverse(entry));
        }
    }

    /// The first that is due at `end` or before.
    pub fn pop(&mut self, end: u64) -> Option<(u64, T)> {
        if self.front.is_empty() && !self.advance() {
            return None;
        }
        if self.front.last().is_some_and(|entry| entry.at > end) {
            return None;
        }
        self.front.pop().map(|entry| (entry.at, entry.item))
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.front.len() + self.in_wheel + self.beyond.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn put(&mut self, entry: Entry<T>) {
        let slot = entry.bucket() as usize % BUCKETS;
        self.filled[slot / 64] |= 1 << (slot % 64);
        self.in_wheel += 1;
        self.wheel[slot].push(entry);
    }

    /// Makes the next bucket that is not empty the front. False if there is none.
    fn advance(&mut self) -> bool {
        let next = match self.next_filled() {
            Some(bucket) => bucket,
            None => match self.beyond.peek() {
                Some(Reverse(entry)) => entry.bucket(),
                None => return false,
            },
        };
        self.cursor = next;
        while self.beyond.peek().is_some_and(|Reverse(entry)| entry.bucket() < next + BUCKETS as u64) {
            let Some(Reverse(entry)) = self.beyond.pop() else { break };
            self.put(entry);
        }
        let slot = next as usize % BUCKETS;
        self.filled[slot / 64] &= !(1 << (slot % 64));
        std::mem::swap(&mut self.front, &mut self.wheel[slot]);
        self.in_wheel -= self.front.len();
        self.front.sort_unstable_by(|one, other| other.cmp(one));
        true
    }

    /// The first bucket after the cursor that is not empty.
    fn next_filled(&self) -> Option<u64> {
        if self.in_wheel == 0 {
            return None;
        }
        let start = (self.cursor + 1) as usize % BUCKETS;
        // From the start's word all around to the part of it that lies before the start.
        (0..=WORDS).find_map(|step| {
            let word = (start / 64 + step) % WORDS;
            let mask = match step {
                0 => u64::MAX << (start % 64),
                WORDS => !(u64::MAX << (start % 64)),
                _ => u64::MAX,
            };
            let bits = self.filled[word] & mask;
            let slot = word * 64 + bits.trailing_zeros() as usize;
            (bits != 0).then(|| self.cursor + 1 + ((slot + BUCKETS - start) % BUCKETS) as u64)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Pushes, each so long after the time reached, and pops.
    fn steps() -> impl Strategy<Value = Vec<Option<u64>>> {
        let after = prop_oneof![
            4 => 0_u64..200_000,
            4 => 0_u64..5_000_000,
            2 => 900_000_000_u64..1_200_000_000,
            1 => 0_u64..100_000_000_000,
            1 => Just(0_u64),
        ];
        prop::collection::vec(prop_oneof![3 => after.prop_map(Some), 2 => Just(None)], 0..400)
    }

    proptest! {
        #[test]
        fn it_pops_in_the_order_of_a_sorted_map(steps in steps(), horizon in 0_u64..3_000_000_000) {
            let mut queue = Queue::default();
            let mut model = BTreeMap::new();
            let mut now = 0;
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Some(after) => {
                        queue.push(now + after, number);
                        model.insert((now + after, number), number);
                    }
                    None => {
                        let end = now + horizon;
                        let first = model.first_key_value().map(|(key, _)| *key).filter(|(at, _)| *at <= end);
                        let expected = first.and_then(|key| Some((key.0, model.remove(&key)?)));
                        prop_assert_eq!(queue.pop(end), expected);
                        // As a run does: what is due later may have moved the cursor, and still more comes before it.
                        now = expected.map_or(end, |(at, _)| at);
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
            }
            let rest: Vec<_> = std::iter::from_fn(|| queue.pop(u64::MAX)).collect();
            let expected: Vec<_> = model.into_iter().map(|((at, _), number)| (at, number)).collect();
            prop_assert_eq!(rest, expected);
        }
    }
}
