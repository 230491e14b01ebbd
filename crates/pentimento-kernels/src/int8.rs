//! Eight-bit factors: weights in -127 to 127 with a scale for each output, activations in 0 to 255 with a scale and a zero
//! for each row of them, found as they are packed.
//!
//! `x ≈ scale · (q - zero)` on both sides, the weights' zero being 0. A product of quantised factors is a sum of
//! integers, which no order and no instruction set changes: `Σ x·w ≈ scaleₓ · scaleᵥ · (Σ qₓ·qᵥ - zeroₓ · Σ qᵥ)`.
//! Source: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
//! Inference".

use crate::isa::{Arith, Isa, per_isa};
use crate::scratch::LANES;

/// Factors in a 32-bit word, the first in the lowest byte.
pub(crate) const QUAD: usize = 4;

/// The largest weight.
const MOST: f32 = 127.0;

/// Adding it to a number from 0 to 255 rounds to the nearest whole number (ties to even), which then lies in the lowest bits.
const ROUNDING: f32 = 8_388_608.0;

/// How some activations were quantised.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Quantiser {
    /// What a step of one means. NaN where a value was not finite, so that this stays visible in the results.
    pub(crate) scale: f32,
    /// What zero became.
    pub(crate) zero: i32,
    /// What sums of products are too little by: nothing, unless signs were parted.
    pub(crate) missing: i32,
}

impl Quantiser {
    /// For values of which the smallest, the largest and the largest magnitude are these.
    pub(crate) fn of(range: &Extent) -> Quantiser {
        let Extent { low, high, magnitude } = *range;
        if magnitude >= f32::INFINITY.to_bits() {
            return Quantiser { scale: f32::NAN, ..Quantiser::default() };
        }
        // Half the width, since that of the largest floats would overflow.
        let scale = (high * 0.5 - low * 0.5) * (2.0 / 255.0);
        if scale < f32::MIN_POSITIVE {
            return Quantiser::default();
        }
        Quantiser { scale, zero: ((-low / scale).clamp(0.0, 255.0) + 0.5) as i32, missing: 0 }
    }

    /// Steps per one; 0 where nothing can be said.
    fn inverse(self) -> f32 {
        if self.scale > 0.0 { 1.0 / self.scale } else { 0.0 }
    }
}

/// Over which range some values reach, zero always among them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    low: f32,
    high: f32,
    /// Bits of the largest magnitude: those of what is not finite are above all others.
    magnitude: u32,
}

impl Extent {
    pub(crate) fn union(self, other: Extent) -> Extent {
        Extent {
            low: self.low.min(other.low),
            high: self.high.max(other.high),
            magnitude: self.magnitude.max(other.magnitude),
        }
    }
}

per_isa!(pub(crate) fn extent(values: &[f32]) -> Extent = extent_body);

#[inline(always)]
fn extent_body<A: Arith>(values: &[f32]) -> Extent {
    let (mut low, mut high, mut magnitude) = ([0.0_f32; LANES], [0.0_f32; LANES], [0_u32; LANES]);
    let mut see = |values: &[f32]| {
        for (lane, value) in values.iter().enumerate() {
            low[lane] = if *value < low[lane] { *value } else { low[lane] };
            high[lane] = if *value > high[lane] { *value } else { high[lane] };
            magnitude[lane] = magnitude[lane].max(value.to_bits() & 0x7fff_ffff);
        }
    };
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder();
    chunks.for_each(|values| see(&values[..LANES]));
    see(rest);
    let mut extent = Extent::default();
    for lane in 0..LANES {
        extent = extent.union(Extent { low: low[lane], high: high[lane], magnitude: magnitude[lane] });
    }
    extent
}

/// A value in steps, from 0 to 255; what is not a number becomes 0.
#[inline(always)]
fn steps_of<A: Arith>(value: f32, inverse: f32, zero: f32) -> u32 {
    let steps = A::fma(value, inverse, zero);
    // Comparisons, since they become one instruction each.
    let steps = if steps > 0.0 { steps } else { 0.0 };
    let steps = if steps < 255.0 { steps } else { 255.0 };
    (steps + ROUNDING).to_bits() & 0xff
}

per_isa!(pub(crate) fn quantise(values: &[f32], by: Quantiser, out: &mut [u8]) = quantise_body);

/// Quantises as many values as there are bytes.
#[inline(always)]
fn quantise_body<A: Arith>(values: &[f32], by: Quantiser, out: &mut [u8]) {
    let (inverse, zero) = (by.inverse(), by.zero as f32);
    for (out, value) in out.iter_mut().zip(values) {
        *out = steps_of::<A>(*value, inverse, zero) as u8;
    }
}

/// Makes magnitudes and signs of unsigned bytes less 128, see [`crate::gemm::signs_apart`], and answers how their products are
/// made numbers.
pub(crate) fn part_signs(isa: Isa, by: Quantiser, bytes: &mut [u8], signs: &mut [u8]) -> Quantiser {
    Quantiser { zero: by.zero - 128, missing: part_signs_of(isa, bytes, signs), ..by }
}

per_isa!(fn part_signs_of(bytes: &mut [u8], signs: &mut [u8]) -> i32 = part_signs_body);

/// Answers the sum of the magnitudes of what is negative.
#[inline(always)]
fn part_signs_body<A: Arith>(bytes: &mut [u8], signs: &mut [u8]) -> i32 {
    let mut sum = 0;
    for (byte, sign) in bytes.iter_mut().zip(signs) {
        let value = (*byte ^ 0x80).cast_signed();
        *byte = value.unsigned_abs();
        *sign = if value < 0 { 0xff } else { 0 };
        sum += i32::from(*byte & *sign);
    }
    sum
}

per_isa!(pub(crate) fn quantise_planes(planes: &[f32], by: Quantiser, out: &mut [u32]) = quantise_planes_body);

/// Quantises up to four planes of as many values as there are words, which take one of each.
#[inline(always)]
fn quantise_planes_body<A: Arith>(planes: &[f32], by: Quantiser, out: &mut [u32]) {
    let (inverse, zero, plane) = (by.inverse(), by.zero as f32, out.len());
    if planes.len() < QUAD * plane {
        out.fill(0);
        for (at, values) in planes.chunks_exact(plane).enumerate() {
            for (out, value) in out.iter_mut().zip(values) {
                *out |= steps_of::<A>(*value, inverse, zero) << (at * 8);
            }
        }
        return;
    }
    let (first, rest) = planes.split_at(plane);
    let (second, rest) = rest.split_at(plane);
    let (third, fourth) = rest.split_at(plane);
    let values = first.iter().zip(second).zip(third).zip(fourth);
    for (out, (((first, second), third), fourth)) in out.iter_mut().zip(values) {
        let steps = |value: &f32, place: usize| steps_of::<A>(*value, inverse, zero) << (place * 8);
        *out = steps(first, 0) | steps(second, 1) | steps(third, 2) | steps(fourth, 3);
    }
}

/// How the weights of one output were quantised.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Column {
    /// What a step of one means.
    pub(crate) scale: f32,
    /// The sum of its weights, in steps.
    pub(crate) sum: i32,
}

impl Column {
    /// Quantises one output's weights into as many steps. Weights that are not finite give a scale that is not.
    pub(crate) fn quantise(isa: Isa, weights: &[f32], steps: &mut [i8]) -> Column {
        debug_assert_eq!(weights.len(), steps.len(), "a step for each weight");
        let most = f32::from_bits(extent(isa, weights).magnitude);
        let scale = if most.is_finite() { most / MOST } else { f32::NAN };
        let inverse = if scale >= f32::MIN_POSITIVE { 1.0 / scale } else { 0.0 };
        Column { scale, sum: quantise_weights(isa, weights, inverse, steps) }
    }
}

per_isa!(fn quantise_weights(weights: &[f32], inverse: f32, steps: &mut [i8]) -> i32 = quantise_weights_body);

/// Answers the sum of the steps.
#[inline(always)]
fn quantise_weights_body<A: Arith>(weights: &[f32], inverse: f32, steps: &mut [i8]) -> i32 {
    // As `ROUNDING`, for numbers on both sides of zero: the lowest byte is then the number's own.
    const BOTH_SIDES: f32 = 12_582_912.0;
    let mut sum = 0;
    for (out, weight) in steps.iter_mut().zip(weights) {
        let steps = weight * inverse;
        let steps = if steps > -MOST { steps } else { -MOST };
        let steps = if steps < MOST { steps } else { MOST };
        *out = (steps + BOTH_SIDES).to_bits() as i8;
        sum += i32::from(*out);
    }
    sum
}

/// A byte's place in a word.
pub(crate) fn shifted(byte: u8, at: usize) -> u32 {
    u32::from(byte) << (at % QUAD * 8)
}

/// How all outputs' weights were quantised: their [`Column`]s, in two arrays since the kernels read them so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Columns {
    scales: Vec<f32>,
    sums: Vec<i32>,
}

impl Columns {
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.scales[..]) + size_of_val(&self.sums[..])
    }
}

impl From<Vec<Column>> for Columns {
    fn from(columns: Vec<Column>) -> Columns {
        let (scales, sums) = columns.into_iter().map(|Column { scale, sum }| (scale, sum)).unzip();
        Columns { scales, sums }
    }
}

/// Sums of integers of a tile, in the bits of floats.
pub(crate) struct Sums {
    /// The first row's first sum.
    pub(crate) at: *mut f32,
    /// Elements from row to row.
    pub(crate) stride: usize,
    /// Sums in a row.
    pub(crate) width: usize,
}

/// Makes numbers of a tile's sums, whose first column is `column` and whose rows were quantised as `rows` says.
///
/// # Safety
/// The tile must be valid for that many rows and not be accessed by anyone else meanwhile.
pub(crate) unsafe fn dequantise_tile(
    isa: Isa,
    tile: &Sums,
    rows: &[Quantiser],
    columns: &Columns,
    column: usize,
) {
    dequantise_tile_checked(isa, tile, rows, &columns.scales[column..], &columns.sums[column..]);
}

per_isa!(fn dequantise_tile_checked(tile: &Sums, rows: &[Quantiser], scales: &[f32], columns: &[i32]) = dequantise_tile_body);

#[inline(always)]
fn dequantise_tile_body<A: Arith>(tile: &Sums, rows: &[Quantiser], scales: &[f32], columns: &[i32]) {
    let (scales, columns) = (&scales[..tile.width], &columns[..tile.width]);
    for (at, row) in rows.iter().enumerate() {
        // SAFETY: the only caller, `dequantise_tile`, is promised that these elements are its own.
        let sums = unsafe { std::slice::from_raw_parts_mut(tile.at.add(at * tile.stride), tile.width) };
        // Whole vectors: no compiler has to find out that the slices do not overlap.
        let (chunks, rest) = sums.as_chunks_mut::<LANES>();
        let (chunk_scales, rest_scales) = scales.as_chunks::<LANES>();
        let (chunk_columns, rest_columns) = columns.as_chunks::<LANES>();
        for ((sums, scales), columns) in chunks.iter_mut().zip(chunk_scales).zip(chunk_columns) {
            let (scales, columns, mut values) = (*scales, *columns, *sums);
            for lane in 0..LANES {
                values[lane] = number_of(values[lane], *row, scales[lane], columns[lane]);
            }
            *sums = values;
        }
        for ((sum, scale), column) in rest.iter_mut().zip(rest_scales).zip(rest_columns) {
            *sum = number_of(*sum, *row, *scale, *column);
        }
    }
}

#[inline(always)]
fn number_of(sum: f32, row: Quantiser, scale: f32, column: i32) -> f32 {
    let sum = (sum.to_bits() as i32).wrapping_add(row.missing);
    sum.wrapping_sub(row.zero.wrapping_mul(column)) as f32 * (row.scale * scale)
}

per_isa!(pub(crate) fn scale_sums(sums: &mut [f32], image: Quantiser, column: Column) = scale_sums_body);

/// Makes numbers of one output's sums of integers over some pixels of an image, which lie in the bits of `sums`.
#[inline(always)]
fn scale_sums_body<A: Arith>(sums: &mut [f32], image: Quantiser, column: Column) {
    let (shift, scale) = (image.zero.wrapping_mul(column.sum), image.scale * column.scale);
    for sum in sums {
        *sum = (sum.to_bits() as i32).wrapping_sub(shift) as f32 * scale;
    }
}
