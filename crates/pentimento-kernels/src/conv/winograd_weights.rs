//! Weights of a 3×3 convolution transformed for Winograd's algorithm: `[36][c_out][c_in]`.
//!
//! Computed in f64 and rounded once, to f32 or to f16. A row's kernels lie tap by tap in the checkpoint's order; they
//! are first parted into nine planes over the channels, so that the channels are lanes.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::winograd::{A, B, IN};
use crate::gemm::{ROWS, STEPS};
use crate::isa::{Arith, Isa, per_isa};
use crate::pack::WeightsRef;
use crate::scratch::{LANES, prefetch};

/// Values of a tile's transform.
const VALUES: usize = IN * IN;

/// Transformed weights, by storage.
#[derive(Clone, Debug)]
pub(super) enum WinogradWeights {
    F32(Vec<f32>),
    F16(Vec<f16>),
}

impl WinogradWeights {
    pub(super) fn transform_f32(weights: WeightsRef, c_out: usize, c_in: usize) -> WinogradWeights {
        WinogradWeights::F32(transform(weights, c_out, c_in, |row, out: &mut [f32]| out.copy_from_slice(row)))
    }

    pub(super) fn transform_f16(weights: WeightsRef, c_out: usize, c_in: usize) -> WinogradWeights {
        WinogradWeights::F16(transform(weights, c_out, c_in, |row, out: &mut [f16]| {
            out.convert_from_f32_slice(row);
        }))
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            WinogradWeights::F32(values) => size_of_val(&values[..]),
            WinogradWeights::F16(values) => size_of_val(&values[..]),
        }
    }

    /// The left factor of a register tile, `count` steps of `rows` rows from index `from` on, `stride` apart: the
    /// words and their stride. f16 is widened into `panel`. The next tile's weights are asked for, since each is used
    /// once per task and comes from far away.
    pub(super) fn panel(
        &self,
        isa: Isa,
        from: usize,
        stride: usize,
        rows: usize,
        count: usize,
        panel: &mut [f32; ROWS * STEPS],
    ) -> (*const u32, usize) {
        match self {
            WinogradWeights::F32(values) => {
                for row in ROWS..2 * ROWS {
                    for at in (0..count).step_by(LANES) {
                        prefetch(values.as_ptr().wrapping_add(from + row * stride + at));
                    }
                }
                assert!(from + (rows - 1) * stride + count <= values.len(), "transformed weights");
                (values[from..].as_ptr().cast(), stride)
            }
            WinogradWeights::F16(values) => {
                for (row, panel) in panel.chunks_exact_mut(STEPS).take(rows).enumerate() {
                    let next = from + (row + ROWS) * stride;
                    for at in (0..count).step_by(2 * LANES) {
                        prefetch(values.as_ptr().wrapping_add(next + at).cast());
                    }
                    widen(isa, &values[from + row * stride..][..count], &mut panel[..count]);
                }
                (panel.as_ptr().cast(), STEPS)
            }
        }
    }
}

/// f16 to f32.
fn widen(isa: Isa, from: &[f16], to: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 {
        // SAFETY: the level was checked when it became current.
        return unsafe { widen_avx512(from, to) };
    }
    let _ = isa;
    from.convert_to_f32_slice(to);
}

/// The same, 16 at a time: the library asks for the processor's abilities at each call, and takes 8.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn widen_avx512(from: &[f16], to: &mut [f32]) {
    use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps, _mm512_storeu_ps};
    let (lines, rest) = from.as_chunks::<LANES>();
    let (out_lines, out_rest) = to[..from.len()].as_chunks_mut::<LANES>();
    for (line, out) in lines.iter().zip(out_lines) {
        // SAFETY: both hold 16 values, an f16 has two bytes.
        unsafe {
            _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(line.as_ptr().cast())))
        };
    }
    rest.convert_to_f32_slice(out_rest);
}

/// Transforms all weights; `store` converts a row of `c_in` values.
fn transform<T: Copy + Default + Send>(
    weights: WeightsRef,
    c_out: usize,
    c_in: usize,
    store: impl Fn(&[f32], &mut [T]) + Sync,
) -> Vec<T> {
    let isa = Isa::current();
    let mut out = vec![T::default(); VALUES * c_out * c_in];
    // The rows of one output channel, one from each of the 36 planes.
    let mut planes: Vec<_> = out
        .chunks_exact_mut((c_out * c_in).max(1))
        .map(|plane| plane.chunks_exact_mut(c_in.max(1)))
        .collect();
    let channels: Vec<Vec<&mut [T]>> =
        (0..c_out).map(|_| planes.iter_mut().filter_map(Iterator::next).collect()).collect();
    channels.into_par_iter().enumerate().for_each_init(
        || (vec![0.0; 9 * c_in], vec![0.0; 9 * c_in], vec![0.0; VALUES * c_in]),
        |(row, taps, values), (channel, targets)| {
            weights.read(channel * 9 * c_in, row);
            for (at, kernel) in row.chunks_exact(9).enumerate() {
                for (tap, weight) in kernel.iter().enumerate() {
                    taps[tap * c_in + at] = *weight;
                }
            }
            transform_planes(isa, taps, c_in, values);
            for (values, target) in values.chunks_exact(c_in).zip(targets) {
                store(values, target);
            }
        },
    );
    out
}

per_isa!(fn transform_planes(taps: &[f32], c_in: usize, values: &mut [f32]) = transform_planes_body);

/// `[9][c_in]` taps to `[36][c_in]` values.
#[inline(always)]
fn transform_planes_body<R: Arith>(taps: &[f32], c_in: usize, values: &mut [f32]) {
    for from in (0..c_in).step_by(8) {
        let lanes = 8.min(c_in - from);
        let mut kernel = [[[0.0_f64; 8]; 3]; 3];
        for y in 0..3 {
            for x in 0..3 {
                for lane in 0..lanes {
                    kernel[y][x][lane] = f64::from(taps[(3 * y + x) * c_in + from + lane]);
                }
            }
        }
        let mut columns = [[[0.0_f64; 8]; IN]; 3];
        for x in 0..3 {
            columns[x] = transform_three(&kernel[0][x], &kernel[1][x], &kernel[2][x]);
        }
        for y in 0..IN {
            let row = transform_three(&columns[0][y], &columns[1][y], &columns[2][y]);
            for x in 0..IN {
                for lane in 0..lanes {
                    values[(y * IN + x) * c_in + from + lane] = row[x][lane] as f32;
                }
            }
        }
    }
}

/// The polynomial with coefficients `g` at each point, divided by the product of its distances to the others.
#[inline(always)]
fn transform_three(g0: &[f64; 8], g1: &[f64; 8], g2: &[f64; 8]) -> [[f64; 8]; IN] {
    const ZERO: f64 = 1.0 / (A * A * B * B);
    const AT_A: f64 = 0.5 / (A * A * (A * A - B * B));
    const AT_B: f64 = 0.5 / (B * B * (B * B - A * A));
    let mut out = [[0.0; 8]; IN];
    for l in 0..8 {
        let (even_a, odd_a) = (AT_A * (g0[l] + A * A * g2[l]), AT_A * A * g1[l]);
        let (even_b, odd_b) = (AT_B * (g0[l] + B * B * g2[l]), AT_B * B * g1[l]);
        out[0][l] = ZERO * g0[l];
        out[1][l] = even_a + odd_a;
        out[2][l] = even_a - odd_a;
        out[3][l] = even_b + odd_b;
        out[4][l] = even_b - odd_b;
        out[5][l] = g2[l];
    }
    out
}
