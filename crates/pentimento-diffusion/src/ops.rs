//! The engine's primitives: the one door between model code and arithmetic.
//!
//! Shapes: pictures are `[B, C, H, W]`, token sequences `[B, T, C]`, all f32. Weights are bound to a layer when the model is
//! loaded. Model code calls nothing else; what a primitive runs on is decided here.
//! Errors: those of candle, which mean a mistake in the engine, never one of the request.

use crate::{
    error::{LoadError, Result},
    weights::Scope,
};
use candle_core::{D, Tensor};

/// `y = x·Wᵀ + b` over the last dimension.
pub(crate) struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// A layer with a bias.
    pub(crate) fn load(scope: &Scope, inputs: usize, outputs: usize) -> Result<Self, LoadError> {
        let bias = Some(scope.tensor("bias", &[outputs])?);
        Ok(Self { bias, ..Self::without_bias(scope, inputs, outputs)? })
    }

    /// A layer without a bias.
    pub(crate) fn without_bias(scope: &Scope, inputs: usize, outputs: usize) -> Result<Self, LoadError> {
        Ok(Self { weight: scope.tensor("weight", &[outputs, inputs])?, bias: None })
    }

    /// A 1×1 convolution's weights, used on token sequences.
    pub(crate) fn from_conv1x1(scope: &Scope, inputs: usize, outputs: usize) -> Result<Self, LoadError> {
        let weight = scope.tensor("weight", &[outputs, inputs, 1, 1])?;
        let weight = weight.flatten_from(1).map_err(|error| crate::error::defect(&error))?;
        Ok(Self { weight, bias: Some(scope.tensor("bias", &[outputs])?) })
    }

    /// `[.., inputs] -> [.., outputs]`
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut dims = x.dims().to_vec();
        let inputs = dims.pop().unwrap_or_default();
        dims.push(self.weight.dim(0)?);
        // [.., inputs] -> [rows, inputs]
        let rows = x.contiguous()?.reshape(((), inputs))?;
        let y = rows.matmul(&self.weight.t()?)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        y.reshape(dims)
    }
}

/// A square convolution over `[B, C, H, W]`.
pub(crate) struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    stride: usize,
    padding: usize,
}

impl Conv2d {
    /// A convolution with a bias, stride 1 and "same" padding.
    pub(crate) fn load(
        scope: &Scope,
        inputs: usize,
        outputs: usize,
        kernel: usize,
    ) -> Result<Self, LoadError> {
        let bias = Some(scope.tensor("bias", &[outputs])?);
        Ok(Self { bias, ..Self::without_bias(scope, inputs, outputs, kernel)? })
    }

    /// A convolution without a bias, stride 1 and "same" padding.
    pub(crate) fn without_bias(
        scope: &Scope,
        inputs: usize,
        outputs: usize,
        kernel: usize,
    ) -> Result<Self, LoadError> {
        let weight = scope.tensor("weight", &[outputs, inputs, kernel, kernel])?;
        Ok(Self { weight, bias: None, stride: 1, padding: kernel / 2 })
    }

    /// The same weights with another stride and padding.
    pub(crate) fn strided(self, stride: usize, padding: usize) -> Self {
        Self { stride, padding, ..self }
    }

    /// `[B, inputs, H, W] -> [B, outputs, H', W']`
    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.conv2d(&self.weight, self.padding, self.stride, 1, 1)?;
        match &self.bias {
            Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?),
            None => Ok(y),
        }
    }
}

/// Normalisation over groups of channels of `[B, C, ..]`.
pub(crate) struct GroupNorm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    epsilon: f64,
}

impl GroupNorm {
    pub(crate) fn load(
        scope: &Scope,
        groups: usize,
        channels: usize,
        epsilon: f64,
    ) -> Result<Self, LoadError> {
        let (weight, bias) = (scope.tensor("weight", &[channels])?, scope.tensor("bias", &[channels])?);
        Ok(Self { weight, bias, groups, epsilon })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let dims = x.dims().to_vec();
        let (batch, channels) = (dims[0], dims[1]);
        // [B, C, ..] -> [B, groups, C/groups · ..]
        let grouped = x.reshape((batch, self.groups, ()))?;
        let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + self.epsilon)?.sqrt()?)?;
        let normed = normed.reshape((batch, channels, ()))?;
        let scaled = normed.broadcast_mul(&self.weight.reshape((1, channels, 1))?)?;
        scaled.broadcast_add(&self.bias.reshape((1, channels, 1))?)?.reshape(dims)
    }

    /// The norm with SiLU behind it.
    pub(crate) fn forward_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.forward(x)?.silu()
    }
}

/// Normalisation over the last dimension.
pub(crate) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    pub(crate) fn load(scope: &Scope, channels: usize, epsilon: f64) -> Result<Self, LoadError> {
        let (weight, bias) = (scope.tensor("weight", &[channels])?, scope.tensor("bias", &[channels])?);
        Ok(Self { weight, bias, epsilon })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = centred.broadcast_div(&(variance + self.epsilon)?.sqrt()?)?;
        normed.broadcast_mul(&self.weight)?.broadcast_add(&self.bias)
    }
}

/// `softmax(q·kᵀ/√d)·v` per head. `q` is `[B, T, heads·d]`, `k` and `v` are `[B, S, heads·d]`; so is the result `[B, T, heads·d]`.
pub(crate) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    masked_attention(q, k, v, heads, None)
}

/// The same with a mask `[T, S]` that is added to the scores.
pub(crate) fn masked_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let (batch, tokens, width) = q.dims3()?;
    let head_size = width / heads;
    // [B, T, heads·d] -> [B, heads, T, d]
    let split = |x: &Tensor| x.reshape((batch, (), heads, head_size))?.transpose(1, 2)?.contiguous();
    let (q, k, v) = (split(q)?, split(k)?, split(v)?);
    let scores = (q.matmul(&k.t()?)? * (1.0 / (head_size as f64).sqrt()))?;
    let scores = match mask {
        Some(mask) => scores.broadcast_add(mask)?,
        None => scores,
    };
    let mixed = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&v)?;
    // [B, heads, T, d] -> [B, T, heads·d]
    mixed.transpose(1, 2)?.reshape((batch, tokens, width))
}

/// `a · gelu(b)` of the halves `a`, `b` of the last dimension.
pub(crate) fn geglu(x: &Tensor) -> Result<Tensor> {
    let halves = x.chunk(2, D::Minus1)?;
    halves[0].mul(&halves[1].contiguous()?.gelu_erf()?)
}

/// `x · sigmoid(x)`.
pub(crate) fn silu(x: &Tensor) -> Result<Tensor> {
    x.silu()
}

/// The activations that text encoders and small autoencoders name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x · Φ(x)`.
    Gelu,
    /// `x · sigmoid(1.702 x)`.
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
        match self {
            Self::Gelu => x.gelu_erf(),
            // 1.702: Hendrycks & Gimpel 2016, section 2.
            Self::QuickGelu => x.mul(&candle_nn::ops::sigmoid(&(x * 1.702)?)?),
            Self::Relu => x.relu(),
            Self::Silu => x.silu(),
        }
    }
}

/// Nearest-neighbour resize of `[B, C, H, W]`.
pub(crate) fn upsample_nearest(x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    x.upsample_nearest2d(height, width)
}

/// Zeros below and right of `[B, C, H, W]`, one row and one column.
pub(crate) fn pad_right_bottom(x: &Tensor) -> Result<Tensor> {
    x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)
}
