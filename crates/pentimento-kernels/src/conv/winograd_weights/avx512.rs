//! Weights' values in AVX-512: from taps to a panel without leaving the registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{AT_A, AT_B, PanelPart, TAPS, Taps, WinogradWeights, ZERO};
use crate::conv::winograd::{A, B, FLAT, Form, IN, SQUARE};
use crate::isa::Isa;
use crate::scratch::{LANES, Line, prefetch};

/// Whether [`expand`] can be called for a form.
pub(super) fn knows(form: Form, isa: Isa) -> bool {
    isa >= if form == Form::FlatPairs { Isa::Avx512Bf16 } else { Isa::Avx512 }
}

/// See [`WinogradWeights::expand`].
///
/// # Panics
/// If the panel or the taps are too short.
///
/// # Safety
/// The machine [`knows`] the form.
pub(super) unsafe fn expand(weights: &WinogradWeights, part: &PanelPart, panel: &mut [Line]) {
    let PanelPart { c_in, ref channels, ref steps, shape } = *part;
    let each = match weights.form {
        Form::Square => in_f32::<SQUARE>,
        Form::Flat => in_f32::<FLAT>,
        Form::FlatPairs => in_pairs,
    };
    assert!(steps.len() <= shape.row_lines * LANES * weights.form.per_word(), "rows of a panel");
    for (row, channel) in channels.clone().enumerate() {
        let kernels = Kernels { taps: &weights.taps, channel, c_in, end: steps.end };
        // SAFETY: the caller's promise.
        unsafe { each(&kernels, steps.clone(), &mut panel[row * shape.row_lines..], shape.value_stride) };
    }
}

/// The values of some input channels of an output channel, `stride` lines from one to the next, as pairs of bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn in_pairs(kernels: &Kernels, steps: Range<usize>, panel: &mut [Line], stride: usize) {
    for (line, from) in steps.step_by(2 * LANES).enumerate() {
        let (low, high) = (kernels.columns::<FLAT>(from), kernels.columns::<FLAT>(from + LANES));
        for y in 0..FLAT + 2 {
            let (low, high) = (along(&low, y), along(&high, y));
            for x in 0..IN {
                let out = &mut panel[(y * IN + x) * stride + line];
                // SAFETY: a line is as long as the register and aligned so; a __m512bh is 32 halves.
                unsafe {
                    let pairs =
                        std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high[x], low[x]));
                    _mm512_store_si512(std::ptr::from_mut(out).cast(), pairs);
                }
            }
        }
    }
}

/// The same in f32, for tiles with H rows of pixels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn in_f32<const H: usize>(kernels: &Kernels, steps: Range<usize>, panel: &mut [Line], stride: usize) {
    for (line, from) in steps.step_by(LANES).enumerate() {
        let columns = kernels.columns::<H>(from);
        for y in 0..H + 2 {
            let values = along(&columns, y);
            for x in 0..IN {
                let out = &mut panel[(y * IN + x) * stride + line];
                // SAFETY: a line is as long as the register and aligned so.
                unsafe { _mm512_store_ps(std::ptr::from_mut(out).cast(), values[x]) };
            }
        }
    }
}

/// The kernels of an output channel.
struct Kernels<'a> {
    taps: &'a Taps,
    channel: usize,
    c_in: usize,
    /// Input channels that count.
    end: usize,
}

impl Kernels<'_> {
    /// The columns of the kernels of 16 input channels from one on, transformed downwards: the first H + 2 values of each.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn columns<const H: usize>(&self, from: usize) -> [[__m512; IN]; 3] {
        let mut columns = [[_mm512_setzero_ps(); IN]; 3];
        for x in 0..3 {
            let column = [self.load(x, from), self.load(x + 3, from), self.load(x + 6, from)];
            columns[x] = if H == FLAT { transform_down(column) } else { transform(column) };
        }
        columns
    }

    /// A tap of 16 input channels, zero where there are fewer; asks for the same of the next output channel, since each weight
    /// comes from far away and is used once per task.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn load(&self, tap: usize, from: usize) -> __m512 {
        let count = self.end.saturating_sub(from).min(LANES);
        let first = (self.channel * TAPS + tap) * self.c_in + from.min(self.end);
        let (mask, next) = (((1_u32 << count) - 1) as __mmask16, TAPS * self.c_in);
        match self.taps {
            Taps::F32(taps) => {
                let taps = taps[first..][..count].as_ptr();
                prefetch(taps.wrapping_add(next));
                // SAFETY: the masked load reads `count` values of the slice.
                unsafe { _mm512_maskz_loadu_ps(mask, taps) }
            }
            Taps::F16(taps) => {
                let taps = taps[first..][..count].as_ptr();
                prefetch(taps.wrapping_add(next).cast());
                // SAFETY: as above; an f16 has two bytes.
                _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask, taps.cast()) })
            }
            Taps::Int8(taps, scales) => {
                let taps = taps[first..][..count].as_ptr();
                prefetch(taps.wrapping_add(next).cast());
                // SAFETY: as above.
                let steps = _mm512_cvtepi8_epi32(unsafe { _mm_maskz_loadu_epi8(mask, taps) });
                _mm512_mul_ps(_mm512_cvtepi32_ps(steps), _mm512_set1_ps(scales[self.channel]))
            }
        }
    }
}

/// A row of values, of columns that were transformed downwards.
#[inline]
#[target_feature(enable = "avx512f")]
fn along(columns: &[[__m512; IN]; 3], y: usize) -> [__m512; IN] {
    transform([columns[0][y], columns[1][y], columns[2][y]])
}

/// See [`super::transform_weights`].
#[inline]
#[target_feature(enable = "avx512f")]
fn transform([g0, g1, g2]: [__m512; 3]) -> [__m512; IN] {
    let of = |value: f64| _mm512_set1_ps(value as f32);
    let even = |at: f64, square: f64| _mm512_fmadd_ps(of(at * square), g2, _mm512_mul_ps(of(at), g0));
    let (even_a, odd_a) = (even(AT_A, A * A), _mm512_mul_ps(of(AT_A * A), g1));
    let (even_b, odd_b) = (even(AT_B, B * B), _mm512_mul_ps(of(AT_B * B), g1));
    [
        _mm512_mul_ps(_mm512_set1_ps(ZERO), g0),
        _mm512_add_ps(even_a, odd_a),
        _mm512_sub_ps(even_a, odd_a),
        _mm512_add_ps(even_b, odd_b),
        _mm512_sub_ps(even_b, odd_b),
        g2,
    ]
}

/// See [`super::transform_weights_down`].
#[inline]
#[target_feature(enable = "avx512f")]
fn transform_down([g0, g1, g2]: [__m512; 3]) -> [__m512; IN] {
    let (half, zero) = (_mm512_set1_ps(0.5), _mm512_setzero_ps());
    let ends = _mm512_add_ps(g0, g2);
    let (sum, difference) = (_mm512_add_ps(ends, g1), _mm512_sub_ps(ends, g1));
    [g0, _mm512_mul_ps(half, sum), _mm512_mul_ps(half, difference), g2, zero, zero]
}

#[cfg(test)]
mod tests {
    use super::super::PanelShape;
    use super::*;
    use crate::pack::WeightsRef;

    #[test]
    fn values_are_those_of_plain_code_bit_for_bit() {
        if Isa::detect() < Isa::Avx512Bf16 {
            return;
        }
        // A part that ends within a register, and one that fills them.
        for (c_in, steps) in [(45, 0..45_usize), (160, 32..160)] {
            let weights: Vec<f32> =
                (0..2 * TAPS * c_in).map(|at| ((at * 37 % 101) as f32 - 50.3) / 9.0).collect();
            let weights = WeightsRef::from(&weights[..]);
            for packed in [
                WinogradWeights::new(Form::Square, weights, 2, c_in),
                WinogradWeights::new(Form::Flat, weights, 2, c_in),
                WinogradWeights::new(Form::FlatPairs, weights, 2, c_in),
                WinogradWeights::new_int8(Form::Square, weights, 2, c_in),
                WinogradWeights::new_int8(Form::FlatPairs, weights, 2, c_in),
            ] {
                let words = steps.len().div_ceil(packed.form.per_word());
                let row_lines = steps.len().div_ceil(LANES * packed.form.per_word());
                let shape = PanelShape { row_lines, value_stride: 2 * row_lines + 1 };
                let part = PanelPart { c_in, channels: 0..2, steps: steps.clone(), shape };
                let [mut fast, mut plain] =
                    [(); 2].map(|()| vec![Line::ZERO; packed.form.values() * shape.value_stride]);
                // SAFETY: the machine has AVX-512 and bf16.
                unsafe { expand(&packed, &part, &mut fast) };
                packed.expand_plainly(Isa::Avx512Bf16, &part, &mut plain);
                for (value, row) in (0..packed.form.values()).flat_map(|value| [(value, 0), (value, 1)]) {
                    let words_of = |panel: &[Line]| -> Vec<u32> {
                        let row = &panel[value * shape.value_stride + row * row_lines..][..row_lines];
                        row.iter().flat_map(|line| line.0).take(words).collect()
                    };
                    assert_eq!(words_of(&fast), words_of(&plain), "{:?}, value {value}", packed.form);
                }
            }
        }
    }
}
