//! The transforms in AVX-512. The compiler gathers strided values one by one; here they are sorted in registers.

use std::arch::x86_64::*;

use super::{A, AHEAD, B, FLAT, IN, OUT, SQUARE, values_in};
use crate::bf16::pair_vectors;
use crate::scratch::{LANES, Line, prefetch};

/// Tiles that must follow each other in a row: half a register.
const RUN: usize = LANES / 2;

/// Values that a run of tiles sees in a row.
const SEEN: usize = RUN * OUT + IN - OUT;

/// Whether the tiles of each half of a group follow each other.
pub(super) fn fits(at: &[u32; LANES]) -> bool {
    let follow = |half: &[u32]| half.windows(2).all(|pair| pair[1] == pair[0] + OUT as u32);
    follow(&at[..RUN]) && follow(&at[RUN..])
}

/// The transform of 16 tiles with H rows of pixels: the first H + 2 rows.
type Values = [[__m512; IN]; IN];

/// See [`super::values_of`]; the tiles [`fits`].
#[target_feature(enable = "avx512f")]
pub(super) fn inputs_of_channel(
    stage: &[f32],
    at: &[u32; LANES],
    columns: usize,
    inputs: &mut [Line],
    stride: usize,
) {
    assert!(inputs.len() > (values_in(SQUARE) - 1) * stride, "lines for the values of a tile");
    let values = values::<SQUARE>(stage, at, columns);
    for x in 0..IN {
        for y in 0..IN {
            let line = inputs.as_mut_ptr().wrapping_add((y * IN + x) * stride);
            prefetch(line.wrapping_add(AHEAD).cast());
            // SAFETY: the line lies inside by the assertion above, and is aligned as the register is long.
            unsafe { _mm512_store_ps(line.cast(), values[y][x]) };
        }
    }
}

/// The same for two channels, whose values are written as pairs of bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
pub(super) fn inputs_of_pair(
    [low, high]: [&[f32]; 2],
    at: &[u32; LANES],
    columns: usize,
    inputs: &mut [Line],
    stride: usize,
) {
    assert!(inputs.len() > (values_in(FLAT) - 1) * stride, "lines for the values of a tile");
    let (low, high) = (values::<FLAT>(low, at, columns), values::<FLAT>(high, at, columns));
    for x in 0..IN {
        for y in 0..FLAT + 2 {
            let line = inputs.as_mut_ptr().wrapping_add((y * IN + x) * stride);
            prefetch(line.wrapping_add(AHEAD).cast());
            let pairs = pair_vectors(low[y][x], high[y][x]);
            // SAFETY: the line lies inside by the assertion above, and is aligned as the register is long.
            unsafe { _mm512_store_si512(line.cast(), pairs) };
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn values<const H: usize>(stage: &[f32], at: &[u32; LANES], columns: usize) -> Values {
    let mut values = [[_mm512_setzero_ps(); IN]; IN];
    for (y, row) in values.iter_mut().enumerate().take(H + 2) {
        let half = |first: u32| {
            let seen: &[f32; SEEN] = stage[first as usize + y * columns..].first_chunk().expect("a run");
            seen
        };
        *row = transform_input(sorted(half(at[0]), half(at[RUN])));
    }
    for x in 0..IN {
        let mut column = [_mm512_setzero_ps(); IN];
        for y in 0..H + 2 {
            column[y] = values[y][x];
        }
        let column = if H == FLAT { transform_input_down(column) } else { transform_input(column) };
        for y in 0..H + 2 {
            values[y][x] = column[y];
        }
    }
    values
}

/// Two runs of tiles, as the six columns that each tile sees.
#[inline]
#[target_feature(enable = "avx512f")]
fn sorted(first: &[f32; SEEN], second: &[f32; SEEN]) -> [__m512; IN] {
    // SAFETY: a run is two registers and two values more.
    let [a0, a1, b0, b1] = unsafe {
        [
            _mm512_loadu_ps(first.as_ptr()),
            _mm512_loadu_ps(first.as_ptr().add(LANES)),
            _mm512_loadu_ps(second.as_ptr()),
            _mm512_loadu_ps(second.as_ptr().add(LANES)),
        ]
    };
    let mut columns = [_mm512_setzero_ps(); IN];
    for x in 0..OUT {
        // Every fourth of 32 values, in both halves: the halves of the two runs are then put together.
        let every_fourth = _mm512_add_epi32(
            _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28),
            _mm512_set1_epi32(x as i32),
        );
        let of_first = _mm512_permutex2var_ps(a0, every_fourth, a1);
        let of_second = _mm512_permutex2var_ps(b0, every_fourth, b1);
        columns[x] = _mm512_mask_blend_ps(0xff00, of_first, of_second);
    }
    // The last two columns of a tile are the first two of the next.
    for x in OUT..IN {
        let ends = (_mm512_set1_ps(first[RUN * OUT + x - OUT]), _mm512_set1_ps(second[RUN * OUT + x - OUT]));
        let next =
            _mm512_alignr_epi32::<1>(_mm512_castps_si512(ends.1), _mm512_castps_si512(columns[x - OUT]));
        columns[x] = _mm512_mask_mov_ps(_mm512_castsi512_ps(next), 1 << (RUN - 1), ends.0);
    }
    columns
}

/// See [`super::pixels_of`].
#[target_feature(enable = "avx512f")]
pub(super) fn outputs<const H: usize>(sums: &[Line], stride: usize, rows: &mut [[f32; OUT * LANES]; H]) {
    assert!(sums.len() > (values_in(H) - 1) * stride, "lines of a tile's sums");
    let mut half = [[_mm512_setzero_ps(); IN]; H];
    for x in 0..IN {
        let mut column = [_mm512_setzero_ps(); IN];
        for (y, value) in column.iter_mut().enumerate().take(H + 2) {
            let line = sums.as_ptr().wrapping_add((y * IN + x) * stride);
            prefetch(line.wrapping_add(AHEAD).cast());
            // SAFETY: the line lies inside by the assertion above, and is aligned as the register is long.
            *value = unsafe { _mm512_load_ps(line.cast()) };
        }
        let column = if H == FLAT { transform_output_down(&column) } else { transform_output(&column) };
        for y in 0..H {
            half[y][x] = column[y];
        }
    }
    for (half, row) in half.iter().zip(rows) {
        let pixels = interleaved(transform_output(half));
        for (pixels, out) in pixels.into_iter().zip(row.as_chunks_mut::<LANES>().0) {
            // SAFETY: the chunk is as long as the register.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), pixels) };
        }
    }
}

/// Four columns of 16 tiles as 64 pixels in a row.
#[inline]
#[target_feature(enable = "avx512f")]
fn interleaved([x0, x1, x2, x3]: [__m512; OUT]) -> [__m512; OUT] {
    let pairs = |low, high| (_mm512_castps_pd(low), _mm512_castps_pd(high));
    let (low_a, low_b) = pairs(_mm512_unpacklo_ps(x0, x1), _mm512_unpacklo_ps(x2, x3));
    let (high_a, high_b) = pairs(_mm512_unpackhi_ps(x0, x1), _mm512_unpackhi_ps(x2, x3));
    // Register i holds the pixels of tiles i, i + 4, i + 8 and i + 12.
    let tiles = [
        _mm512_unpacklo_pd(low_a, low_b),
        _mm512_unpackhi_pd(low_a, low_b),
        _mm512_unpacklo_pd(high_a, high_b),
        _mm512_unpackhi_pd(high_a, high_b),
    ]
    .map(|tiles| _mm512_castpd_ps(tiles));
    // A transposition of four by four quarters.
    let [a, b] = [(tiles[0], tiles[1]), (tiles[2], tiles[3])].map(|(even, odd)| {
        (_mm512_shuffle_f32x4::<0b01_00_01_00>(even, odd), _mm512_shuffle_f32x4::<0b11_10_11_10>(even, odd))
    });
    [
        _mm512_shuffle_f32x4::<0b10_00_10_00>(a.0, b.0),
        _mm512_shuffle_f32x4::<0b11_01_11_01>(a.0, b.0),
        _mm512_shuffle_f32x4::<0b10_00_10_00>(a.1, b.1),
        _mm512_shuffle_f32x4::<0b11_01_11_01>(a.1, b.1),
    ]
}

/// See [`super::transform_input`].
#[inline]
#[target_feature(enable = "avx512f")]
fn transform_input([d0, d1, d2, d3, d4, d5]: [__m512; IN]) -> [__m512; IN] {
    let of = |value: f64| _mm512_set1_ps(value as f32);
    let (a1, b1, a2, b2) = (of(A), of(B), of(A * A), of(B * B));
    let (product, sum) = (of(A * A * B * B), of(A * A + B * B));
    let (even_a, odd_a) = (_mm512_fnmadd_ps(b2, d2, d4), _mm512_mul_ps(a1, _mm512_fnmadd_ps(b2, d1, d3)));
    let (even_b, odd_b) = (_mm512_fnmadd_ps(a2, d2, d4), _mm512_mul_ps(b1, _mm512_fnmadd_ps(a2, d1, d3)));
    [
        _mm512_fmadd_ps(product, d0, _mm512_fnmadd_ps(sum, d2, d4)),
        _mm512_add_ps(even_a, odd_a),
        _mm512_sub_ps(even_a, odd_a),
        _mm512_add_ps(even_b, odd_b),
        _mm512_sub_ps(even_b, odd_b),
        _mm512_fmadd_ps(product, d1, _mm512_fnmadd_ps(sum, d3, d5)),
    ]
}

/// See [`super::transform_output`].
#[inline]
#[target_feature(enable = "avx512f")]
fn transform_output([m0, m1, m2, m3, m4, m5]: &[__m512; IN]) -> [__m512; OUT] {
    let of = |value: f64| _mm512_set1_ps(value as f32);
    let (sum_a, difference_a) = (_mm512_add_ps(*m1, *m2), _mm512_sub_ps(*m1, *m2));
    let (sum_b, difference_b) = (_mm512_add_ps(*m3, *m4), _mm512_sub_ps(*m3, *m4));
    [
        _mm512_add_ps(_mm512_add_ps(*m0, sum_a), sum_b),
        _mm512_fmadd_ps(of(A), difference_a, _mm512_mul_ps(of(B), difference_b)),
        _mm512_fmadd_ps(of(A * A), sum_a, _mm512_mul_ps(of(B * B), sum_b)),
        _mm512_fmadd_ps(of(A * A * A), difference_a, _mm512_fmadd_ps(of(B * B * B), difference_b, *m5)),
    ]
}

/// See [`super::transform_input_down`].
#[inline]
#[target_feature(enable = "avx512f")]
fn transform_input_down([d0, d1, d2, d3, ..]: [__m512; IN]) -> [__m512; IN] {
    let zero = _mm512_setzero_ps();
    [_mm512_sub_ps(d0, d2), _mm512_add_ps(d1, d2), _mm512_sub_ps(d2, d1), _mm512_sub_ps(d1, d3), zero, zero]
}

/// See [`super::transform_output_down`].
#[inline]
#[target_feature(enable = "avx512f")]
fn transform_output_down([m0, m1, m2, m3, ..]: &[__m512; IN]) -> [__m512; OUT] {
    let zero = _mm512_setzero_ps();
    let first = _mm512_add_ps(_mm512_add_ps(*m0, *m1), *m2);
    [first, _mm512_sub_ps(_mm512_sub_ps(*m1, *m2), *m3), zero, zero]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    /// A picture's window and the offsets of tiles that fit, for both ways in which the two halves of a group can lie.
    fn cases() -> (Vec<f32>, usize, [[u32; LANES]; 2]) {
        let value = |index: usize| ((index * 37 % 101) as f32 - 50.0) / 9.0;
        let columns = 80;
        let at = [RUN * OUT, 4 * columns].map(|second| {
            let mut at = [0_u32; LANES];
            for lane in 0..LANES {
                at[lane] = (3 + lane / RUN * second + lane % RUN * OUT) as u32;
            }
            assert!(fits(&at));
            at
        });
        ((0..2000).map(value).collect(), columns, at)
    }

    #[test]
    fn the_transforms_are_those_of_plain_code_bit_for_bit() {
        if Isa::detect() < Isa::Avx512 {
            return;
        }
        let (stage, columns, cases) = cases();
        let stride = 3;
        for at in cases {
            let [mut fast, mut plain] = [(); 2].map(|()| vec![Line::ZERO; values_in(SQUARE) * stride]);
            // SAFETY: the machine has AVX-512.
            unsafe { inputs_of_channel(&stage, &at, columns, &mut fast, stride) };
            super::super::inputs_of_channel::<SQUARE>(Isa::Avx512, &stage, &at, columns, &mut plain, stride);
            assert!(fast.iter().zip(&plain).all(|(fast, plain)| fast.0 == plain.0));
            same_outputs::<SQUARE>(&fast, stride);
            same_outputs::<FLAT>(&fast, stride);
        }
    }

    fn same_outputs<const H: usize>(sums: &[Line], stride: usize) {
        let [mut fast, mut plain] = [[[0.0; OUT * LANES]; H]; 2];
        // SAFETY: the machine has AVX-512, as the caller has found.
        unsafe { outputs(sums, stride, &mut fast) };
        super::super::outputs(Isa::Avx512, sums, stride, &mut plain);
        assert_eq!(fast, plain);
    }

    #[test]
    fn pairs_are_those_of_plain_code_bit_for_bit() {
        if Isa::detect() < Isa::Avx512Bf16 {
            return;
        }
        let (stage, columns, cases) = cases();
        let stride = 3;
        for at in cases {
            let [mut fast, mut plain] = [(); 2].map(|()| vec![Line::ZERO; values_in(FLAT) * stride]);
            // SAFETY: the machine has AVX-512 and bf16.
            unsafe { inputs_of_pair([&stage, &stage[7..]], &at, columns, &mut fast, stride) };
            let mut of_each = [[Line::ZERO; values_in(FLAT)]; 2];
            for (from, lines) in [0, 7].into_iter().zip(&mut of_each) {
                super::super::inputs_of_channel::<FLAT>(Isa::Avx512, &stage[from..], &at, columns, lines, 1);
            }
            super::super::pairs(Isa::Avx512, &of_each, &mut plain, stride);
            assert!(fast.iter().zip(&plain).all(|(fast, plain)| fast.0 == plain.0));
        }
    }
}
