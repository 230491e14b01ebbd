//! The engine's primitives: the one door between model code and arithmetic.
//!
//! Shapes: pictures are `[B, C, H, W]`, token sequences `[B, T, C]`, all on the CPU and in f32, but for what is made to be
//! multiplied only (`_for` in the names below), which is bf16 where the product would round it anyway. Weights are packed
//! when a model is loaded. Model code calls nothing else; what a primitive runs on is decided here:
//! `pentimento-kernels`, with candle's own operations as the oracle of the tests below.
//! Errors: those of candle, which mean a mistake in the engine, never one of the request.

mod products;
mod rows;
pub(crate) mod tape;

pub(crate) use products::products;
pub(crate) use rows::{Edges, Moments};

use crate::{
    error::{LoadError, Result},
    interruption,
    lora::Side,
    precision::floats,
    profile::{self, LayerKind},
    weights::Scope,
};
use candle_core::{CpuStorage, Device, Shape, Storage, Tensor};
use half::bf16;
use pentimento_kernels as kernels;
use pentimento_kernels::pages::stale_halves;
pub(crate) use pentimento_kernels::pages::{self, stale};
use pentimento_kernels::{
    AttentionShape, ConvOptions, Epilogue, LowRank, NormActivation, Rows, RowsMut, Upsample,
};
pub(crate) use pentimento_kernels::{
    Mask, PackedConv, PackedWeights, Padding, Precision, WeightsRef, fastest_precision,
};
use std::sync::Arc;

/// `y = x·Wᵀ + b` over the last dimension.
pub(crate) struct Linear {
    /// Shared by all networks that are bound to the same weights.
    weight: Arc<PackedWeights>,
    bias: Option<Vec<f32>>,
    /// An adapter's low rank: its way down and up again.
    side: Option<Arc<[PackedWeights; 2]>>,
}

impl Linear {
    /// A layer with a bias.
    pub(crate) fn load(scope: &Scope, inputs: usize, outputs: usize) -> Result<Self, LoadError> {
        let bias = Some(scope.values("bias", &[outputs])?);
        Ok(Self { bias, ..Self::without_bias(scope, inputs, outputs)? })
    }

    /// A layer without a bias.
    pub(crate) fn without_bias(scope: &Scope, inputs: usize, outputs: usize) -> Result<Self, LoadError> {
        Ok(Self { weight: scope.packed_linear(&[outputs, inputs])?, bias: None, side: linear_side(scope) })
    }

    /// A 1×1 convolution's weights, used on token sequences.
    pub(crate) fn from_conv1x1(scope: &Scope, inputs: usize, outputs: usize) -> Result<Self, LoadError> {
        let weight = scope.packed_linear(&[outputs, inputs, 1, 1])?;
        Ok(Self { weight, bias: Some(scope.values("bias", &[outputs])?), side: linear_side(scope) })
    }

    /// In which its results are multiplied with one another.
    pub(crate) fn precision(&self) -> Precision {
        floats(self.weight.precision())
    }

    /// In which its input is multiplied.
    pub(crate) fn takes(&self) -> Precision {
        match self.side.as_deref() {
            Some([down, _]) if down.precision() != self.weight.precision() => Precision::F32,
            Some(_) | None => self.weight.precision(),
        }
    }

    /// In which all of these layers take the same input: f32 where they do not agree.
    pub(crate) fn taken_by(layers: [&Self; 3]) -> Precision {
        let [first, second, third] = layers.map(Self::takes);
        if first == second && second == third { first } else { Precision::F32 }
    }

    /// `[.., inputs] -> [.., outputs]`
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, Epilogue::None, Precision::F32)
    }

    /// The same, to be multiplied in this precision.
    pub(crate) fn forward_for(&self, x: &Tensor, product: Precision) -> Result<Tensor> {
        self.apply(x, Epilogue::None, product)
    }

    /// The same with `residual` `[.., outputs]` added.
    pub(crate) fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        self.forward_add_for(x, residual, Precision::F32)
    }

    /// The same, to be multiplied in this precision.
    pub(crate) fn forward_add_for(
        &self,
        x: &Tensor,
        residual: &Tensor,
        product: Precision,
    ) -> Result<Tensor> {
        with_values(residual, |residual| self.apply(x, Epilogue::Add(residual), product))?
    }

    /// The same with an activation behind it.
    pub(crate) fn forward_act(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        self.forward_act_for(x, activation, Precision::F32)
    }

    /// The same, to be multiplied in this precision.
    pub(crate) fn forward_act_for(
        &self,
        x: &Tensor,
        activation: Activation,
        product: Precision,
    ) -> Result<Tensor> {
        let epilogue = match activation {
            Activation::Gelu => Epilogue::Gelu,
            Activation::QuickGelu => Epilogue::QuickGelu,
            Activation::Silu => Epilogue::Silu,
            Activation::Relu => return self.forward(x)?.relu(),
        };
        self.apply(x, epilogue, product)
    }

    /// `a · gelu(b)` of the halves `a`, `b` of the outputs, to be multiplied in this precision:
    /// `[.., inputs] -> [.., outputs / 2]`
    pub(crate) fn forward_geglu_for(&self, x: &Tensor, product: Precision) -> Result<Tensor> {
        let inner = self.weight.n() / 2;
        let dims = with_last(x, inner);
        // The fused kernel takes whole groups of 16 columns.
        if !inner.is_multiple_of(16) {
            let mut y = stale(dims.iter().product());
            with_values(&self.forward(x)?, |both| kernels::geglu(both, inner, &mut y))?;
            return Tensor::from_vec(y, dims, &Device::Cpu);
        }
        interruption::check()?;
        let mut y = Values::stale(&dims, product);
        let (flops, bias) = (self.flops(2 * dims.iter().product::<usize>()), self.bias.as_deref());
        let geglu = |x: Rows, side: Option<LowRank>| {
            kernels::linear_geglu(x, &self.weight, side, bias, y.rows());
        };
        profile::layer(LayerKind::Linear, flops, || with_rows(x, |x| self.beside(x, geglu)))?;
        y.tensor(dims)
    }

    fn apply(&self, x: &Tensor, epilogue: Epilogue, product: Precision) -> Result<Tensor> {
        interruption::check()?;
        let dims = with_last(x, self.weight.n());
        let mut y = Values::stale(&dims, product);
        let bias = self.bias.as_deref();
        let flops = self.flops(dims.iter().product());
        let apply = |x: Rows, side: Option<LowRank>| {
            kernels::linear_beside(x, &self.weight, side, bias, y.rows(), epilogue);
        };
        profile::layer(LayerKind::Linear, flops, || with_rows(x, |x| self.beside(x, apply)))?;
        y.tensor(dims)
    }

    /// Operations of so many results.
    fn flops(&self, results: usize) -> u64 {
        2 * results as u64 * self.weight.k() as u64
    }

    /// Calls `apply` with the input and what its low rank's way down makes of it, if there is one.
    fn beside(&self, x: Rows, apply: impl FnOnce(Rows, Option<LowRank>)) {
        let Some([down, up]) = self.side.as_deref() else { return apply(x, None) };
        let mut low = stale(x.len() / down.k().max(1) * down.n());
        kernels::linear_beside(x, down, None, None, RowsMut::F32(&mut low), Epilogue::None);
        apply(x, Some(LowRank { low: &low, up }));
    }
}

/// The low rank beside the linear layer here.
fn linear_side(scope: &Scope) -> Option<Arc<[PackedWeights; 2]>> {
    match scope.side()? {
        Side::Linear(pair) => Some(pair),
        Side::Conv(_) => None,
    }
}

/// A square convolution over `[B, C, H, W]`.
pub(crate) struct Conv2d {
    /// Shared by all networks that are bound to the same weights.
    weight: Arc<PackedConv>,
    bias: Option<Vec<f32>>,
    stride: usize,
    padding: Padding,
    /// An adapter's low rank: its way down, with the same kernel, and up again.
    side: Option<Arc<[PackedConv; 2]>>,
}

impl Conv2d {
    /// A convolution with a bias, stride 1 and "same" padding.
    pub(crate) fn load(
        scope: &Scope,
        inputs: usize,
        outputs: usize,
        kernel: usize,
    ) -> Result<Self, LoadError> {
        let bias = Some(scope.values("bias", &[outputs])?);
        Ok(Self { bias, ..Self::without_bias(scope, inputs, outputs, kernel)? })
    }

    /// A convolution without a bias, stride 1 and "same" padding.
    pub(crate) fn without_bias(
        scope: &Scope,
        inputs: usize,
        outputs: usize,
        kernel: usize,
    ) -> Result<Self, LoadError> {
        let weight = scope.packed_conv([outputs, inputs, kernel, kernel])?;
        let side = match scope.side() {
            Some(Side::Conv(pair)) => Some(pair),
            Some(Side::Linear(_)) | None => None,
        };
        Ok(Self { weight, bias: None, stride: 1, padding: Padding::all(kernel / 2), side })
    }

    /// A convolution without a bias whose kernel cuts the picture into tiles that do not overlap.
    pub(crate) fn patches(
        scope: &Scope,
        inputs: usize,
        outputs: usize,
        size: usize,
    ) -> Result<Self, LoadError> {
        let conv = Self::without_bias(&scope.drawing(0), inputs, outputs, size)?;
        Ok(Self { stride: size, padding: Padding::default(), ..conv })
    }

    /// A convolution of 3 by 3 with stride 2 and these zeros around the picture.
    pub(crate) fn halving(
        scope: &Scope,
        inputs: usize,
        outputs: usize,
        padding: Padding,
    ) -> Result<Self, LoadError> {
        let bias = Some(scope.values("bias", &[outputs])?);
        Ok(Self { bias, ..Self::halving_without_bias(scope, inputs, outputs, padding)? })
    }

    /// The same without a bias.
    pub(crate) fn halving_without_bias(
        scope: &Scope,
        inputs: usize,
        outputs: usize,
        padding: Padding,
    ) -> Result<Self, LoadError> {
        // 0: packed for any stride.
        let conv = Self::without_bias(&scope.drawing(0), inputs, outputs, 3)?;
        Ok(Self { stride: 2, padding, ..conv })
    }

    /// `[B, inputs, H, W] -> [B, outputs, H', W']`
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, self.options())
    }

    /// The same with `shift` `[B, outputs]` added to every pixel.
    pub(crate) fn forward_shift(&self, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
        with_values(shift, |shift| self.apply(x, ConvOptions { channel_add: Some(shift), ..self.options() }))?
    }

    /// The same with `residual` `[B, outputs, H', W']` added.
    pub(crate) fn forward_add(&self, x: &Tensor, residual: &Tensor) -> Result<Tensor> {
        with_values(residual, |residual| {
            self.apply(x, ConvOptions { residual: Some(residual), ..self.options() })
        })?
    }

    /// The same on `x` doubled in height and width, each pixel becoming two by two.
    pub(crate) fn forward_doubled(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, ConvOptions { upsample: Upsample::Nearest2, ..self.options() })
    }

    /// Kind and operations of so many results, as the direct sum needs them.
    fn work(&self, results: usize) -> (LayerKind, u64) {
        let (height, width) = self.weight.kernel();
        let kind = if (height, width) == (1, 1) { LayerKind::Conv1x1 } else { LayerKind::Conv3x3 };
        (kind, 2 * (results * self.weight.c_in() * height * width) as u64)
    }

    fn options(&self) -> ConvOptions<'_> {
        let (stride, padding) = (self.stride, self.padding);
        ConvOptions { stride, padding, bias: self.bias.as_deref(), ..ConvOptions::default() }
    }

    fn apply(&self, x: &Tensor, options: ConvOptions) -> Result<Tensor> {
        interruption::check()?;
        let (batch, channels, height, width) = x.dims4()?;
        let (out_height, out_width) = kernels::conv2d_output_size(height, width, &self.weight, &options);
        let outputs = self.weight.c_out();
        let mut y = stale(batch * outputs * out_height * out_width);
        let shape = [batch, channels, height, width];
        let (kind, flops) = self.work(y.len());
        let convolve = |x: &[f32]| {
            let Some(side) = &self.side else {
                return kernels::conv2d(x, shape, &self.weight, &options, &mut y);
            };
            let [down, up] = &**side;
            let mut low = stale(batch * down.c_out() * out_height * out_width);
            let plain = ConvOptions { bias: None, channel_add: None, residual: None, ..options };
            kernels::conv2d(x, shape, down, &plain, &mut low);
            let mut added = stale(y.len());
            let onto = ConvOptions { residual: options.residual, ..ConvOptions::default() };
            kernels::conv2d(&low, [batch, down.c_out(), out_height, out_width], up, &onto, &mut added);
            let options = ConvOptions { residual: Some(&added), ..options };
            kernels::conv2d(x, shape, &self.weight, &options, &mut y);
        };
        profile::layer(kind, flops, || with_values(x, convolve))?;
        Tensor::from_vec(y, (batch, outputs, out_height, out_width), &Device::Cpu)
    }
}

/// Normalisation over groups of channels of `[B, C, ..]`.
pub(crate) struct GroupNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    groups: usize,
    epsilon: f32,
}

impl GroupNorm {
    pub(crate) fn load(
        scope: &Scope,
        groups: usize,
        channels: usize,
        epsilon: f64,
    ) -> Result<Self, LoadError> {
        let (weight, bias) = (scope.values("weight", &[channels])?, scope.values("bias", &[channels])?);
        Ok(Self { weight, bias, groups, epsilon: epsilon as f32 })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, NormActivation::None)
    }

    /// The norm with SiLU behind it.
    pub(crate) fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.apply(x, NormActivation::Silu)
    }

    fn apply(&self, x: &Tensor, activation: NormActivation) -> Result<Tensor> {
        let (batch, channels) = (x.dim(0)?, x.dim(1)?);
        let shape = [batch, channels, x.elem_count() / (batch * channels)];
        let mut y = stale(x.elem_count());
        let norm = |x: &[f32]| {
            let (weight, bias) = (&self.weight, &self.bias);
            kernels::group_norm(x, shape, self.groups, weight, bias, self.epsilon, activation, &mut y);
        };
        profile::layer(LayerKind::GroupNorm, 0, || with_values(x, norm))?;
        Tensor::from_vec(y, x.dims(), &Device::Cpu)
    }
}

/// Normalisation over the last dimension.
pub(crate) struct LayerNorm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl LayerNorm {
    pub(crate) fn load(scope: &Scope, channels: usize, epsilon: f64) -> Result<Self, LoadError> {
        let (weight, bias) = (scope.values("weight", &[channels])?, scope.values("bias", &[channels])?);
        Ok(Self { weight, bias, epsilon: epsilon as f32 })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.forward_for(x, Precision::F32)
    }

    /// The same, to be multiplied in this precision.
    pub(crate) fn forward_for(&self, x: &Tensor, product: Precision) -> Result<Tensor> {
        let mut y = Values::stale(x.dims(), product);
        let channels = self.weight.len();
        let norm = |x: &[f32]| {
            kernels::layer_norm(x, channels, &self.weight, &self.bias, self.epsilon, y.rows());
        };
        profile::layer(LayerKind::LayerNorm, 0, || with_values(x, norm))?;
        y.tensor(x.dims())
    }
}

/// The heads of an attention.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// How many lie side by side in a token.
    pub(crate) count: usize,
    /// Of the products of queries, keys and values; the softmax between them is f32.
    pub(crate) precision: Precision,
}

/// `softmax(q·kᵀ/√d)·v` per head. `q` is `[B, T, heads·d]`, `k` and `v` are `[B, S, heads·d]`; so is the result
/// `[B, T, heads·d]`.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: Heads) -> Result<Tensor> {
    attention_for(q, k, v, heads, Mask::None, Precision::F32)
}

/// The same where not every token may be seen, to be multiplied in this precision.
pub(crate) fn attention_for(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: Heads,
    mask: Mask,
    product: Precision,
) -> Result<Tensor> {
    interruption::check()?;
    let Heads { count: heads, precision } = heads;
    let (batch, queries, width) = q.dims3()?;
    let head_dim = width / heads;
    let shape = AttentionShape { batch, heads, head_dim, queries, keys: k.dim(1)? };
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut y = Values::stale(q.dims(), product);
    // Of both products, q·kᵀ and its weights times v.
    let flops = 4 * (batch * queries * shape.keys * width) as u64;
    profile::layer(LayerKind::Attention, flops, || {
        with_rows(q, |q| {
            with_rows(k, |k| {
                with_rows(v, |v| kernels::attention_in(precision, q, k, v, shape, scale, mask, y.rows()))
            })
        })
    })???;
    y.tensor(q.dims())
}

/// The activations that configurations name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x · Φ(x)`.
    Gelu,
    /// `x · sigmoid(1.702 x)` (Hendrycks & Gimpel 2016, section 2).
    QuickGelu,
    /// `max(x, 0)`.
    Relu,
    /// `x · sigmoid(x)`.
    Silu,
}

impl Activation {
    /// The activation of this name in a configuration.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "gelu" => Some(Self::Gelu),
            "quick_gelu" => Some(Self::QuickGelu),
            "relu" => Some(Self::Relu),
            "silu" | "swish" => Some(Self::Silu),
            _ => None,
        }
    }

    pub(crate) fn forward(self, x: &Tensor) -> Result<Tensor> {
        let kernel = match self {
            Self::Gelu => kernels::gelu,
            Self::QuickGelu => kernels::quick_gelu,
            Self::Silu => kernels::silu,
            Self::Relu => return x.relu(),
        };
        let mut y = with_values(x, <[f32]>::to_vec)?;
        kernel(&mut y);
        Tensor::from_vec(y, x.dims(), &Device::Cpu)
    }
}

/// A picture's pixels as tokens: `[B, C, H, W] -> [B, H·W, C]`
pub(crate) fn tokens(picture: &Tensor) -> Result<Tensor> {
    tokens_for(picture, Precision::F32)
}

/// The same, to be multiplied in this precision.
pub(crate) fn tokens_for(picture: &Tensor, product: Precision) -> Result<Tensor> {
    let (batch, channels, height, width) = picture.dims4()?;
    let mut y = Values::stale(picture.dims(), product);
    with_values(picture, |x| kernels::transpose(x, [batch, channels, height * width], None, y.rows()))?;
    y.tensor((batch, height * width, channels))
}

/// Tokens `[B, H·W, C]` as the picture that they are, added to `picture` `[B, C, H, W]`.
pub(crate) fn add_tokens(picture: &Tensor, tokens: &Tensor) -> Result<Tensor> {
    let (batch, channels, height, width) = picture.dims4()?;
    let mut y = stale(picture.elem_count());
    with_values(picture, |picture| {
        with_values(tokens, |x| {
            kernels::transpose(x, [batch, height * width, channels], Some(picture), RowsMut::F32(&mut y));
        })
    })??;
    Tensor::from_vec(y, picture.dims(), &Device::Cpu)
}

/// Nearest-neighbour resize of `[B, C, H, W]`.
pub(crate) fn upsample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    x.upsample_nearest2d(height, width)
}

/// Lends a tensor's values, row-major.
pub(crate) fn with_values<T>(x: &Tensor, body: impl FnOnce(&[f32]) -> T) -> Result<T> {
    with_rows(x, |rows| match rows {
        Rows::F32(values) => Ok(body(values)),
        Rows::Bf16(_) => candle_core::bail!("the kernel takes f32 tensors"),
    })?
}

/// The same of tensors that may be bf16.
fn with_rows<T>(x: &Tensor, body: impl FnOnce(Rows) -> T) -> Result<T> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let range = layout.start_offset()..layout.start_offset() + layout.shape().elem_count();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => Ok(body(Rows::F32(&values[range]))),
        Storage::Cpu(CpuStorage::BF16(values)) => Ok(body(Rows::Bf16(&values[range]))),
        _ => candle_core::bail!("the kernels take f32 and bf16 tensors on the CPU"),
    }
}

/// A kernel's result.
enum Values {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
}

impl Values {
    /// Room for a tensor that will be multiplied in this precision: in bf16 alone it is rounded.
    fn stale(dims: &[usize], product: Precision) -> Self {
        let len = dims.iter().product();
        match product {
            Precision::Bf16 => Self::Bf16(stale_halves(len)),
            Precision::F32 | Precision::Int8 => Self::F32(stale(len)),
        }
    }

    fn rows(&mut self) -> RowsMut<'_> {
        match self {
            Self::F32(values) => RowsMut::F32(values),
            Self::Bf16(values) => RowsMut::Bf16(values),
        }
    }

    fn tensor(self, dims: impl Into<Shape>) -> Result<Tensor> {
        match self {
            Self::F32(values) => Tensor::from_vec(values, dims, &Device::Cpu),
            Self::Bf16(values) => Tensor::from_vec(values, dims, &Device::Cpu),
        }
    }
}

/// A tensor's dimensions with another last one.
fn with_last(x: &Tensor, width: usize) -> Vec<usize> {
    let mut dims = x.dims().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = width;
    }
    dims
}
