//! Weights in the kernels' own layout, built once when a model is loaded.
//!
//! A linear layer's `[n, k]` weights become groups of 16 output columns, `[n/16][steps][16]`, the last group filled
//! with zeros. A step is one `k` in f32, a pair of neighbouring `k` in bf16, or four of them in int8 (filled with zeros).
//!
//! Weights for products in f32 that f16 holds exactly, as those of most checkpoints, stay in f16 and are widened as they are used, in
//! the register tile or a block at a time: the same bytes in half the memory.

use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::gemm::{GROUPS, Kernel, STEPS};
use crate::int8::{Column, Columns, QUAD};
use crate::isa::Isa;
use crate::lanes::{interleave, interleave_pairs, pair};
use crate::linear::Range;
use crate::scratch::{self, LANES, Line, bits, floats_mut};

/// How the factors of a product are stored and multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32 factors, fused multiply-adds.
    F32,
    /// Both factors rounded to bf16 (nearest, ties to even) and multiplied exactly, with sums in f32. The dot-product instruction is
    /// used where the machine has it; elsewhere the same rounded factors go through f32 multiply-adds, so results of
    /// the two differ in the last bits only.
    Bf16,
    /// Weights of eight bits with a scale for each output, and activations of eight bits with a scale and a zero for each
    /// row (of a linear layer) or image (of a convolution), found as they are packed. Sums are exact. Only for products with
    /// weights.
    Int8,
}

impl Precision {
    /// Every precision.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

    /// Those in which activations can be multiplied with one another.
    pub const FLOATS: [Precision; 2] = [Precision::F32, Precision::Bf16];

    /// Factors in a 32-bit word.
    pub(crate) fn per_word(self) -> usize {
        match self {
            Precision::F32 => 1,
            Precision::Bf16 => 2,
            Precision::Int8 => QUAD,
        }
    }

    /// 32-bit words that hold `k` factors.
    pub(crate) fn steps(self, k: usize) -> usize {
        k.div_ceil(self.per_word())
    }
}

/// Weights as a checkpoint stores them.
#[derive(Clone, Copy, Debug)]
pub enum WeightsRef<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

impl WeightsRef<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            WeightsRef::F32(values) => values.len(),
            WeightsRef::F16(values) => values.len(),
            WeightsRef::Bf16(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements `[from, from + len)` as f32: where they lie, or widened into `buffer`.
    pub(crate) fn rows<'b>(&'b self, from: usize, len: usize, buffer: &'b mut Vec<f32>) -> &'b [f32] {
        if let WeightsRef::F32(values) = self {
            return &values[from..from + len];
        }
        buffer.resize(len, 0.0);
        self.read(from, buffer);
        buffer
    }

    /// Writes elements `[from, from + out.len())` as f32.
    pub(crate) fn read(&self, from: usize, out: &mut [f32]) {
        let range = from..from + out.len();
        match self {
            WeightsRef::F32(values) => out.copy_from_slice(&values[range]),
            WeightsRef::F16(values) => values[range].convert_to_f32_slice(out),
            WeightsRef::Bf16(values) => values[range].convert_to_f32_slice(out),
        }
    }
}

impl<'a> From<&'a [f32]> for WeightsRef<'a> {
    fn from(values: &'a [f32]) -> Self {
        WeightsRef::F32(values)
    }
}

impl<'a> From<&'a [f16]> for WeightsRef<'a> {
    fn from(values: &'a [f16]) -> Self {
        WeightsRef::F16(values)
    }
}

impl<'a> From<&'a [bf16]> for WeightsRef<'a> {
    fn from(values: &'a [bf16]) -> Self {
        WeightsRef::Bf16(values)
    }
}

/// Packed weights, by storage.
#[derive(Clone, Debug)]
enum Stored {
    Lines(Vec<Line>),
    /// Lines of f32 that f16 holds exactly.
    Halves(Vec<f16>),
}

/// The weights of a linear layer, packed for [`crate::linear`].
#[derive(Clone, Debug)]
pub struct PackedWeights {
    n: usize,
    k: usize,
    precision: Precision,
    stored: Stored,
    /// How the outputs were quantised, in int8.
    columns: Option<Columns>,
}

impl PackedWeights {
    /// Packs row-major `[n, k]` weights (`n` outputs, `k` inputs, as PyTorch stores them).
    ///
    /// # Panics
    /// If `weights` does not hold `n · k` elements, or `k` passes 65 536 in int8, whose sums would not hold it.
    pub fn pack<'a>(
        weights: impl Into<WeightsRef<'a>>,
        n: usize,
        k: usize,
        precision: Precision,
    ) -> PackedWeights {
        let weights = weights.into();
        assert_eq!(weights.len(), n * k, "weights of a linear layer [{n}, {k}]");
        let steps = precision.steps(k);
        // Short sums have few weights, and low ranks beside a layer are read where they lie.
        if precision == Precision::F32 && k >= STEPS && fits_f16(weights) {
            let stored = Stored::Halves(pack_halves(weights, n, k));
            return PackedWeights { n, k, precision, stored, columns: None };
        }
        let mut lines = scratch::zeroed(n.div_ceil(LANES) * steps);
        let groups = lines.par_chunks_mut(steps.max(1)).enumerate();
        let in_group = |group: usize| 0..LANES.min(n - group * LANES);
        let columns = match precision {
            Precision::F32 | Precision::Bf16 => {
                let isa = Isa::current();
                groups.for_each_init(Vec::new, |buffer, (group, lines)| {
                    let filled = in_group(group).len();
                    let rows = weights.rows(group * LANES * k, filled * k, buffer);
                    pack_group(isa, rows, k, precision, lines);
                });
                None
            }
            Precision::Int8 => {
                check_inputs(k);
                let (isa, mut columns) = (Isa::current(), vec![Column::default(); n]);
                groups.zip(columns.par_chunks_mut(LANES)).for_each_init(
                    // The last word's missing bytes stay zero.
                    || (vec![0.0_f32; k], vec![0_i8; steps * QUAD]),
                    |(row, bytes), ((group, lines), columns)| {
                        for (lane, column) in in_group(group).zip(columns) {
                            weights.read((group * LANES + lane) * k, row);
                            *column = Column::quantise(isa, row, &mut bytes[..k]);
                            for (line, quad) in lines.iter_mut().zip(bytes.as_chunks::<QUAD>().0) {
                                line.0[lane] = u32::from_le_bytes(quad.map(i8::cast_unsigned));
                            }
                        }
                    },
                );
                Some(columns.into())
            }
        };
        PackedWeights { n, k, precision, stored: Stored::Lines(lines), columns }
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The factors' precision.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        let stored = match &self.stored {
            Stored::Lines(lines) => size_of_val(&lines[..]),
            Stored::Halves(lines) => size_of_val(&lines[..]),
        };
        stored + self.columns.as_ref().map_or(0, Columns::bytes)
    }

    /// Lines in one group of 16 outputs.
    pub(crate) fn steps(&self) -> usize {
        self.precision.steps(self.k)
    }

    /// The register tile for them, and the words of scratch that [`PackedWeights::block`] then needs.
    pub(crate) fn kernel(&self, isa: Isa) -> (Kernel, usize) {
        match (&self.stored, Kernel::of_halves(isa)) {
            (Stored::Lines(_), _) => (Kernel::new(isa, self.precision), 0),
            (Stored::Halves(_), Some(kernel)) => (kernel, 0),
            (Stored::Halves(_), None) => (Kernel::new(isa, self.precision), GROUPS * STEPS * LANES),
        }
    }

    /// Some steps, at most [`STEPS`], of some groups, at most [`GROUPS`], as the register tile takes them: the first line, and
    /// lines from group to group. They lie where they are stored, unless they have to be widened in `scratch`.
    ///
    /// # Panics
    /// If there are no such groups or steps, or the scratch is neither empty nor what [`PackedWeights::kernel`] asks for.
    pub(crate) fn block(&self, groups: Range, steps: Range, scratch: &mut [Line]) -> (*const Line, usize) {
        let all = self.steps();
        assert!(steps.end <= all && groups.end <= self.n.div_ceil(LANES), "a block of weights");
        match &self.stored {
            Stored::Lines(lines) => (lines[groups.start * all + steps.start..].as_ptr(), all),
            Stored::Halves(halves) if scratch.is_empty() => {
                (halves[(groups.start * all + steps.start) * LANES..].as_ptr().cast(), all)
            }
            Stored::Halves(halves) => {
                for (group, lines) in groups.zip(scratch.chunks_mut(STEPS)) {
                    let halves = &halves[(group * all + steps.start) * LANES..][..steps.len() * LANES];
                    halves.convert_to_f32_slice(floats_mut(&mut lines[..steps.len()]));
                }
                (scratch.as_ptr(), STEPS)
            }
        }
    }

    /// How the outputs were quantised, in int8.
    pub(crate) fn columns(&self) -> Option<&Columns> {
        self.columns.as_ref()
    }
}

/// Whether f16 holds all of some weights exactly.
pub(crate) fn fits_f16(weights: WeightsRef) -> bool {
    const CHUNK: usize = 4096;
    if let WeightsRef::F16(_) = weights {
        return true;
    }
    let chunks = (0..weights.len()).into_par_iter().step_by(CHUNK);
    chunks.map(|from| from..weights.len().min(from + CHUNK)).all(|chunk| {
        let (mut values, mut again) = ([0.0; CHUNK], [0.0; CHUNK]);
        let (values, again) = (&mut values[..chunk.len()], &mut again[..chunk.len()]);
        weights.read(chunk.start, values);
        let mut halves = [f16::ZERO; CHUNK];
        let halves = &mut halves[..chunk.len()];
        halves.convert_from_f32_slice(values);
        halves.convert_to_f32_slice(again);
        values == again
    })
}

/// Zeros that the system gives, so that threads share the work of their first touch: of f16 they would be written here.
pub(crate) fn zero_halves(len: usize) -> Vec<f16> {
    vec![0_u16; len].reinterpret_into()
}

/// Weights that f16 holds exactly, in groups of 16 outputs as [`PackedWeights`] has them.
fn pack_halves(weights: WeightsRef, n: usize, k: usize) -> Vec<f16> {
    let (mut packed, isa) = (zero_halves(n.div_ceil(LANES) * k * LANES), Isa::current());
    packed.par_chunks_mut(k * LANES).enumerate().for_each_init(
        || (Vec::new(), vec![Line::ZERO; k]),
        |(buffer, lines), (group, halves)| {
            let filled = LANES.min(n - group * LANES);
            let rows = weights.rows(group * LANES * k, filled * k, buffer);
            pack_group(isa, rows, k, Precision::F32, lines);
            halves.convert_from_f32_slice(floats_mut(lines));
        },
    );
    packed
}

/// # Panics
/// If sums of so many products of bytes could leave the range of their integers.
pub(crate) fn check_inputs(k: usize) {
    assert!(k <= 1 << 16, "{k} inputs of a layer in int8, which takes 65536");
}

/// Writes up to 16 rows of weights into the lanes of their group, in floats; the lanes that are left over stay zeros.
fn pack_group(isa: Isa, rows: &[f32], k: usize, precision: Precision, lines: &mut [Line]) {
    let filled = rows.len() / k.max(1);
    let row = |lane: usize| &rows[lane.min(filled - 1) * k..][..k];
    if lines.is_empty() {
        return;
    }
    let rows: [&[f32]; LANES] = std::array::from_fn(row);
    match precision {
        Precision::F32 => interleave(isa, &rows.map(bits), lines),
        _ => interleave_pairs(isa, &rows, lines),
    }
    for line in lines {
        line.0[filled..].fill(0);
    }
}

/// Rows of weights as they are, `[n][steps]` words of floats: the left factor of a convolution.
pub(crate) fn pack_rows(weights: WeightsRef, n: usize, k: usize, precision: Precision) -> Vec<u32> {
    let steps = precision.steps(k);
    let mut words = vec![0; n * steps];
    words.par_chunks_mut(steps.max(1)).enumerate().for_each_init(
        || vec![0.0_f32; k],
        |row, (n, words)| {
            weights.read(n * k, row);
            to_words(row, precision, words);
        },
    );
    words
}

/// Converts a row of f32 to words of floats in the given precision.
pub(crate) fn to_words(row: &[f32], precision: Precision, words: &mut [u32]) {
    if precision == Precision::F32 {
        words.iter_mut().zip(row).for_each(|(word, value)| *word = value.to_bits());
    } else {
        words.iter_mut().zip(row.chunks(2)).for_each(|(word, pair)| *word = rounded_pair(pair));
    }
}

/// One or two values in bf16, the earlier in the lower half.
fn rounded_pair(values: &[f32]) -> u32 {
    pair(values[0], values.get(1).copied().unwrap_or(0.0))
}
