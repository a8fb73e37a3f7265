//! The hash that puts hosts on a ring, and that hosts compare what they know by. It is part of the protocol: hosts that differ in
//! it draw different rings.

/// The finalizer of splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014): a
/// bijection of 64 bits in which each input bit moves about half of the output bits.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A hash of `words` in their order. Two lists that differ in the last word alone never collide.
pub fn hash(words: &[u64]) -> u64 {
    words.iter().fold(0, |state, word| mix(state ^ mix(*word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_are_those_of_the_paper_and_never_change() {
        // The first two outputs of splitmix64 seeded with 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(0x9e37_79b9_7f4a_7c15), 0x6e78_9e6a_a1b9_65f4);
        assert_ne!(hash(&[1, 2]), hash(&[2, 1]));
    }
}
