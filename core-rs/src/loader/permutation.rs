//! A keyed permutation of `0..len` in constant memory: an unbalanced Feistel network over the next power of two,
//! walked until it lands inside (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").

const ROUNDS: usize = 6;

/// `apply` is a bijection of `0..len`; another key gives another one.
pub struct Permutation {
    len: u64,
    low_bits: u32,
    high_bits: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..len` for `key`. `len` is at least 1.
    pub fn new(len: u64, key: u64) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros(); // the domain is at most twice `len`
        let mut state = key;
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(state)
        });
        Self {
            len,
            low_bits: bits.div_ceil(2),
            high_bits: bits / 2,
            keys,
        }
    }

    /// Where `index` (below `len`) goes.
    pub fn apply(&self, index: u64) -> u64 {
        let mut value = self.encrypt(index);
        while value >= self.len {
            value = self.encrypt(value); // leaves the orbit's outside part after less than two steps on average
        }
        value
    }

    /// One pass of the network over `high_bits + low_bits` bits: the halves swap roles each round, so after an even
    /// number of rounds they have their widths back.
    fn encrypt(&self, value: u64) -> u64 {
        let (mut low, mut high) = (value & mask(self.low_bits), value >> self.low_bits);
        let (mut low_bits, mut high_bits) = (self.low_bits, self.high_bits);
        for key in self.keys {
            high ^= mix(low ^ key) & mask(high_bits);
            std::mem::swap(&mut low, &mut high);
            std::mem::swap(&mut low_bits, &mut high_bits);
        }
        high << self.low_bits | low
    }
}

fn mask(bits: u32) -> u64 {
    (1u64 << bits) - 1 // bits is at most 32: half of 64
}

/// The finaliser of splitmix64 (Steele, Lea and Flood 2014): every input bit flips every output bit half the time.
pub(super) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_bijection(len in 1u64..3000, key: u64) {
            let permutation = Permutation::new(len, key);
            let mut seen = vec![false; len as usize];
            for index in 0..len {
                let to = permutation.apply(index) as usize;
                prop_assert!(!seen[to]);
                seen[to] = true;
            }
        }

        #[test]
        fn huge_domains_stay_inside(len in 1u64.., key: u64, index: u64) {
            prop_assert!(Permutation::new(len, key).apply(index % len) < len);
        }
    }

    #[test]
    fn places_are_uniform_over_keys() {
        // Chi-squared over 64 places of one index, 64k keys: 63 degrees of freedom, 99.99 % quantile 117.
        for (len, index) in [(64u64, 0u64), (64, 63), (50, 17)] {
            let mut counts = vec![0f64; len as usize];
            for key in 0..65_536u64 {
                counts[Permutation::new(len, mix(key)).apply(index) as usize] += 1.0;
            }
            let expected = 65_536.0 / len as f64;
            let chi: f64 = counts
                .iter()
                .map(|count| (count - expected).powi(2) / expected)
                .sum();
            assert!(chi < 117.0, "len {len} index {index}: {chi}");
        }
    }

    #[test]
    fn neighbours_part() {
        // Serial correlation of a permutation of 10^5 must be that of a random one: about N(0, 1/n).
        let n = 100_000u64;
        let permutation = Permutation::new(n, 7);
        let centred = |i: u64| permutation.apply(i) as f64 / n as f64 - 0.5;
        let sum: f64 = (0..n - 1).map(|i| centred(i) * centred(i + 1)).sum();
        let correlation = sum / n as f64 * 12.0;
        assert!(correlation.abs() < 5.0 / (n as f64).sqrt(), "{correlation}");
    }
}
