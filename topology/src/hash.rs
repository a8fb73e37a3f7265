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

/// FNV-1a, 64 bits, of what `parts` are one after another (Fowler, Noll, Vo). It is part of the protocol, too, and of what is on
/// disk. Its low bits hardly mix.
pub fn fnv1a<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    parts.into_iter().flatten().fold(0xcbf2_9ce4_8422_2325, add)
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

    #[test]
    fn fnv_has_the_values_of_its_authors() {
        assert_eq!(fnv1a([]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a([&b"a"[..]]), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a([&b"foo"[..], b"bar"]), 0x8594_4171_f739_67e8);
    }
}
