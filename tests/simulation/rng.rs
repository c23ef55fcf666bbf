//! The world's only randomness: SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").

/// A stream of numbers that depends on nothing but its seed.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0. The bias is below 2⁻⁴⁰ for the small `n` of a world.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n
    }
}

#[test]
fn the_stream_is_splitmix64() {
    // First outputs for seed 1234567, as published with the algorithm's reference code.
    let mut rng = Rng::new(1_234_567);
    assert_eq!(rng.next_u64(), 6_457_827_717_110_365_317);
    assert_eq!(rng.next_u64(), 3_203_168_211_198_807_973);
}
