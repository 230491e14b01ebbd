//! Layers that candle's autograd can go back through: forward and backward on the engine's own kernels.
//!
//! Weights are fixed, so only the way back to the input is taken. Everything is f32, a batch is one picture.
//! Shapes: pictures are `[1, C, H, W]`, tokens `[T, C]`.

use super::{Activation, PackedConv, PackedWeights, with_values};
use crate::{
    error::{LoadError, Result},
    weights::Scope,
};
use candle_core::{CpuStorage, CustomOp1, D, Device, Layout, Shape, Tensor};
use pentimento_kernels::{
    self as kernels, ConvOptions, Epilogue, NormActivation, Padding, Precision, RowsMut,
};
use rayon::prelude::*;
use std::sync::Arc;

/// An operation that is bound once and used again and again.
type Op = Arc<Box<dyn CustomOp1 + Send + Sync>>;

/// Calls an operation, which takes rows without gaps.
fn call(op: &Op, x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1_arc(op.clone())
}

/// The values of an operation's argument.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("the kernels take f32 tensors without gaps"),
    }
}

/// A square convolution of stride 1 that keeps the size.
pub(crate) struct Conv(Op);

struct ConvOp {
    there: PackedConv,
    /// The same kernels turned by 180°, from outputs to inputs.
    back: PackedConv,
    bias: Vec<f32>,
}

impl Conv {
    pub(crate) fn load(
        scope: &Scope,
        inputs: usize,
        outputs: usize,
        kernel: usize,
    ) -> Result<Self, LoadError> {
        let shape = [outputs, inputs, kernel, kernel];
        let weight = scope.values("weight", &shape)?;
        let pixels = kernel * kernel;
        let mut turned = vec![0f32; weight.len()];
        for (place, chunk) in weight.chunks_exact(pixels).enumerate() {
            let (output, input) = (place / inputs, place % inputs);
            let start = (input * outputs + output) * pixels;
            turned[start..start + pixels]
                .iter_mut()
                .zip(chunk.iter().rev())
                .for_each(|(to, from)| *to = *from);
        }
        let there = PackedConv::pack(weight.as_slice(), shape, Precision::F32);
        let back = PackedConv::pack(turned.as_slice(), [inputs, outputs, kernel, kernel], Precision::F32);
        Ok(Self(Arc::new(Box::new(ConvOp { there, back, bias: scope.values("bias", &[outputs])? }))))
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        call(&self.0, x)
    }
}

fn convolved(
    weight: &PackedConv,
    x: &[f32],
    [channels, height, width]: [usize; 3],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let mut y = vec![0f32; weight.c_out() * height * width];
    let padding = Padding::all(weight.kernel().0 / 2);
    let options = ConvOptions { padding, bias, ..ConvOptions::default() };
    kernels::conv2d(x, [1, channels, height, width], weight, &options, &mut y);
    y
}

impl CustomOp1 for ConvOp {
    fn name(&self) -> &'static str {
        "convolution"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, channels, height, width) = layout.shape().dims4()?;
        let x = values(storage, layout)?;
        let y = convolved(&self.there, x, [channels, height, width], Some(&self.bias));
        Ok((CpuStorage::F32(y), Shape::from((1, self.there.c_out(), height, width))))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, channels, height, width) = grad.dims4()?;
        let back = with_values(grad, |grad| convolved(&self.back, grad, [channels, height, width], None))?;
        Tensor::from_vec(back, arg.dims(), &Device::Cpu).map(Some)
    }
}

/// `y = x·Wᵀ + b` over the last dimension.
pub(crate) struct Linear(Op);

struct LinearOp {
    there: PackedWeights,
    back: PackedWeights,
    bias: Option<Vec<f32>>,
}

impl Linear {
    pub(crate) fn load(scope: &Scope, inputs: usize, outputs: usize) -> Result<Self, LoadError> {
        let bias = Some(scope.values("bias", &[outputs])?);
        Ok(Self::of(&scope.values("weight", &[outputs, inputs])?, inputs, outputs, bias))
    }

    /// A layer of these values, `[outputs, inputs]`.
    pub(crate) fn of(weight: &[f32], inputs: usize, outputs: usize, bias: Option<Vec<f32>>) -> Self {
        let mut turned = vec![0f32; weight.len()];
        for (output, row) in weight.chunks_exact(inputs).enumerate() {
            row.iter().enumerate().for_each(|(input, value)| turned[input * outputs + output] = *value);
        }
        Self(Arc::new(Box::new(LinearOp {
            there: PackedWeights::pack(weight, outputs, inputs, Precision::F32),
            back: PackedWeights::pack(turned.as_slice(), inputs, outputs, Precision::F32),
            bias,
        })))
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        call(&self.0, x)
    }
}

impl CustomOp1 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, mut dims) = (values(storage, layout)?, layout.dims().to_vec());
        let outputs = self.there.n();
        let mut y = vec![0f32; x.len() / self.there.k() * outputs];
        kernels::linear(x, &self.there, self.bias.as_deref(), &mut y, Epilogue::None);
        if let Some(last) = dims.last_mut() {
            *last = outputs;
        }
        Ok((CpuStorage::F32(y), Shape::from(dims)))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut back = vec![0f32; arg.elem_count()];
        with_values(grad, |grad| kernels::linear(grad, &self.back, None, &mut back, Epilogue::None))?;
        Tensor::from_vec(back, arg.dims(), &Device::Cpu).map(Some)
    }
}

/// A norm: over groups of channels, or over each token.
pub(crate) struct Norm(Op);

struct NormOp {
    weight: Vec<f32>,
    bias: Vec<f32>,
    over: Over,
    epsilon: f32,
    activation: NormActivation,
}

/// What is brought to mean 0 and deviation 1 together.
#[derive(Clone, Copy, Debug)]
enum Over {
    /// So many groups of the channels of `[1, C, H, W]`.
    Groups(usize),
    /// Each token of `[T, C]`.
    Tokens,
}

impl Norm {
    /// Over groups of channels.
    pub(crate) fn groups(
        scope: &Scope,
        groups: usize,
        channels: usize,
        epsilon: f64,
    ) -> Result<Self, LoadError> {
        Self::load(scope, channels, Over::Groups(groups), epsilon, NormActivation::None)
    }

    /// The same with SiLU behind it.
    pub(crate) fn groups_silu(
        scope: &Scope,
        groups: usize,
        channels: usize,
        epsilon: f64,
    ) -> Result<Self, LoadError> {
        Self::load(scope, channels, Over::Groups(groups), epsilon, NormActivation::Silu)
    }

    /// Over each token.
    pub(crate) fn tokens(scope: &Scope, channels: usize, epsilon: f64) -> Result<Self, LoadError> {
        Self::load(scope, channels, Over::Tokens, epsilon, NormActivation::None)
    }

    fn load(
        scope: &Scope,
        channels: usize,
        over: Over,
        epsilon: f64,
        activation: NormActivation,
    ) -> Result<Self, LoadError> {
        let (weight, bias) = (scope.values("weight", &[channels])?, scope.values("bias", &[channels])?);
        Ok(Self(Arc::new(Box::new(NormOp { weight, bias, over, epsilon: epsilon as f32, activation }))))
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        call(&self.0, x)
    }
}

impl NormOp {
    /// The derivative of one set of values: `x` and `grad` are those of a group or token whose first value is that of the
    /// channel `first`, and each channel has `pixels` values.
    fn back(&self, x: &[f32], grad: &[f32], first: usize, pixels: usize, back: &mut [f32]) {
        let count = x.len() as f64;
        let mean = x.iter().map(|value| f64::from(*value)).sum::<f64>() / count;
        let variance = x.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
        let scale = 1.0 / (variance + f64::from(self.epsilon)).sqrt();
        let (mut sum, mut sum_along) = (0.0, 0.0);
        for (index, (value, grad)) in x.iter().zip(grad).enumerate() {
            let channel = first + index / pixels;
            let normed = (f64::from(*value) - mean) * scale;
            let weight = f64::from(self.weight[channel]);
            let inner = match self.activation {
                NormActivation::None => 1.0,
                NormActivation::Silu => silu_slope(normed * weight + f64::from(self.bias[channel])),
            };
            let along = f64::from(*grad) * inner * weight;
            (sum, sum_along) = (sum + along, sum_along + along * normed);
            back[index] = along as f32;
        }
        for (value, back) in x.iter().zip(back) {
            let normed = (f64::from(*value) - mean) * scale;
            *back = (scale * (f64::from(*back) - sum / count - normed * sum_along / count)) as f32;
        }
    }
}

/// The slope of `x · sigmoid(x)`.
fn silu_slope(x: f64) -> f64 {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    sigmoid * (1.0 + x * (1.0 - sigmoid))
}

impl CustomOp1 for NormOp {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = values(storage, layout)?;
        let mut y = vec![0f32; x.len()];
        let Self { weight, bias, epsilon, activation, over } = self;
        let channels = weight.len();
        match over {
            Over::Groups(groups) => {
                let shape = [1, channels, x.len() / channels];
                kernels::group_norm(x, shape, *groups, weight, bias, *epsilon, *activation, &mut y);
            }
            Over::Tokens => kernels::layer_norm(x, channels, weight, bias, *epsilon, RowsMut::F32(&mut y)),
        }
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let channels = self.weight.len();
        let (together, pixels) = match self.over {
            Over::Groups(groups) => (arg.elem_count() / groups, arg.elem_count() / channels),
            Over::Tokens => (channels, 1),
        };
        let mut back = vec![0f32; arg.elem_count()];
        with_values(arg, |x| {
            with_values(grad, |grad| {
                let sets = x.par_chunks_exact(together).zip(grad.par_chunks_exact(together));
                sets.zip(back.par_chunks_exact_mut(together)).enumerate().for_each(
                    |(set, ((x, grad), back))| {
                        let first = set * together / pixels % channels;
                        self.back(x, grad, first, pixels, back);
                    },
                );
            })
        })??;
        Tensor::from_vec(back, arg.dims(), &Device::Cpu).map(Some)
    }
}

/// `x · sigmoid(1.702 x)`, whose slope candle's own operations lose where the exponential overflows.
struct QuickGelu;

/// 1.702: Hendrycks & Gimpel 2016, section 2.
const QUICK: f32 = 1.702;

impl CustomOp1 for QuickGelu {
    fn name(&self) -> &'static str {
        "quick_gelu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut y = values(storage, layout)?.to_vec();
        kernels::quick_gelu(&mut y);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let slope = |(x, grad): (&f32, &f32)| {
            let sigmoid = 1.0 / (1.0 + (-QUICK * x).exp());
            grad * sigmoid * (1.0 + QUICK * x * (1.0 - sigmoid))
        };
        let back: Vec<f32> =
            with_values(arg, |x| with_values(grad, |grad| x.iter().zip(grad).map(slope).collect()))??;
        Tensor::from_vec(back, arg.dims(), &Device::Cpu).map(Some)
    }
}

/// An activation.
pub(crate) fn activate(x: &Tensor, activation: Activation) -> Result<Tensor> {
    match activation {
        Activation::Gelu => x.gelu_erf(),
        Activation::QuickGelu => x.contiguous()?.apply_op1(QuickGelu),
        Activation::Silu => x.silu(),
        Activation::Relu => x.relu(),
    }
}

/// `softmax(q·kᵀ/√d)·v` per head over `[T, heads·d]`.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (tokens, width) = q.dims2()?;
    let head = width / heads;
    // [T, heads·d] -> [heads, T, d]
    let split = |x: &Tensor| x.reshape((tokens, heads, head))?.transpose(0, 1)?.contiguous();
    let (q, k, v) = (split(q)?, split(k)?, split(v)?);
    let scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? / (head as f64).sqrt())?;
    // The largest score is taken off so that no exponential overflows; it changes nothing else, so no slope goes through it.
    let largest = scores.detach().max_keepdim(D::Minus1)?;
    let shares = scores.broadcast_sub(&largest)?.exp()?;
    let shares = shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)?;
    // [heads, T, d] -> [T, heads·d]
    shares.matmul(&v)?.transpose(0, 1)?.contiguous()?.reshape((tokens, width))
}

/// `[1, C, h, w] -> [1, C, H, W]` by linear interpolation, over as many pixels as one of the result covers.
pub(crate) fn resize(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let (_, channels, from_height, from_width) = x.dims4()?;
    let mut y = x.clone();
    if from_width != width {
        // [1, C, h, w]·[w, W]
        let y2 = y.reshape((channels * from_height, from_width))?.matmul(&blending(from_width, width)?)?;
        y = y2.reshape((1, channels, from_height, width))?;
    }
    if from_height != height {
        // [1, C, h, W] -> [1, C, W, h]·[h, H] -> [1, C, H, W]
        let y2 = y.transpose(2, 3)?.contiguous()?.reshape((channels * width, from_height))?;
        let y2 = y2.matmul(&blending(from_height, height)?)?.reshape((1, channels, width, height))?;
        y = y2.transpose(2, 3)?.contiguous()?;
    }
    Ok(y)
}

/// What each of `to` pixels takes of each of `from`, as `[from, to]`: Pillow's triangle filter.
fn blending(from: usize, to: usize) -> Result<Tensor> {
    let scale = from as f64 / to as f64;
    let reach = scale.max(1.0);
    let mut matrix = vec![0f32; from * to];
    for column in 0..to {
        let centre = scale * (column as f64 + 0.5);
        let share = |row: usize| (1.0 - ((row as f64 + 0.5 - centre) / reach).abs()).max(0.0);
        let sum: f64 = (0..from).map(share).sum();
        (0..from).for_each(|row| matrix[row * to + column] = (share(row) / sum) as f32);
    }
    Tensor::from_vec(matrix, (from, to), &Device::Cpu)
}
