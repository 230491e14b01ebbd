//! The transforms of Winograd's algorithm: pixels to a tile's values, and sums of their products to pixels.
//!
//! Lanes are the 16 tiles of a group. Plain code, which the compiler vectorises, and AVX-512 by hand.

#[cfg(target_arch = "x86_64")]
mod avx512;

use super::Form;
use crate::isa::{Arith, Isa, per_isa};
use crate::lanes::pair;
use crate::scratch::{LANES, Line, prefetch};

/// The two pairs of points; everything below follows from them.
pub(in crate::conv) const A: f64 = 0.65;
pub(in crate::conv) const B: f64 = 1.5;

/// Pixels across a tile, and values across its transform.
pub(super) const OUT: usize = 4;
pub(in crate::conv) const IN: usize = 6;

/// Rows of pixels in a tile of each form: what the transforms are compiled for.
pub(in crate::conv) const SQUARE: usize = 4;
pub(in crate::conv) const FLAT: usize = 2;

/// Values of the transform of a tile with so many rows of pixels.
pub(in crate::conv) const fn values_in(rows: usize) -> usize {
    (rows + 2) * IN
}

/// How many lines ahead the transforms ask for: so many streams are more than the hardware follows by itself.
const AHEAD: usize = 4;

type Lanes = [f32; LANES];

/// The values of 16 tiles in the channels of a word, written `stride` lines apart. The stage holds those channels' planes.
pub(super) fn values_of(
    isa: Isa,
    form: Form,
    stage: &[f32],
    at: &[u32; LANES],
    columns: usize,
    inputs: &mut [Line],
    stride: usize,
) {
    match form {
        Form::Square => {
            #[cfg(target_arch = "x86_64")]
            if isa >= Isa::Avx512 && avx512::fits(at) {
                // SAFETY: the level was checked when it became current.
                return unsafe { avx512::inputs_of_channel(stage, at, columns, inputs, stride) };
            }
            inputs_of_channel::<SQUARE>(isa, stage, at, columns, inputs, stride);
        }
        Form::Flat => inputs_of_channel::<FLAT>(isa, stage, at, columns, inputs, stride),
        Form::FlatPairs => {
            let (low, high) = stage.split_at(stage.len() / 2);
            #[cfg(target_arch = "x86_64")]
            if isa == Isa::Avx512Bf16 && avx512::fits(at) {
                // SAFETY: the level was checked when it became current.
                return unsafe { avx512::inputs_of_pair([low, high], at, columns, inputs, stride) };
            }
            let mut of_each = [[Line::ZERO; values_in(FLAT)]; 2];
            for (stage, lines) in [low, high].into_iter().zip(&mut of_each) {
                inputs_of_channel::<FLAT>(isa, stage, at, columns, lines, 1);
            }
            pairs(isa, &of_each, inputs, stride);
        }
    }
}

/// The pixels of 16 tiles in one channel, from lines `stride` apart.
pub(super) fn pixels_of(isa: Isa, sums: &[Line], stride: usize, rows: &mut [[f32; OUT * LANES]]) {
    if let Some(rows) = rows.as_mut_array::<SQUARE>() {
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx512 {
            // SAFETY: the level was checked when it became current.
            return unsafe { avx512::outputs(sums, stride, rows) };
        }
        outputs(isa, sums, stride, rows);
    } else if let Some(rows) = rows.as_mut_array::<FLAT>() {
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx512 {
            // SAFETY: as above.
            return unsafe { avx512::outputs(sums, stride, rows) };
        }
        outputs(isa, sums, stride, rows);
    }
}

per_isa!(
    fn inputs_of_channel<const H: usize>(
        stage: &[f32],
        at: &[u32; LANES],
        columns: usize,
        inputs: &mut [Line],
        stride: usize,
    ) = inputs_of_channel_body
);
per_isa!(fn pairs(of_each: &[[Line; values_in(FLAT)]; 2], inputs: &mut [Line], stride: usize) = pairs_body);
per_isa!(
    fn outputs<const H: usize>(sums: &[Line], stride: usize, rows: &mut [[f32; OUT * LANES]; H]) = outputs_body
);

/// Values of two channels, in pairs of bf16.
#[inline(always)]
fn pairs_body<R: Arith>(of_each: &[[Line; values_in(FLAT)]; 2], inputs: &mut [Line], stride: usize) {
    for value in 0..values_in(FLAT) {
        let (low, high) = (&of_each[0][value].0, &of_each[1][value].0);
        let line = &mut inputs[value * stride].0;
        for lane in 0..LANES {
            line[lane] = pair(f32::from_bits(low[lane]), f32::from_bits(high[lane]));
        }
    }
}

#[inline(always)]
fn inputs_of_channel_body<R: Arith, const H: usize>(
    stage: &[f32],
    at: &[u32; LANES],
    columns: usize,
    inputs: &mut [Line],
    stride: usize,
) {
    // Of a tile with H rows of pixels the first H + 2 rows and values of columns are used.
    let mut rows = [[[0.0; LANES]; IN]; IN];
    let in_a_row = at[LANES - 1] == at[0] + (OUT * (LANES - 1)) as u32;
    for (y, row) in rows.iter_mut().enumerate().take(H + 2) {
        let mut values = [[0.0; LANES]; IN];
        if in_a_row {
            let from = &stage[at[0] as usize + y * columns..][..OUT * LANES + 2];
            for x in 0..IN {
                for lane in 0..LANES {
                    values[x][lane] = from[OUT * lane + x];
                }
            }
        } else {
            for lane in 0..LANES {
                let from = &stage[at[lane] as usize + y * columns..][..IN];
                for x in 0..IN {
                    values[x][lane] = from[x];
                }
            }
        }
        *row = transform_input::<R>(&values);
    }
    for x in 0..IN {
        // Plain loops: the standard library's array functions would not be compiled for this instruction set.
        let mut column = [[0.0; LANES]; IN];
        for y in 0..H + 2 {
            column[y] = rows[y][x];
        }
        let column = if H == FLAT { transform_input_down(&column) } else { transform_input::<R>(&column) };
        for y in 0..H + 2 {
            prefetch(inputs.as_ptr().wrapping_add((y * IN + x) * stride + AHEAD).cast());
            let line = &mut inputs[(y * IN + x) * stride].0;
            for lane in 0..LANES {
                line[lane] = column[y][lane].to_bits();
            }
        }
    }
}

#[inline(always)]
fn outputs_body<R: Arith, const H: usize>(sums: &[Line], stride: usize, rows: &mut [[f32; OUT * LANES]; H]) {
    let mut half = [[[0.0; LANES]; IN]; H];
    for x in 0..IN {
        let mut column = [[0.0; LANES]; IN];
        for y in 0..H + 2 {
            prefetch(sums.as_ptr().wrapping_add((y * IN + x) * stride + AHEAD).cast());
            let line = &sums[(y * IN + x) * stride].0;
            for lane in 0..LANES {
                column[y][lane] = f32::from_bits(line[lane]);
            }
        }
        let column = if H == FLAT { transform_output_down(&column) } else { transform_output::<R>(&column) };
        for y in 0..H {
            half[y][x] = column[y];
        }
    }
    for y in 0..H {
        let pixels = transform_output::<R>(&half[y]);
        for lane in 0..LANES {
            for x in 0..OUT {
                rows[y][OUT * lane + x] = pixels[x][lane];
            }
        }
    }
}

/// The coefficients of x·(x² - A²)·(x² - B²), divided by each point's factor.
#[inline(always)]
fn transform_input<R: Arith>(d: &[Lanes; IN]) -> [Lanes; IN] {
    const A1: f32 = A as f32;
    const A2: f32 = (A * A) as f32;
    const B1: f32 = B as f32;
    const B2: f32 = (B * B) as f32;
    const A2B2: f32 = (A * A * B * B) as f32;
    const A2_B2: f32 = (A * A + B * B) as f32;
    let mut out = [[0.0; LANES]; IN];
    for l in 0..LANES {
        let [d0, d1, d2, d3, d4, d5] = [d[0][l], d[1][l], d[2][l], d[3][l], d[4][l], d[5][l]];
        let (even_a, odd_a) = (R::fma(-B2, d2, d4), A1 * R::fma(-B2, d1, d3));
        let (even_b, odd_b) = (R::fma(-A2, d2, d4), B1 * R::fma(-A2, d1, d3));
        out[0][l] = R::fma(A2B2, d0, R::fma(-A2_B2, d2, d4));
        out[1][l] = even_a + odd_a;
        out[2][l] = even_a - odd_a;
        out[3][l] = even_b + odd_b;
        out[4][l] = even_b - odd_b;
        out[5][l] = R::fma(A2B2, d1, R::fma(-A2_B2, d3, d5));
    }
    out
}

/// The values of the polynomial's coefficients: powers of the points.
#[inline(always)]
fn transform_output<R: Arith>(m: &[Lanes; IN]) -> [Lanes; OUT] {
    const A1: f32 = A as f32;
    const A2: f32 = (A * A) as f32;
    const A3: f32 = (A * A * A) as f32;
    const B1: f32 = B as f32;
    const B2: f32 = (B * B) as f32;
    const B3: f32 = (B * B * B) as f32;
    let mut out = [[0.0; LANES]; OUT];
    for l in 0..LANES {
        let (sum_a, difference_a) = (m[1][l] + m[2][l], m[1][l] - m[2][l]);
        let (sum_b, difference_b) = (m[3][l] + m[4][l], m[3][l] - m[4][l]);
        out[0][l] = m[0][l] + sum_a + sum_b;
        out[1][l] = R::fma(A1, difference_a, B1 * difference_b);
        out[2][l] = R::fma(A2, sum_a, B2 * sum_b);
        out[3][l] = R::fma(A3, difference_a, R::fma(B3, difference_b, m[5][l]));
    }
    out
}

/// The same for the points 0, ±1 and ∞ alone: a column of a flat tile. The last two stay zero.
#[inline(always)]
fn transform_input_down(d: &[Lanes; IN]) -> [Lanes; IN] {
    let mut out = [[0.0; LANES]; IN];
    for l in 0..LANES {
        out[0][l] = d[0][l] - d[2][l];
        out[1][l] = d[1][l] + d[2][l];
        out[2][l] = d[2][l] - d[1][l];
        out[3][l] = d[1][l] - d[3][l];
    }
    out
}

/// The sums of a flat tile's column as its two pixels.
#[inline(always)]
fn transform_output_down(m: &[Lanes; IN]) -> [Lanes; OUT] {
    let mut out = [[0.0; LANES]; OUT];
    for l in 0..LANES {
        out[0][l] = (m[0][l] + m[1][l]) + m[2][l];
        out[1][l] = (m[1][l] - m[2][l]) - m[3][l];
    }
    out
}
