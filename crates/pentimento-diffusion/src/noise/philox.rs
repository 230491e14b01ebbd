//! Standard normal values as `torch.randn` draws them on a CUDA device, and as A1111 computes them for "NV" and "GPU" seeds.
//!
//! Every value has a counter of its own: its index in the draw, and the number of the draw. On a device this holds for
//! draws of up to as many values as it has threads (some hundred thousand); beyond, a device's own size shows, which nobody
//! can know from a seed.
//! Source: Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3" (Philox 4x32-10); Box & Muller 1958, in
//! the form of cuRAND's `curand_normal4`, of whose four values PyTorch keeps the first here.

use std::f64::consts::TAU;

/// Multipliers and key increments of Philox 4x32: Salmon et al. 2011, table 2 and section 4.3 (the golden ratio, and
/// the root of 3 less one).
const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const KEY_STEPS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
const ROUNDS: usize = 10;

/// The stream of PyTorch's CUDA generator.
#[derive(Clone)]
pub(super) struct Philox {
    key: [u32; 2],
    draws: u32,
}

impl Philox {
    /// The stream of this seed, of which all 64 bits count.
    pub(super) fn new(seed: u64) -> Self {
        Self { key: halves(seed), draws: 0 }
    }

    /// The next `count` values.
    pub(super) fn draw(&mut self, count: usize) -> Vec<f32> {
        let draw = self.draws;
        self.draws += 1;
        let value = |index: usize| {
            let [low, high] = halves(index as u64);
            let [length, angle, ..] = words([draw, 0, low, high], self.key);
            normal(length, angle)
        };
        (0..count).map(value).collect()
    }
}

fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// A number from 0 to 3 that a seed gives for each counter.
pub(crate) fn quarter(seed: u64, [first, second, third]: [u32; 3]) -> usize {
    (words([first, second, third, 0], halves(seed))[0] >> 30) as usize
}

/// The four words of a counter.
fn words(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
        }
        let [low0, high0] = halves(u64::from(counter[0]) * u64::from(MULTIPLIERS[0]));
        let [low1, high1] = halves(u64::from(counter[2]) * u64::from(MULTIPLIERS[1]));
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
    }
    counter
}

/// The sine half of Box & Muller's pair, from words taken as the middles of 2^32 equal parts.
fn normal(length: u32, angle: u32) -> f32 {
    let part = |word: u32| (f64::from(word) + 0.5) / 4_294_967_296.0;
    ((-2.0 * part(length).ln()).sqrt() * (TAU * part(angle)).sin()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_authors_known_answers() {
        // `kat_vectors` of the authors' Random123 library, philox4x32, 10 rounds.
        let ones = u32::MAX;
        assert_eq!(words([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(words([ones; 4], [ones; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            words([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
