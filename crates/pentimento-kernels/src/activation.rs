//! Activations, elementwise: vectorised by the compiler from branch-free scalar code.
//!
//! Errors against the exact functions: `exp` 1 ulp, `erf` 1.2e-7 absolute; NaN and infinities as in `std`.
//! Source: the polynomials are our own Chebyshev fits (40 digits, then rounded to f32).

use rayon::prelude::*;

use crate::isa::{Arith, Isa, per_isa};

/// Elements per task: large enough to make a task worth its start, small enough to stay in the first-level cache.
pub(crate) const CHUNK: usize = 4096;

/// `e^x`.
#[inline(always)]
pub(crate) fn exp<A: Arith>(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN_2_HIGH: f32 = 355.0 / 512.0; // Few bits: products with |n| < 2^15 are exact.
    const LN_2_LOW: f32 = -2.121_944_4e-4; // ln 2 - 355/512
    const SHIFTER: f32 = 12_582_912.0; // 1.5 · 2^23: adding it rounds to an integer held in the low bits.
    let clamped = if x < -87.3 { -87.3 } else { x };
    let shifted = A::fma(clamped, LOG2_E, SHIFTER);
    let n = shifted - SHIFTER;
    let r = A::fma(n, -LN_2_LOW, A::fma(n, -LN_2_HIGH, clamped));
    let mut q = A::fma(1.392_626_8e-3, r, 8.363_247e-3);
    q = A::fma(q, r, 4.166_655_4e-2);
    q = A::fma(q, r, 0.166_665_77);
    q = A::fma(q, r, 0.5);
    let p = A::fma(q, r * r, r) + 1.0;
    let scaled = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    // Below -87.3 the result would be subnormal or zero.
    let low = if x < -87.3 { 0.0 } else { scaled };
    let high = if x > 88.722_83 { f32::INFINITY } else { low };
    if x.is_nan() { x } else { high }
}

/// The numbers of [`exp2`].
pub(crate) struct Exp2;

impl Exp2 {
    /// What lies below is taken for this, whose power is 0.
    pub(crate) const LEAST: f32 = -127.0;
    /// Adding it, 1.5 · 2^23 and the bias of an exponent, rounds to an integer, which then lies biased in the low bits.
    pub(crate) const SHIFTER: f32 = 12_582_912.0 + 127.0;
    /// Of the polynomial for `2^r` on [-1/2, 1/2], the highest power first: our own Chebyshev fit, with an error of 8e-8. The
    /// last one need not be exact, since attention's weights are divided by their sum.
    pub(crate) const TERMS: [f32; 6] =
        [1.339_086_3e-3, 9.676_032e-3, 5.550_357e-2, 0.240_221_07, std::f32::consts::LN_2, 1.000_000_1];
}

/// `2^x` for `x` below 127 (or NaN), to 2 ulp; from about -126.5 down it is 0.
#[inline(always)]
pub(crate) fn exp2<A: Arith>(x: f32) -> f32 {
    let clamped = if x < Exp2::LEAST { Exp2::LEAST } else { x };
    let shifted = clamped + Exp2::SHIFTER;
    let r = clamped - (shifted - Exp2::SHIFTER);
    let mut p = Exp2::TERMS[0];
    for term in &Exp2::TERMS[1..] {
        p = A::fma(p, r, *term);
    }
    // 2^n: the biased integer as exponent; for -127 it is 0. A product keeps NaN, unlike an addition to p's exponent.
    p * f32::from_bits(shifted.to_bits() << 23)
}

/// The error function.
#[inline(always)]
pub(crate) fn erf<A: Arith>(x: f32) -> f32 {
    let t = x.abs();
    // |x| < 1: x · P(x²).
    let s = x * x;
    let mut p = A::fma(7.875_875e-5, s, -8.016_864_3e-4);
    p = A::fma(p, s, 5.189_087_4e-3);
    p = A::fma(p, s, -2.685_421_2e-2);
    p = A::fma(p, s, 0.112_835_95);
    p = A::fma(p, s, -0.376_126_27);
    p = A::fma(p, s, std::f32::consts::FRAC_2_SQRT_PI);
    let small = p * x;
    // Beyond: 1 - 2^Q(|x|), Q fitted to log₂(erfc) on [1, 4]; at 4 the result is 1 in f32.
    let t4 = if t > 4.0 { 4.0 } else { t };
    let mut q = A::fma(2.361_910_2e-6, t4, -6.644_770_5e-5);
    q = A::fma(q, t4, 8.610_085_4e-4);
    q = A::fma(q, t4, -6.866_645_5e-3);
    q = A::fma(q, t4, 3.811_764_3e-2);
    q = A::fma(q, t4, -0.158_811_99);
    q = A::fma(q, t4, -0.911_532_3);
    q = A::fma(q, t4, -1.630_582_1);
    q = A::fma(q, t4, 4.618_615_8e-4);
    let large = (1.0 - exp2::<A>(q)).copysign(x);
    if t < 1.0 { small } else { large }
}

#[inline(always)]
pub(crate) fn silu_of<A: Arith>(x: f32) -> f32 {
    x / (1.0 + exp::<A>(-x))
}

#[inline(always)]
pub(crate) fn gelu_of<A: Arith>(x: f32) -> f32 {
    0.5 * x * (1.0 + erf::<A>(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// [`gelu_of`] within 4e-5, a twentieth of what rounding a result of 1 to bf16 costs, in a third of the instructions. The
/// polynomial is our own minimax fit to `erf(x/√2) / x` in `x²`, which gives 1 where it ends.
#[inline(always)]
pub(crate) fn near_gelu_of<A: Arith>(x: f32) -> f32 {
    const END: f32 = 4.35;
    let t = if x > END { END } else { x };
    let t = if t < -END { -END } else { t };
    let s = t * t;
    let mut p = A::fma(8.661_15e-11, s, -8.792_107_5e-9);
    p = A::fma(p, s, 3.934_056_3e-7);
    p = A::fma(p, s, -1.031_213_6e-5);
    p = A::fma(p, s, 1.782_149_2e-4);
    p = A::fma(p, s, -2.173_557_9e-3);
    p = A::fma(p, s, 1.952_375_3e-2);
    p = A::fma(p, s, -0.132_600_17);
    p = A::fma(p, s, 0.797_833_6);
    let half = 0.5 * x;
    A::fma(half, t * p, half)
}

#[inline(always)]
pub(crate) fn quick_gelu_of<A: Arith>(x: f32) -> f32 {
    x / (1.0 + exp::<A>(-1.702 * x)) // 1.702: the constant of CLIP's quick-GELU.
}

per_isa!(fn silu_chunk(x: &mut [f32]) = silu_body);
per_isa!(fn gelu_chunk(x: &mut [f32]) = gelu_body);
per_isa!(fn quick_gelu_chunk(x: &mut [f32]) = quick_gelu_body);
per_isa!(fn geglu_row(x: &[f32], out: &mut [f32]) = geglu_body);
per_isa!(fn softmax_row(row: &mut [f32]) = softmax_body);

#[inline(always)]
fn silu_body<A: Arith>(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = silu_of::<A>(*x));
}

#[inline(always)]
fn gelu_body<A: Arith>(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = gelu_of::<A>(*x));
}

#[inline(always)]
fn quick_gelu_body<A: Arith>(x: &mut [f32]) {
    x.iter_mut().for_each(|x| *x = quick_gelu_of::<A>(*x));
}

#[inline(always)]
fn geglu_body<A: Arith>(x: &[f32], out: &mut [f32]) {
    let (values, gates) = x.split_at(out.len());
    for ((out, value), gate) in out.iter_mut().zip(values).zip(gates) {
        *out = value * gelu_of::<A>(*gate);
    }
}

#[inline(always)]
fn softmax_body<A: Arith>(row: &mut [f32]) {
    let max = fold_lanes(row, f32::NEG_INFINITY, |lane, x| if x > lane { x } else { lane });
    for x in row.iter_mut() {
        *x = exp::<A>(*x - max);
    }
    let scale = 1.0 / fold_lanes(row, 0.0, |lane, x| lane + x);
    row.iter_mut().for_each(|x| *x *= scale);
}

/// Folds a slice in 16 interleaved lanes, then the lanes in order: vectorisable, and the order is fixed.
#[inline(always)]
pub(crate) fn fold_lanes(values: &[f32], start: f32, fold: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 16];
    let chunks = values.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..16 {
            lanes[lane] = fold(lanes[lane], chunk[lane]);
        }
    }
    for (lane, value) in lanes.iter_mut().zip(rest) {
        *lane = fold(*lane, *value);
    }
    for width in [8, 4, 2, 1] {
        for lane in 0..width {
            lanes[lane] = fold(lanes[lane], lanes[lane + width]);
        }
    }
    lanes[0]
}

/// `x · sigmoid(x)`, in place.
pub fn silu(x: &mut [f32]) {
    let isa = Isa::current();
    x.par_chunks_mut(CHUNK).for_each(|x| silu_chunk(isa, x));
}

/// `x · Φ(x)` with the exact (erf) normal distribution, in place.
pub fn gelu(x: &mut [f32]) {
    let isa = Isa::current();
    x.par_chunks_mut(CHUNK).for_each(|x| gelu_chunk(isa, x));
}

/// `x · sigmoid(1.702 x)`, in place.
pub fn quick_gelu(x: &mut [f32]) {
    let isa = Isa::current();
    x.par_chunks_mut(CHUNK).for_each(|x| quick_gelu_chunk(isa, x));
}

/// GEGLU: `[rows, 2·n]` → `[rows, n]`, the first half of a row times the GELU of its second half.
///
/// # Panics
/// If `x` is not twice as long as `out`, or `out` is not whole rows.
pub fn geglu(x: &[f32], n: usize, out: &mut [f32]) {
    assert_eq!(x.len(), 2 * out.len(), "GEGLU's input is twice its output");
    assert!(n > 0 && out.len().is_multiple_of(n), "GEGLU's output is rows of {n}");
    let isa = Isa::current();
    out.par_chunks_mut(n).zip(x.par_chunks(2 * n)).for_each(|(out, x)| geglu_row(isa, x, out));
}

/// Softmax of each row of `[rows, n]`, in place.
///
/// # Panics
/// If `x` is not whole rows.
pub fn softmax(x: &mut [f32], n: usize) {
    assert!(n > 0 && x.len().is_multiple_of(n), "softmax over rows of {n}");
    let isa = Isa::current();
    x.par_chunks_mut(n).for_each(|row| softmax_row(isa, row));
}

/// `x += y`.
///
/// # Panics
/// If the lengths differ.
pub fn add(x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "added slices");
    x.par_chunks_mut(CHUNK).zip(y.par_chunks(CHUNK)).for_each(|(x, y)| {
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    });
}
