//! Standard normal values as `torch.randn` draws them on a CPU.
//!
//! Source: Matsumoto & Nishimura 1998 (MT19937); Box & Muller 1958; the two algorithms of PyTorch's `normal_`
//! kernels: below 16 values one by one in f64, from 16 on in blocks of 16 in f32.

use std::f64::consts::TAU;

/// The stream of PyTorch's CPU generator.
#[derive(Clone)]
pub(super) struct TorchCpu {
    words: MersenneTwister,
    /// The second value of a pair that the one-by-one algorithm computed and did not yet hand out.
    spare: Option<f64>,
}

/// Number of values from which on PyTorch draws in blocks.
const BLOCK: usize = 16;

impl TorchCpu {
    /// The stream of this seed, of which only the lower 32 bits count.
    pub(super) fn new(seed: u64) -> Self {
        Self { words: MersenneTwister::new(seed as u32), spare: None }
    }

    /// The next `count` values.
    pub(super) fn draw(&mut self, count: usize) -> Vec<f32> {
        if count < BLOCK { self.one_by_one(count) } else { self.in_blocks(count) }
    }

    fn one_by_one(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.next_normal() as f32).collect()
    }

    fn next_normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (angle, length) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * (-length).ln_1p()).sqrt();
        let angle = TAU * angle;
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }

    fn in_blocks(&mut self, count: usize) -> Vec<f32> {
        let mut values: Vec<f32> = (0..count).map(|_| self.uniform_f32()).collect();
        let (blocks, rest) = values.as_chunks_mut::<BLOCK>();
        let rest = rest.len();
        blocks.iter_mut().for_each(box_muller);
        if rest > 0 {
            // The last block overlaps the one before it and is drawn afresh.
            let last = values.last_chunk_mut::<BLOCK>().expect("at least one block was asked for");
            last.fill_with(|| self.words.uniform_f32());
            box_muller(last);
        }
        values
    }

    fn uniform_f32(&mut self) -> f32 {
        self.words.uniform_f32()
    }

    /// 53 random bits.
    fn uniform_f64(&mut self) -> f64 {
        let high = u64::from(self.words.next());
        let low = u64::from(self.words.next());
        let bits = ((high << 32) | low) & ((1 << 53) - 1);
        bits as f64 / (1u64 << 53) as f64
    }
}

/// Eight pairs of uniform values to eight pairs of normal ones; partners stand eight apart.
fn box_muller(block: &mut [f32; BLOCK]) {
    for index in 0..BLOCK / 2 {
        let radius = (-2.0 * (1.0 - block[index]).ln()).sqrt();
        let angle = std::f32::consts::TAU * block[index + 8];
        block[index] = radius * angle.cos();
        block[index + 8] = radius * angle.sin();
    }
}

/// The MT19937 generator.
#[derive(Clone)]
struct MersenneTwister {
    state: [u32; Self::SIZE],
    next: usize,
}

impl MersenneTwister {
    const SIZE: usize = 624;
    const SHIFT: usize = 397;

    fn new(seed: u32) -> Self {
        let mut state = [seed; Self::SIZE];
        for index in 1..Self::SIZE {
            let before = state[index - 1];
            // 1812433253: Knuth, The Art of Computer Programming vol. 2, as in the authors' 2002 initialisation.
            state[index] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(index as u32);
        }
        Self { state, next: Self::SIZE }
    }

    fn next(&mut self) -> u32 {
        if self.next == Self::SIZE {
            self.refill();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        // The tempering of the 1998 paper, table II.
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn refill(&mut self) {
        for index in 0..Self::SIZE {
            let upper = self.state[index] & 0x8000_0000;
            let lower = self.state[(index + 1) % Self::SIZE] & 0x7fff_ffff;
            let mixed = upper | lower;
            let twist = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[index] = self.state[(index + Self::SHIFT) % Self::SIZE] ^ (mixed >> 1) ^ twist;
        }
        self.next = 0;
    }

    /// 24 random bits.
    fn uniform_f32(&mut self) -> f32 {
        (self.next() & ((1 << 24) - 1)) as f32 / (1u32 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_authors_reference() {
        // First and 10,000th word for the default seed 5489: C++ standard, [rand.predef].
        let mut words = MersenneTwister::new(5489);
        assert_eq!(words.next(), 3_499_211_612);
        let last = (1..10_000).map(|_| words.next()).last();
        assert_eq!(last, Some(4_123_659_995));
    }

    #[test]
    fn an_odd_draw_keeps_its_spare_value_for_the_next() {
        let mut together = TorchCpu::new(7);
        let mut apart = TorchCpu::new(7);
        let all = together.one_by_one(4);
        let parts = [apart.one_by_one(1), apart.one_by_one(3)].concat();
        assert_eq!(all, parts);
    }
}
