//! Weights' values in AVX-512: from taps to a panel without leaving the registers.

use std::arch::x86_64::*;
use std::ops::Range;

use half::f16;

use super::{AT_A, AT_B, PanelPart, TAPS, Taps, WinogradWeights, ZERO};
use crate::conv::winograd::{A, B, FLAT, Form, IN, SQUARE, values_in};
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
    assert!(steps.len() <= shape.row_lines * LANES * weights.form.per_word(), "rows of a panel");
    assert!(steps.end <= c_in, "input channels");
    for (row, channel) in channels.clone().enumerate() {
        let taps = channel * TAPS * c_in..(channel + 1) * TAPS * c_in;
        let panel = Rows { panel: &mut panel[row * shape.row_lines..], stride: shape.value_stride };
        // SAFETY: the caller's promise.
        unsafe {
            match &weights.taps {
                Taps::F32(all) => {
                    row_of(weights.form, &Kernels { taps: &all[taps], scale: 1.0, c_in }, steps, panel)
                }
                Taps::F16(all) => {
                    row_of(weights.form, &Kernels { taps: &all[taps], scale: 1.0, c_in }, steps, panel)
                }
                Taps::Int8(all, scales) => {
                    let scale = scales[channel];
                    row_of(weights.form, &Kernels { taps: &all[taps], scale, c_in }, steps, panel);
                }
            }
        }
    }
}

/// A panel from an output channel's row of its first value on.
struct Rows<'a> {
    panel: &'a mut [Line],
    /// Lines from one value to the next.
    stride: usize,
}

/// The values of some input channels of an output channel.
///
/// # Safety
/// The machine [`knows`] the form.
unsafe fn row_of<T: Tap>(form: Form, kernels: &Kernels<T>, steps: &Range<usize>, panel: Rows) {
    // SAFETY: the caller's promise.
    unsafe {
        match form {
            Form::Square => in_f32::<SQUARE, T>(kernels, steps, panel),
            Form::Flat => in_f32::<FLAT, T>(kernels, steps, panel),
            Form::FlatPairs => in_pairs(kernels, steps, panel),
        }
    }
}

/// As pairs of bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn in_pairs<T: Tap>(kernels: &Kernels<T>, steps: &Range<usize>, Rows { panel, stride }: Rows) {
    for (line, from) in steps.clone().step_by(2 * LANES).enumerate() {
        kernels.ask(from);
        // Not by a closure, whose result would go through memory.
        let (middle, end) = (steps.end.min(from + LANES), steps.end.min(from + 2 * LANES));
        let (low, high) = (kernels.columns::<FLAT>(from..middle), kernels.columns::<FLAT>(middle..end));
        assert!(panel.len() > (values_in(FLAT) - 1) * stride + line, "lines of a panel");
        for y in 0..FLAT + 2 {
            let (low, high) = (along(&low, y), along(&high, y));
            for x in 0..IN {
                let out = panel.as_mut_ptr().wrapping_add((y * IN + x) * stride + line);
                // SAFETY: the line lies inside by the assertion, is as long as the register and aligned so; a __m512bh is 32
                // halves.
                unsafe {
                    let pairs =
                        std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high[x], low[x]));
                    _mm512_store_si512(out.cast(), pairs);
                }
            }
        }
    }
}

/// In f32, for tiles with H rows of pixels.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn in_f32<const H: usize, T: Tap>(kernels: &Kernels<T>, steps: &Range<usize>, Rows { panel, stride }: Rows) {
    for (line, from) in steps.clone().step_by(LANES).enumerate() {
        kernels.ask(from);
        let columns = kernels.columns::<H>(from..steps.end.min(from + LANES));
        assert!(panel.len() > (values_in(H) - 1) * stride + line, "lines of a panel");
        for y in 0..H + 2 {
            let values = along(&columns, y);
            for x in 0..IN {
                let out = panel.as_mut_ptr().wrapping_add((y * IN + x) * stride + line);
                // SAFETY: the line lies inside by the assertion, is as long as the register and aligned so.
                unsafe { _mm512_store_ps(out.cast(), values[x]) };
            }
        }
    }
}

/// How a tap is stored.
trait Tap {
    /// The taps of the lanes in the mask, zero in the others.
    ///
    /// # Safety
    /// Those taps can be read, and the machine has AVX-512 with BW and VL.
    unsafe fn load(from: *const Self, lanes: __mmask16, scale: f32) -> __m512;
}

impl Tap for f32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(from: *const f32, lanes: __mmask16, _scale: f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_maskz_loadu_ps(lanes, from) }
    }
}

impl Tap for f16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(from: *const f16, lanes: __mmask16, _scale: f32) -> __m512 {
        // SAFETY: the caller's promise; an f16 has two bytes.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, from.cast())) }
    }
}

impl Tap for i8 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(from: *const i8, lanes: __mmask16, scale: f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            let steps = _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(lanes, from));
            _mm512_mul_ps(_mm512_cvtepi32_ps(steps), _mm512_set1_ps(scale))
        }
    }
}

/// The kernels of an output channel.
struct Kernels<'a, T> {
    /// `[9][c_in]`.
    taps: &'a [T],
    /// What a step means, of such that are stored in steps.
    scale: f32,
    c_in: usize,
}

impl<T: Tap> Kernels<'_, T> {
    /// Asks for the kernels of the next output channel, from an input channel on: each weight comes from far away and is used once
    /// per task.
    #[inline(always)]
    fn ask(&self, from: usize) {
        for tap in TAPS..2 * TAPS {
            prefetch(self.taps.as_ptr().wrapping_add(tap * self.c_in + from).cast());
        }
    }

    /// The columns of the kernels of up to 16 input channels, transformed downwards: the first H + 2 values of each.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn columns<const H: usize>(&self, steps: Range<usize>) -> [[__m512; IN]; 3] {
        let (lanes, from) = (((1_u32 << steps.len()) - 1) as __mmask16, steps.start);
        assert!(steps.end <= self.c_in && self.taps.len() >= TAPS * self.c_in, "taps of a kernel");
        let taps = self.taps.as_ptr();
        // SAFETY: the taps of the lanes lie inside by the assertion.
        let load =
            |tap: usize| unsafe { T::load(taps.wrapping_add(tap * self.c_in + from), lanes, self.scale) };
        let mut columns = [[_mm512_setzero_ps(); IN]; 3];
        for x in 0..3 {
            let column = [load(x), load(x + 3), load(x + 6)];
            columns[x] = if H == FLAT { transform_down(column) } else { transform(column) };
        }
        columns
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
