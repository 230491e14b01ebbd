//! In which precision which products are taken.
//!
//! A model that works in int8 has eight bits in the layers that do most of the work: those of the UNet's and the control networks'
//! levels. What is small or sensitive stays in floats, as do products without weights (attention), texts and autoencoder.

use crate::ops::{Precision, fastest_precision};

/// The floats that this processor multiplies faster. Measured once, so that all models of a process have the same.
pub fn fastest_floats() -> Precision {
    fastest_precision()
}

/// What stays in floats beside layers in `precision`.
pub(crate) fn floats(precision: Precision) -> Precision {
    match precision {
        Precision::F32 | Precision::Bf16 => precision,
        Precision::Int8 => fastest_floats(),
    }
}

/// The name of a model's precision in options and receipts; in int8 with that of the floats beside it.
pub fn precision_name(precision: Precision) -> &'static str {
    match (precision, floats(precision)) {
        (Precision::F32, _) => "f32",
        (Precision::Bf16, _) => "bf16",
        (Precision::Int8, Precision::F32) => "int8+f32",
        (Precision::Int8, _) => "int8+bf16",
    }
}

/// Bytes that so many parameters of a network with such layers take, at most.
pub(crate) fn layer_bytes(precision: Precision, parameters: u64) -> u64 {
    match precision {
        Precision::F32 => parameters.saturating_mul(4),
        Precision::Bf16 => parameters.saturating_mul(2),
        // Those that stay in floats are a twentieth of a UNet of Stable Diffusion 1.5 and a sixth of one of XL.
        Precision::Int8 => parameters.saturating_mul(3) / 2,
    }
}
