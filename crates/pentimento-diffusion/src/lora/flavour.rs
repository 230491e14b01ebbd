//! The flavours of adapters: what a layer's tensors say about the change of its weights.
//!
//! Shapes: a layer's weights are `[outputs, inputs, height, width]`, the last two 1 for linear layers; a change has the same
//! shape and is computed before its scale. `scale = alpha / rank`; without alpha it is 1.
//! Source: Hu et al. 2021 (LoRA); Liu et al. 2024 (DoRA); Yeh et al. 2023 (LyCORIS: LoCon, LoHa, LoKr). Where PEFT and
//! LyCORIS part ways (DoRA at another weight than 1), PEFT counts: the weight scales the change inside the norm.

use super::{
    file::{LoraFile, Stored},
    names::Role,
};
use crate::error::{LoadError, LoadErrorKind};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// What one adapter says about one layer.
#[derive(Clone, Debug)]
pub(super) struct LayerChange {
    pub(super) flavour: Flavour,
    /// Factor of the change.
    pub(super) scale: f64,
    /// DoRA: the lengths that the changed weights are brought to.
    pub(super) magnitude: Option<Magnitude>,
}

/// How a change is stored.
#[derive(Clone, Debug)]
pub(super) enum Flavour {
    /// `up · down`.
    LowRank(LowRank),
    /// The elementwise product of two low ranks.
    Hadamard([LowRank; 2]),
    /// The Kronecker product of a small matrix and a layer's weights in small.
    Kronecker {
        /// `[a, b]`
        small: Matrix,
        /// `[c, d, height, width]` as rows of `c`.
        large: Matrix,
    },
}

/// Two factors: `up` `[outputs, rank]`, `down` `[rank, inputs · height · width]`.
#[derive(Clone, Debug)]
pub(super) struct LowRank {
    pub(super) up: Matrix,
    pub(super) down: Matrix,
}

/// A matrix, row by row.
#[derive(Clone, Debug)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<f32>,
}

/// Lengths that weights are brought to.
#[derive(Clone, Debug)]
pub(super) enum Magnitude {
    /// One for each output.
    OfOutputs(Vec<f32>),
    /// One for each input.
    OfInputs(Vec<f32>),
}

impl LayerChange {
    /// Reads a layer's tensors and holds them against the shape of the model's layer. `usual_alpha` stands for an alpha that
    /// is not among them. `None` where the tensors make no flavour.
    pub(super) fn read(
        file: &LoraFile,
        tensors: &BTreeMap<Role, String>,
        shape: [usize; 4],
        usual_alpha: impl Fn(usize) -> Option<f64>,
    ) -> Result<Option<Self>, LoadError> {
        let read = Tensors { file, tensors, shape };
        let Some((flavour, rank)) = read.flavour()? else { return Ok(None) };
        let alpha = match tensors.get(&Role::Alpha) {
            Some(name) => file.read(name)?.values.first().map(|alpha| f64::from(*alpha)),
            None => None,
        };
        let scale = match (alpha.filter(|alpha| *alpha != 0.0), rank) {
            // Without a rank nothing is scaled: LoKr of two whole factors.
            (_, None) => 1.0,
            (alpha, Some(rank)) => {
                alpha.or_else(|| usual_alpha(rank)).map_or(1.0, |alpha| alpha / rank as f64)
            }
        };
        Ok(Some(Self { flavour, scale, magnitude: read.magnitude()? }))
    }

    /// Whether the change runs beside the layer instead of in it.
    pub(super) fn low_rank(&self) -> Option<&LowRank> {
        match (&self.flavour, &self.magnitude) {
            (Flavour::LowRank(low_rank), None) => Some(low_rank),
            _ => None,
        }
    }

    /// The flavour's name.
    pub(super) fn name(&self, is_conv: bool) -> &'static str {
        match (&self.flavour, &self.magnitude, is_conv) {
            (Flavour::LowRank(_), None, false) => "LoRA",
            (Flavour::LowRank(_), None, true) => "LoCon",
            (Flavour::LowRank(_), Some(_), _) => "DoRA",
            (Flavour::Hadamard(_), None, _) => "LoHa",
            (Flavour::Hadamard(_), Some(_), _) => "LoHa with DoRA",
            (Flavour::Kronecker { .. }, None, _) => "LoKr",
            (Flavour::Kronecker { .. }, Some(_), _) => "LoKr with DoRA",
        }
    }

    /// Adds to `sum` how an adapter of this weight changes the layer's own weights `base`.
    pub(super) fn add_to(&self, sum: &mut [f32], base: &[f32], weight: f32, shape: [usize; 4]) {
        let factor = (self.scale * f64::from(weight)) as f32;
        let change = self.flavour.change(shape);
        match &self.magnitude {
            None => sum.par_iter_mut().zip(change).for_each(|(sum, change)| *sum += factor * change),
            Some(magnitude) => {
                let changed: Vec<f32> =
                    base.iter().zip(&change).map(|(base, change)| base + factor * change).collect();
                let lengths = magnitude.scales(&changed, shape);
                let inner = shape[2] * shape[3];
                let (outputs, inputs) = (shape[0], shape[1]);
                debug_assert_eq!(changed.len(), outputs * inputs * inner);
                for (index, (sum, (changed, base))) in
                    sum.iter_mut().zip(changed.iter().zip(base)).enumerate()
                {
                    let scale = match magnitude {
                        Magnitude::OfOutputs(_) => lengths[index / (inputs * inner)],
                        Magnitude::OfInputs(_) => lengths[index / inner % inputs],
                    };
                    *sum += scale * changed - base;
                }
            }
        }
    }
}

impl Flavour {
    /// The change before its scale, `[outputs, inputs · height · width]`.
    fn change(&self, [_, inputs, height, width]: [usize; 4]) -> Vec<f32> {
        match self {
            Self::LowRank(low_rank) => low_rank.product(),
            Self::Hadamard([first, second]) => {
                let mut change = first.product();
                change.par_iter_mut().zip(second.product()).for_each(|(value, other)| *value *= other);
                change
            }
            Self::Kronecker { small, large } => kronecker(small, large, inputs, height * width),
        }
    }
}

impl LowRank {
    fn product(&self) -> Vec<f32> {
        self.up.times(&self.down).values
    }
}

impl Matrix {
    /// `[rows, k] · [k, columns]`; each sum runs over `k` in order.
    pub(super) fn times(&self, other: &Self) -> Self {
        let columns = other.columns;
        let mut values = vec![0f32; self.rows * columns];
        values.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, out)| {
            let factors = &self.values[row * self.columns..(row + 1) * self.columns];
            for (factor, line) in factors.iter().zip(other.values.chunks_exact(columns.max(1))) {
                out.iter_mut().zip(line).for_each(|(out, value)| *out += factor * value);
            }
        });
        Self { rows: self.rows, columns, values }
    }

    fn transposed(&self) -> Self {
        let values = (0..self.columns)
            .flat_map(|column| (0..self.rows).map(move |row| self.values[row * self.columns + column]));
        Self { rows: self.columns, columns: self.rows, values: values.collect() }
    }
}

/// `small` `[a, b]` ⊗ `large` `[c, d · inner]`: `[a · c, b · d · inner]`.
fn kronecker(small: &Matrix, large: &Matrix, inputs: usize, inner: usize) -> Vec<f32> {
    let d = large.columns / inner.max(1);
    let mut change = vec![0f32; small.rows * large.rows * inputs * inner];
    change.par_chunks_mut((inputs * inner).max(1)).enumerate().for_each(|(row, out)| {
        let (a, c) = (row / large.rows, row % large.rows);
        let block = &large.values[c * large.columns..(c + 1) * large.columns];
        for (b, out) in out.chunks_exact_mut((d * inner).max(1)).enumerate() {
            let factor = small.values[a * small.columns + b];
            out.iter_mut().zip(block).for_each(|(out, value)| *out = factor * value);
        }
    });
    change
}

impl Magnitude {
    /// What the changed weights of each output (or input) are multiplied with.
    fn scales(&self, changed: &[f32], [outputs, inputs, height, width]: [usize; 4]) -> Vec<f32> {
        let inner = height * width;
        let (lengths, mut squares) = match self {
            Self::OfOutputs(lengths) => (lengths, vec![0f64; outputs]),
            Self::OfInputs(lengths) => (lengths, vec![0f64; inputs]),
        };
        for (index, value) in changed.iter().enumerate() {
            let of = match self {
                Self::OfOutputs(_) => index / (inputs * inner),
                Self::OfInputs(_) => index / inner % inputs,
            };
            squares[of] += f64::from(*value).powi(2);
        }
        // Weights that are all 0 stay so, whatever their length should be.
        let scale = |(length, squares): (&f32, &f64)| (f64::from(*length) / squares.sqrt().max(1e-30)) as f32;
        lengths.iter().zip(&squares).map(scale).collect()
    }
}

/// A layer's tensors, being read.
struct Tensors<'a> {
    file: &'a LoraFile,
    tensors: &'a BTreeMap<Role, String>,
    shape: [usize; 4],
}

impl Tensors<'_> {
    /// The flavour with its rank, where there is one.
    fn flavour(&self) -> Result<Option<(Flavour, Option<usize>)>, LoadError> {
        let has = |role| self.tensors.contains_key(&role);
        if has(Role::Down) && has(Role::Up) {
            let low_rank = self.low_rank()?;
            let rank = low_rank.down.rows;
            return Ok(Some((Flavour::LowRank(low_rank), Some(rank))));
        }
        if [Role::Hada1A, Role::Hada1B, Role::Hada2A, Role::Hada2B].into_iter().all(has) {
            let first = self.hadamard(Role::Hada1A, Role::Hada1B, Role::HadaT1)?;
            let second = self.hadamard(Role::Hada2A, Role::Hada2B, Role::HadaT2)?;
            let rank = first.down.rows;
            return Ok(Some((Flavour::Hadamard([first, second]), Some(rank))));
        }
        let first = has(Role::Kron1) || (has(Role::Kron1A) && has(Role::Kron1B));
        let second = has(Role::Kron2) || (has(Role::Kron2A) && has(Role::Kron2B));
        if first && second { self.kronecker().map(Some) } else { Ok(None) }
    }

    fn read(&self, role: Role) -> Result<Stored, LoadError> {
        let name = self.tensors.get(&role).map_or("", String::as_str);
        self.file.read(name)
    }

    /// `[outputs, rank]` and `[rank, inputs, height, width]`, perhaps with a core `[rank, rank, height, width]` between
    /// them, which is then part of the way down.
    fn low_rank(&self) -> Result<LowRank, LoadError> {
        let [outputs, inputs, height, width] = self.shape;
        let (down, up) = (self.read(Role::Down)?, self.read(Role::Up)?);
        let rank = down.shape.first().copied().unwrap_or(0);
        let up = self.matrix(Role::Up, up, outputs, rank)?;
        let down = match self.tensors.contains_key(&Role::Mid) {
            false => self.matrix(Role::Down, down, rank, inputs * height * width)?,
            true => {
                let core = self.matrix(Role::Mid, self.read(Role::Mid)?, rank, rank * height * width)?;
                let down = self.matrix(Role::Down, down, rank, inputs)?;
                through_core(&core, &down, height * width)
            }
        };
        Ok(LowRank { up, down })
    }

    /// One factor of a LoHa.
    fn hadamard(&self, from: Role, to: Role, core: Role) -> Result<LowRank, LoadError> {
        let [outputs, inputs, height, width] = self.shape;
        let (up, down) = (self.read(from)?, self.read(to)?);
        let rank = down.shape.first().copied().unwrap_or(0);
        if !self.tensors.contains_key(&core) {
            let up = self.matrix(from, up, outputs, rank)?;
            return Ok(LowRank { up, down: self.matrix(to, down, rank, inputs * height * width)? });
        }
        let core = self.matrix(core, self.read(core)?, rank, rank * height * width)?;
        // With a core the way up is stored the other way round.
        let up = self.matrix(from, up, rank, outputs)?.transposed();
        let down = self.matrix(to, down, rank, inputs)?;
        Ok(LowRank { up, down: through_core(&core, &down, height * width) })
    }

    fn kronecker(&self) -> Result<(Flavour, Option<usize>), LoadError> {
        let [outputs, inputs, height, width] = self.shape;
        let inner = height * width;
        let mut rank = None;
        let small = match self.tensors.contains_key(&Role::Kron1) {
            true => free(self.read(Role::Kron1)?),
            false => {
                let (a, b) = (free(self.read(Role::Kron1A)?), free(self.read(Role::Kron1B)?));
                rank = Some(b.rows);
                self.product(Role::Kron1B, &a, &b)?
            }
        };
        let large = match self.tensors.contains_key(&Role::Kron2) {
            true => free(self.read(Role::Kron2)?),
            false => {
                let (a, b) = (free(self.read(Role::Kron2A)?), free(self.read(Role::Kron2B)?));
                rank = Some(b.rows);
                match self.tensors.contains_key(&Role::KronT2) {
                    false => self.product(Role::Kron2B, &a, &b)?,
                    true => {
                        let core = self.read(Role::KronT2)?;
                        let core = self.matrix(Role::KronT2, core, b.rows, b.rows * inner)?;
                        self.product(Role::Kron2A, &a.transposed(), &through_core(&core, &b, inner))?
                    }
                }
            }
        };
        let (rows, columns) = (small.rows * large.rows, small.columns * large.columns);
        if (rows, columns) != (outputs, inputs * inner) {
            return Err(self.misfit(Role::Kron1, &[rows, columns / inner.max(1), height, width]));
        }
        Ok((Flavour::Kronecker { small, large }, rank))
    }

    fn magnitude(&self) -> Result<Option<Magnitude>, LoadError> {
        if !self.tensors.contains_key(&Role::Magnitude) {
            return Ok(None);
        }
        let Stored { shape, values } = self.read(Role::Magnitude)?;
        let [outputs, inputs, ..] = self.shape;
        // LyCORIS has a row over the inputs, [1, inputs], or a column over the outputs, [outputs, 1]; PEFT's are always those
        // of the outputs, for convolutions as [1, outputs, 1, 1].
        let of_lycoris = self.tensors.get(&Role::Magnitude).is_some_and(|name| name.ends_with("dora_scale"));
        let of_inputs = of_lycoris && shape.len() > 1 && shape[0] == 1 && shape[1] == inputs && inputs != 1;
        match values.len() {
            count if of_inputs && count == inputs => Ok(Some(Magnitude::OfInputs(values))),
            count if count == outputs => Ok(Some(Magnitude::OfOutputs(values))),
            _ => Err(self.misfit(Role::Magnitude, &shape)),
        }
    }

    /// A tensor as a matrix of this size; ones at the end of its shape do not matter.
    fn matrix(&self, role: Role, stored: Stored, rows: usize, columns: usize) -> Result<Matrix, LoadError> {
        let fits = rows > 0 && stored.shape.first() == Some(&rows) && stored.values.len() == rows * columns;
        match fits {
            true => Ok(Matrix { rows, columns, values: stored.values }),
            false => Err(self.misfit(role, &stored.shape)),
        }
    }

    fn product(&self, role: Role, a: &Matrix, b: &Matrix) -> Result<Matrix, LoadError> {
        // No factor is larger than the layer: a file cannot ask for more memory than that.
        let largest: usize = self.shape.iter().product();
        match a.columns == b.rows && a.rows.checked_mul(b.columns).is_some_and(|count| count <= largest) {
            true => Ok(a.times(b)),
            false => Err(self.misfit(role, &[b.rows, b.columns])),
        }
    }

    fn misfit(&self, role: Role, found: &[usize]) -> LoadError {
        let name = self.tensors.get(&role).map_or("its factors", String::as_str);
        let message = format!("'{name}' of shape {found:?} does not fit a layer of shape {:?}", self.shape);
        LoadError::new(LoadErrorKind::Tensor, message)
    }
}

/// A stored tensor as rows of its first dimension.
fn free(stored: Stored) -> Matrix {
    let rows = stored.shape.first().copied().unwrap_or(1);
    let columns = stored.values.len().checked_div(rows).unwrap_or(0);
    Matrix { rows, columns, values: stored.values }
}

/// `core` `[rank, rank', inner]` and `down` `[rank', inputs]`: `[rank, inputs · inner]`.
fn through_core(core: &Matrix, down: &Matrix, inner: usize) -> Matrix {
    let (rank, inputs) = (core.rows, down.columns);
    let mut values = vec![0f32; rank * inputs * inner];
    for (row, out) in values.chunks_exact_mut((inputs * inner).max(1)).enumerate() {
        for middle in 0..down.rows {
            let kernel = &core.values[row * core.columns + middle * inner..][..inner];
            let line = &down.values[middle * inputs..(middle + 1) * inputs];
            for (out, value) in out.chunks_exact_mut(inner.max(1)).zip(line) {
                out.iter_mut().zip(kernel).for_each(|(out, kernel)| *out += kernel * value);
            }
        }
    }
    Matrix { rows: rank, columns: inputs * inner, values }
}
