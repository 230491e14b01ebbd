//! The register tile under every product: `C[m, 16·g] (+)= A[m, steps] · B[steps, 16·g]`.
//!
//! `A` has any stride from row to row and from step to step. `B` is packed in groups of 16 columns: `[group][step][16]`, each step one
//! [`Line`]. `C` is row-major. One step is one `k` of f32, or two neighbouring `k` of bf16 or four of bytes in one 32-bit
//! word. Sums of bytes are integers, in the bits of `C`'s elements; see [`signs_apart`] for one level's own form of bytes in `A`.
//!
//! The sum over `k` is cut into blocks of [`STEPS`]; inside a block each element of `C` is one chain of fused
//! multiply-adds in rising `k`, and the blocks' sums are added in rising order. Which tile an element falls into,
//! and the tile's shape, change nothing in that chain, so the bytes of a row do not depend on its neighbours, on the
//! number of rows or on the threads. Sums of integers do not depend on the instruction set either.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use crate::isa::Isa;
use crate::pack::Precision;
use crate::scratch::{LANES, Line};

/// Steps in a block of the sum: 320 steps of 64 columns are 80 KiB of `B`, which stays in the second-level cache. Widths of Stable
/// Diffusion are multiples of it.
/// Results depend on it: changing it changes bytes.
pub(crate) const STEPS: usize = 320;

/// Most rows in a register tile; see [`Kernel::rows_in_tile`] for those of a single group.
pub(crate) const ROWS: usize = 6;

/// The same in AVX-512 where there is one group of columns: six sums would wait for one another.
const TALL_ROWS: usize = 12;

/// Steps that such a tile takes together: their number is a multiple of it, and `a_step` is 1.
const TALL_STEPS: usize = 2;

/// Most groups of 16 columns in a register tile.
pub(crate) const GROUPS: usize = 4;

/// One call of the register tile.
pub(crate) struct Tile {
    /// Steps to sum over.
    pub(crate) steps: usize,
    /// First row of `A`, as 32-bit words.
    pub(crate) a: *const u32,
    /// Words from one row of `A` to the next.
    pub(crate) a_stride: usize,
    /// Words from one step of `A` to the next: 1, unless `A` lies as its transpose.
    pub(crate) a_step: usize,
    /// First line of the first group of `B`; see [`Kernel::of_halves`] for lines of half the size.
    pub(crate) b: *const Line,
    /// Lines from one group of `B` to the next.
    pub(crate) b_stride: usize,
    /// First row of `C`.
    pub(crate) c: *mut f32,
    /// Elements from one row of `C` to the next.
    pub(crate) c_stride: usize,
    /// Add to `C` rather than overwrite it.
    pub(crate) add: bool,
    /// What will be read after this tile, or `b` where nobody knows: one of these lines is asked for at each step, into the
    /// second-level cache. A hint that may be any address; many at once would hold up what the tile itself reads.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "only x86-64 has tiles that ask for it")
    )]
    pub(crate) next: *const Line,
}

/// `fn(rows, groups, tile)`, with `1 <= groups <= GROUPS` and no more rows than [`Kernel::rows_in_tile`].
type TileFn = unsafe fn(usize, usize, &Tile);

/// The register tile of one instruction set and precision.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    tile: TileFn,
    /// What is in `C`'s elements.
    has_integers: bool,
    /// Most rows in a tile of one group.
    most_rows: usize,
}

/// Which factor are the weights: bytes are signed in these and unsigned in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// `A`.
    Left,
    /// `B`.
    Right,
}

impl Kernel {
    /// For weights on the right, or none.
    pub(crate) fn new(isa: Isa, precision: Precision) -> Kernel {
        Kernel::with_weights(Weights::Right, isa, precision)
    }

    /// For f32 with weights on the right in f16, 16 halves a line of `B`: `None` where such are widened beforehand.
    pub(crate) fn of_halves(isa: Isa) -> Option<Kernel> {
        let tile: Option<TileFn> = match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 => Some(avx512::f32_of_halves),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if is_x86_feature_detected!("f16c") => Some(avx2::f32_of_halves),
            _ => None,
        };
        tile.map(|tile| Kernel { tile, has_integers: false, most_rows: most_rows(isa) })
    }

    pub(crate) fn with_weights(weights: Weights, isa: Isa, precision: Precision) -> Kernel {
        let tile = match precision {
            Precision::F32 => single(isa),
            Precision::Bf16 => half(isa),
            Precision::Int8 => bytes(isa, weights),
        };
        Kernel { tile, has_integers: precision == Precision::Int8, most_rows: most_rows(isa) }
    }

    /// Rows of the next tile, where so many are left, of so many groups and steps that lie side by side.
    pub(crate) fn rows_in_tile(self, rows: usize, groups: usize, steps: usize) -> usize {
        let is_tall = rows >= self.most_rows && groups == 1 && steps.is_multiple_of(TALL_STEPS);
        if is_tall { self.most_rows } else { rows.min(ROWS) }
    }

    /// Runs a tile whose last group may be narrower than 16: `columns` of `C` are written, the rest is left alone.
    ///
    /// # Safety
    /// `tile`'s pointers must be valid for `rows` rows, `columns` rounded up to 16 columns of `B`, exactly `columns`
    /// columns of `C`, and its steps; `C` must not be accessed by anyone else meanwhile.
    pub(crate) unsafe fn run(self, rows: usize, columns: usize, tile: &Tile) {
        let groups = columns.div_ceil(LANES);
        debug_assert!((1..=GROUPS).contains(&groups));
        debug_assert!(rows > 0 && self.rows_in_tile(rows, groups, tile.steps) == rows);
        if columns.is_multiple_of(LANES) {
            // SAFETY: the caller's promise; the level was checked when it became current.
            unsafe { (self.tile)(rows, groups, tile) };
        } else {
            // SAFETY: as above.
            unsafe { self.run_narrow(rows, columns, groups, tile) };
        }
    }

    /// As `run`, through a buffer of whole groups.
    ///
    /// # Safety
    /// As `run`.
    unsafe fn run_narrow(self, rows: usize, columns: usize, groups: usize, tile: &Tile) {
        let mut buffer = [0.0_f32; ROWS * GROUPS * LANES];
        let (c, c_stride) = (buffer.as_mut_ptr(), groups * LANES);
        // SAFETY: the buffer holds the largest tile; the other operands are as the caller promised.
        unsafe { (self.tile)(rows, groups, &Tile { c, c_stride, add: false, ..*tile }) };
        for (row, sums) in buffer.chunks_exact(c_stride).take(rows).enumerate() {
            // SAFETY: `columns` elements of this row are `C`'s, by the caller's promise.
            let target = unsafe { std::slice::from_raw_parts_mut(tile.c.add(row * tile.c_stride), columns) };
            for (out, sum) in target.iter_mut().zip(sums) {
                *out = match (tile.add, self.has_integers) {
                    (false, _) => *sum,
                    (true, false) => *out + sum,
                    (true, true) => f32::from_bits(out.to_bits().wrapping_add(sum.to_bits())),
                };
            }
        }
    }
}

/// Most rows in a tile of one group.
fn most_rows(isa: Isa) -> usize {
    if isa >= Isa::Avx512 { TALL_ROWS } else { ROWS }
}

/// Whether unsigned bytes of `A`, less 128, are taken as magnitudes and signs (0 or 255), a row of the former followed by one of
/// the latter. The products of a negative one, `m`, are then `m` times the complement of the weight, which is `m` too little:
/// so two products fit into the 16 bits that AVX2 has for them. [`crate::int8::part_signs`] makes that form.
pub(crate) fn signs_apart(isa: Isa) -> bool {
    isa == Isa::Avx2
}

fn single(isa: Isa) -> TileFn {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => avx512::f32,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::f32,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::f32,
        _ => portable::f32,
    }
}

fn half(isa: Isa) -> TileFn {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512Bf16 => avx512::bf16,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => avx512::bf16_emulated,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => avx2::bf16_emulated,
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => neon::bf16_emulated,
        _ => portable::bf16_emulated,
    }
}

fn bytes(isa: Isa, weights: Weights) -> TileFn {
    let [right, left]: [TileFn; 2] = match isa {
        // The dot product of bytes is not a level of its own: the sums are the same without it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 if is_x86_feature_detected!("avx512vnni") => {
            [avx512::int8, avx512::int8_weights_left]
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 => [avx512::int8_emulated, avx512::int8_emulated_weights_left],
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => [avx2::int8, avx2::int8_weights_left],
        #[cfg(target_arch = "aarch64")]
        Isa::Neon => [neon::int8, neon::int8_weights_left],
        _ => [portable::int8, portable::int8_weights_left],
    };
    match weights {
        Weights::Right => right,
        Weights::Left => left,
    }
}

/// Expands to a `match` from run-time `(rows, groups)` to the tile compiled for them.
macro_rules! tiles {
    ($rows:expr, $groups:expr, $tile:expr, $function:ident, [$($m:literal)*], $all_groups:tt) => {
        match $rows { $($m => tiles!(@groups $groups, $tile, $function, $m, $all_groups),)* _ => unreachable!("tile rows") }
    };
    (@groups $groups:expr, $tile:expr, $function:ident, $m:literal, [$($g:literal)*]) => {
        // SAFETY: the caller of the dispatching function promises what the tile needs.
        match $groups { $($g => unsafe { $function::<$m, $g>($tile) },)* _ => unreachable!("tile groups") }
    };
}
pub(crate) use tiles;
